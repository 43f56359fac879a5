"""Which changes of the Central Mesh an operator wants to know of, and in which words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pannier.shared.central import CentralSeen, CentralState
from pannier.shared.central_words import points, reason

_LOCAL = "local"
_RETURNING = "returning"
_WORTH_TELLING = 1.0  # points


class Told(NamedTuple):
    """An event: its kind, the text, and how grave it is."""

    kind: str
    text: str
    severity: str


def happenings(before: CentralState, now: CentralState, thresholds: Mapping[str, float]) -> Iterator[Told]:
    """What has happened between two looks. Before the first one all is local, and nobody knows of any Central."""
    if now.state != before.state:
        yield _turned(before, now, thresholds)
    known = {each.address: each for each in before.centrals}
    for each in now.centrals:
        old = known.get(each.address)
        if old is not None and old.up != each.up:
            yield _came_back(each) if each.up else _went(each, now)
    shedding = now.shedding and now.gateway is None  # a Central has nowhere to go, and says that it is pressed
    if shedding and not before.shedding:
        text = "this host starves and no Central takes its work: what is least critical is refused (503)"
        yield Told("central.shedding", text, "error")
    elif before.shedding and before.gateway is None and not now.shedding:
        yield Told("central.shedding_over", "nothing is refused any more for want of a Central", "info")
    for text in now.trouble:
        if text not in before.trouble:
            yield Told("central.trouble", text, "warning")
    pressed = now.gateway is not None and now.gateway.pressed
    if pressed != (before.gateway is not None and before.gateway.pressed):
        text = "this Central is under pressure itself, and grants less" if pressed else "this Central has room again"
        yield Told("central.pressed" if pressed else "central.relieved", text, "warning" if pressed else "info")


def is_news(before: CentralState | None, now: CentralState) -> bool:
    """Whether listeners of the topic are told."""
    if before is None or (before.state, before.reason, before.forced) != (now.state, now.reason, now.forced):
        return True
    up = [(each.address, each.up) for each in before.centrals] != [(each.address, each.up) for each in now.centrals]
    return up or before.shedding != now.shedding or abs(before.weight - now.weight) >= _WORTH_TELLING


def _turned(before: CentralState, now: CentralState, thresholds: Mapping[str, float]) -> Told:
    why = reason(now, thresholds)
    if now.state == _LOCAL:
        return Told("central.returned", f"all work is done here again: {why}", "info")
    if now.state == _RETURNING:
        return Told("central.returning", f"work comes back, from {points(before.weight)}: {why}", "info")
    way = f"by {now.way}" if now.way != "none" else "inbound alone" if now.inbound else "once there is a way"
    again = " again" if before.state == _RETURNING else ""
    return Told("central.shifted", f"work leaves this host{again}, {way}: {why}", "warning")


def _went(central: CentralSeen, now: CentralState) -> Told:
    others = sum(each.up for each in now.centrals)
    then = f"{others} others are up" if others > 1 else "another one is up" if others else "all work stays here"
    why = f" ({central.trouble})" if central.trouble else ""
    return Told("central.down", f"the Central {central.address} is down{why}: {then}", "warning" if others else "error")


def _came_back(central: CentralSeen) -> Told:
    return Told("central.up", f"the Central {central.address} answers", "info")
