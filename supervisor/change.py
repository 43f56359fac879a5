"""From the plan in force to another one: what is done, in which order, and how that reads. Pure.

Rules:
- The order leaves no gap: who comes is there, with his table, before anybody relies on him; who goes, goes last, and
  his tables after him.
- A process is touched only if it comes, goes, or has another configuration. Its environment (which names the stage) is
  no reason: the next life gets it.
- A line says what an operator can find again: the path in the profile, or in the sidecar's part of it.
- Another number of workers is another process of the proxy, which takes over from the one that runs.
- What cannot change while it runs is said, not done: a port is bound once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from pannier.shared.layers import Assignments, Layer, merge
from pannier.shared.toml_position import Path
from pannier.supervisor.central_table import LISTENERS
from pannier.supervisor.difference import NOTHING, Difference, differences, leaves, within
from pannier.supervisor.plan import Plan, Said

MOST_LINES: Final = 40
"""Differences that are shown of one process."""

SIDECARS: Final = "sidecars"
_SILENT: Final = frozenset({SIDECARS, "description", "extends"})
_BASE: Final = frozenset({"inbound", "outbound", "proxy", "services"})
_WORKERS: Final = ("proxy", "workers")
_CENTRAL: Final = "central"
_AT_START: Final[Mapping[Path, str]] = {
    ("outbound", "port"): "outbound_port",
    ("ready_timeout",): "ready_timeout",
    ("fuse",): "",
    ("central", "port"): "",
    ("central", "gateway", "port"): "",
}
"""Settings that are read when the service starts, and the argument that has the last word there, if there is one."""


class Change(msgspec.Struct, frozen=True):
    """`start`, `configure` and `stop` name sidecars, `base` and `central` say that a table is published anew;
    `proxy`: it is replaced; `lines` is all of it for people."""

    start: tuple[str, ...] = ()
    configure: tuple[str, ...] = ()
    base: bool = False
    central: bool = False
    proxy: bool = False
    stop: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def configured(old: Plan, new: Plan) -> tuple[str, ...]:
    """The sidecars of both plans that have another configuration in the new one."""
    both = [name for name in new.enabled if name in old.enabled]
    return tuple(name for name in both if old.settings[SIDECARS][name] != new.settings[SIDECARS][name])


def change(old: Plan, new: Plan, live: Collection[str] | None = None) -> Change:
    """What turns `old` into `new`. `live` are the sidecars that take a configuration while they run; None: nobody runs
    yet, so nobody knows."""
    start = tuple(name for name in new.enabled if name not in old.enabled)
    stop = tuple(name for name in old.enabled if name not in new.enabled)
    told = configured(old, new)
    base = old.base != new.base
    said = (stated(old.said), stated(new.said))
    lines = [f"+ start {name}" for name in start]
    for name in told:
        how = "change" if live is None else "tell" if name in live else "restart"
        before, after = (within(tree, (SIDECARS, name)) for tree in said)
        found = list(differences(old.settings[SIDECARS][name], new.settings[SIDECARS][name]))
        lines += _spelt_out(f"~ {how} {name}: ", found, before, after)
    rules = [each for each in differences(old.settings, new.settings) if each.path[0] not in _SILENT]
    late = [each for each in rules if each.path in _AT_START]
    workers = [each for each in rules if each.path == _WORKERS]
    rules = [each for each in rules if each not in (*late, *workers)]
    listens = [name for name in LISTENERS if name in new.proxy.held and name not in old.proxy.held]
    proxy = old.proxy.argv != new.proxy.argv or bool(listens)
    leaves_host = [each for each in rules if each.path[0] == _CENTRAL]
    published = [each for each in rules if each.path[0] in _BASE]
    lines += _spelt_out("~ publish base: ", published, *said)
    lines += _spelt_out("~ ", [each for each in rules if each not in (*published, *leaves_host)], *said)
    lines += _spelt_out("~ replace proxy: ", workers if proxy else (), *said)
    lines += [f"~ replace proxy: it listens for {name}, too" for name in listens]
    lines += _spelt_out("~ publish central: ", leaves_host, *said)
    lines += [f"- stop {name}" for name in stop]
    lines += [f"= at the next start: {each}" for each in late if not _overruled(new, each)]
    return Change(start, told, base, old.central != new.central, proxy, stop, tuple(lines))


def stated(said: Said) -> dict[str, Any]:
    """What was said, in one tree; defaults are not in it."""
    nowhere = Assignments({}, "")
    return merge([Layer("below", said.below, nowhere), Layer("live", said.live, nowhere)])[0]


def _spelt_out(prefix: str, found: Sequence[Difference], before: Any, after: Any) -> list[str]:
    """The differences with `prefix`; of many the first, and how many more there are."""
    lines: list[str] = []
    for shown, each in enumerate(found):
        if len(lines) >= MOST_LINES:
            return [*lines, f"{prefix}{len(found) - shown} more"]
        lines += [prefix + text for text in _spelt(each, before, after)]
    return lines


def _spelt(each: Difference, before: Any, after: Any) -> Iterator[str]:
    """A difference in words. A whole table that came or went is spelt out, without what nobody has said about it:
    `before` and `after` are what was said."""
    for table, tree, came in ((each.new, after, True), (each.old, before, False)):
        other = each.old if came else each.new
        if other in (NOTHING, None) and isinstance(table, (dict, list)):
            found = within(tree, each.path)
            for path, value in leaves(table if found is NOTHING else found, each.path):
                yield str(Difference(path, NOTHING, value) if came else Difference(path, value, NOTHING))
            return
    yield str(each)


def _overruled(plan: Plan, each: Difference) -> bool:
    """Whether an option of `run` says it, whatever the profile does."""
    argument = _AT_START[each.path]
    return bool(argument) and getattr(plan.arguments, argument) is not None
