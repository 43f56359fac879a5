"""What a request to change a running service comes to over the plan in force, as what was said. Pure.

Data from the wire is plain here and within the limits of a configuration; whether it can hold is judged with the whole,
when a plan is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

import msgspec
from pannier.shared import framing
from pannier.shared.errors import NoSuchSidecar, UsageError
from pannier.shared.explain import dotted
from pannier.shared.messages import LiveSetting, Use
from pannier.supervisor import live
from pannier.supervisor.difference import NOTHING, leaves
from pannier.supervisor.live import Setting
from pannier.supervisor.plan import Arguments, Plan, Said

SIDECARS: Final = "sidecars"


class Wish(NamedTuple):
    """What a request comes to over some plan; `notes` are lines about what no difference of plans shows."""

    arguments: Arguments
    said: Said
    notes: tuple[str, ...] = ()


def used(plan: Plan, request: Use) -> Wish:
    """Another profile under the live layer, less what of that only made sense over the old one. Raises FramingError."""
    below = _plain(request.settings, dict)
    layer, dropped = live.carried(plan.said.live, plan.said.below, below)
    return Wish(
        msgspec.structs.replace(
            plan.arguments,
            profile=request.profile,
            assignments=tuple(request.assignments),
            source=request.source,
        ),
        Said(below, layer),
        tuple(f"- drop the live settings of {name}" for name in dropped),
    )


def laid(plan: Plan, settings: Iterable[Setting]) -> Wish:
    """The live layer with these settings over it."""
    return Wish(plan.arguments, Said(plan.said.below, live.changed(plan.said.live, settings, plan.said.below)))


def setting(plan: Plan, given: LiveSetting) -> Setting:
    """One setting from the wire. Raises NoSuchSidecar for one of a sidecar that does not run: it would make it run."""
    path = tuple(given.path)
    if not path:
        raise UsageError("a setting needs a path", hint="pannier profile set proxy.timeouts.request=5s")
    value = None if given.value is None else _plain(given.value, cast("type[Any]", Any))
    if value is None:
        return path, NOTHING
    inside = path[0] == SIDECARS and len(path) > 1 and not isinstance(value, bool)
    if inside and path[1] in plan.sidecars and path[1] not in plan.enabled:
        raise NoSuchSidecar(
            f"{dotted(path)}: the sidecar {path[1]} does not run here", hint=f"pannier sidecar add {path[1]}"
        )
    return path, value


def count(said: Said) -> int:
    """The settings of the live layer."""
    return sum(1 for path, _ in leaves(said.live) if path)


def _plain(body: bytes, type_: type[Any]) -> Any:
    """Plain data from the wire, within the limits of a configuration. Raises FramingError."""
    return framing.decode(body, type_, most=framing.MAX_CONFIG_ITEMS)
