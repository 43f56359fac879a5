"""From the plan in force to another one: what is done, in which order, and how that reads. Pure.

Rules:
- The order leaves no gap: who comes is there, with his table, before anybody relies on him; who goes, goes last, and
  his tables after him.
- A process is touched only if it comes, goes, or has another configuration. Its environment (which names the stage) is
  no reason: the next life gets it.
- A line says what an operator can find again: the path in the profile, or in the sidecar's part of it.
- What cannot change while it runs is said, not done: the listeners of the proxy are one a worker, and bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgpack
import msgspec
from pannier.shared.layers import Assignments, Layer, merge
from pannier.shared.toml_position import Path
from pannier.supervisor.difference import NOTHING, Difference, differences, leaves, within
from pannier.supervisor.plan import Plan, Said

MOST_LINES: Final = 40
"""Differences that are shown of one process."""

# Where the supervisor itself carries out what a setting says.
_BASE: Final = frozenset({"inbound", "outbound", "proxy", "services"})
_AT_START: Final[Mapping[Path, str]] = {
    ("proxy", "workers"): "workers",
    ("outbound", "port"): "outbound_port",
    ("ready_timeout",): "ready_timeout",
}
"""Settings that are read when the service starts, and the argument that has the last word there."""


class Change(msgspec.Struct, frozen=True):
    """`start`, `configure` and `stop` name sidecars; `lines` is all of it for people."""

    start: tuple[str, ...] = ()
    configure: tuple[str, ...] = ()
    base: bool = False
    stop: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def configured(old: Plan, new: Plan) -> tuple[str, ...]:
    """The sidecars of both plans that have another configuration in the new one."""
    both = [name for name in new.enabled if name in old.enabled]
    return tuple(name for name in both if _configuration(old, name) != _configuration(new, name))


def change(old: Plan, new: Plan, live: Collection[str] | None = None) -> Change:
    """What turns `old` into `new`. `live` are the sidecars that take a configuration while they run; None: nobody runs
    yet, so nobody knows."""
    start = tuple(name for name in new.enabled if name not in old.enabled)
    stop = tuple(name for name in old.enabled if name not in new.enabled)
    told = configured(old, new)
    base = old.base != new.base
    lines = [f"+ start {name}" for name in start]
    for name in told:
        how = "change" if live is None else "tell" if name in live else "restart"
        found = list(_rules(old, new, name))
        lines += _cut([f"~ {how} {name}: {rule}" for rule in found] or [f"~ {how} {name}"])
    rules = list(differences(old.settings, new.settings))
    said = (stated(old.said), stated(new.said))
    published = [each for each in rules if each.path[0] in _BASE and each.path not in _AT_START]
    lines += _cut([f"~ publish base: {rule}" for each in published for rule in _spelt(each, *said)])
    rest = [each for each in rules if each not in published and each.path not in _AT_START]
    lines += [f"~ {rule}" for each in rest if each.path != ("description",) for rule in _spelt(each, *said)]
    lines += [f"- stop {name}" for name in stop]
    late = [each for each in rules if each.path in _AT_START and not _overruled(new, each)]
    lines += [f"= at the next start: {each}" for each in late]
    return Change(start, told, base, stop, tuple(lines))


def stated(said: Said) -> dict[str, Any]:
    """What was said, in one tree; defaults are not in it."""
    nowhere = Assignments({}, "")
    return merge([Layer("below", said.below, nowhere), Layer("live", said.live, nowhere)])[0]


def _rules(old: Plan, new: Plan, name: str) -> Iterator[str]:
    """The rules that differ for one sidecar, with paths relative to its part of the profile."""
    before, after = (within(stated(plan.said), ("sidecars", name)) for plan in (old, new))
    for each in differences(_configuration(old, name), _configuration(new, name)):
        yield from _spelt(each, before, after)


def _spelt(each: Difference, before: Any, after: Any) -> Iterator[str]:
    """A difference in words. A whole table that came or went is spelt out, without what nobody has said about it."""
    for table, tree, came in ((each.new, after, True), (each.old, before, False)):
        other = each.old if came else each.new
        if other in (NOTHING, None) and isinstance(table, (dict, list)):
            found = within(tree, each.path)
            for path, value in leaves(table if found is NOTHING else found, each.path):
                yield str(Difference(path, NOTHING, value) if came else Difference(path, value, NOTHING))
            return
    yield str(each)


def _configuration(plan: Plan, name: str) -> Any:
    grant = plan.sidecars[name].grant
    return msgpack.unpackb(grant.config) if grant is not None and grant.config else {}


def _overruled(plan: Plan, each: Difference) -> bool:
    """Whether an option of `run` says it, whatever the profile does."""
    return getattr(plan.arguments, _AT_START[each.path]) is not None


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= MOST_LINES:
        return lines
    start = lines[0].partition(":")[0]
    return [*lines[:MOST_LINES], f"{start}: {len(lines) - MOST_LINES} more"]
