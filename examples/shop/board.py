"""What a stage shows, as lines of the live view: what is in force now, and what has happened. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pannier.shared.messages import BreakerState, TrafficStatus
from stages import Moment
from story import Story
from table import aligned
from watch import Watch

LATEST = 8


def lines(story: Story, watch: Watch, now: float) -> list[str]:
    """All of it, with a blank line behind each part; nothing on a stage that shows nothing."""
    if not story.stage.shows:
        return []
    parts = [
        [f"shown here: {story.stage.shows}"],
        split_lines(watch.traffic),
        fault_lines(watch.traffic, now),
        breaker_lines(watch.breakers, now),
        [f"{story.counted} requests of the front would have been refused until now"] if story.counted else [],
        moment_lines(story.moments),
    ]
    return [line for part in parts if part for line in (*part, "")]


def split_lines(callers: Mapping[str, TrafficStatus]) -> list[str]:
    """Where the calls to a service go that has a canary: the share of each subset, and where the canary stands."""
    rows = []
    for caller, status in callers.items():
        canaries = {canary.service: canary for canary in status.canaries}
        for service in status.services:
            if (canary := canaries.get(service.name)) is None:
                continue
            total = sum(service.split.values()) or 1
            for subset, weight in service.split.items():
                rest = f"{canary.state} {canary.reason}".strip() if subset == canary.subset else ""
                rows.append((f"{caller} → {service.name}/{subset}", f"{100 * weight / total:.0f}%", rest))
    return aligned([("CALLS", "SHARE", "CANARY"), *rows], left=3) if rows else []


def fault_lines(callers: Mapping[str, TrafficStatus], now: float) -> list[str]:
    """The faults that are injected; `now` in seconds since the epoch."""
    rows = [
        (
            f"{caller} → {fault.service}",
            f"{fault.percent:g}%",
            str(fault.abort),
            f"{max(0, (fault.until or now) - now):.1f}",
        )
        for caller, status in callers.items()
        for fault in status.faults
    ]
    return aligned([("CALLS", "FAULT", "STATUS", "SECONDS LEFT"), *rows], left=4) if rows else []


def breaker_lines(callers: Mapping[str, Sequence[BreakerState]], now: float) -> list[str]:
    """Who is out or has failed lately, why, and for how long; `now` in seconds since the epoch."""
    rows = [
        (
            f"{caller} → {one.service} {one.endpoint}",
            one.state,
            f"{max(0, one.until_ms / 1000 - now):.1f}" if one.until_ms else "-",
            one.reason,
        )
        for caller, found in callers.items()
        for one in found
    ]
    return aligned([("CALLS", "STATE", "SECONDS LEFT", "WHY"), *rows], left=4) if rows else []


def moment_lines(moments: Iterable[Moment]) -> list[str]:
    """The latest of what happened, with the seconds since the load began."""
    return [f"{one.at:6.1f} s  {one.service}: {one.text}" for one in list(moments)[-LATEST:]]
