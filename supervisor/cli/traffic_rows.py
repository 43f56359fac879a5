"""What `pannier traffic status` shows, as rows of tables. Pure."""

from __future__ import annotations

from typing import Any, Final

from pannier.shared.messages import CanaryProgress, TrafficFault, TrafficStatus

SUBSETS: Final = ("SERVICE", "SUBSET", "ENDPOINTS", "WEIGHT", "CANARY", "WHY")
EXPERIMENTS: Final = ("CALLS TO", "WHAT", "HOW", "PERCENT", "LEFT")


def subset_rows(found: TrafficStatus) -> list[tuple[Any, ...]]:
    """One row a subset; without a split no weight."""
    canaries = {(one.service, one.subset): one for one in found.canaries}
    rows: list[tuple[Any, ...]] = []
    for service in found.services:
        for subset, endpoints in service.subsets.items():
            weight = service.split.get(subset, 0) if service.split else None
            canary = canaries.get((service.name, subset))
            where, why = (None, None) if canary is None else (_where(canary), _why(canary))
            rows.append((service.name, subset, endpoints, weight, where, why))
    return rows


def experiment_rows(found: TrafficStatus, now: float) -> list[tuple[Any, ...]]:
    """Mirrors, and faults with the time that they still have at `now`, seconds since the epoch."""
    mirrors = [(_subject(one.service, one.route), "mirror", f"to {one.to}", one.percent, None) for one in found.mirrors]
    faults = [
        (_subject(one.service, one.route), "fault", _effect(one), one.percent, _left(one, now)) for one in found.faults
    ]
    return [*mirrors, *faults]


def _subject(service: str, route: str) -> str:
    return service or f"route {route}"


def _where(canary: CanaryProgress) -> str:
    return f"{canary.state}, {canary.weight:g} of {canary.target:g} %"


def _why(canary: CanaryProgress) -> str | None:
    if canary.reason or canary.next_step_in_s is None:
        return canary.reason or None
    judged = "" if canary.step_success is None else f"success {canary.step_success:.1%} so far, "
    return f"{judged}next step in {canary.next_step_in_s:.0f} s"


def _effect(fault: TrafficFault) -> str:
    parts = {"delay": fault.delay, "abort": fault.abort}
    return ", ".join(f"{part} {value}" for part, value in parts.items() if value is not None)


def _left(fault: TrafficFault, now: float) -> str:
    if fault.until is None:
        return "no end"
    return f"{fault.until - now:.0f} s" if fault.until > now else "over"
