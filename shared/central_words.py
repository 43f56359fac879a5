"""What the Central Mesh does, in words for people: one reason, one sentence, wherever it is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pannier.shared.central import CentralState

_UNITS: Final = {"host_pressure": " %", "cgroup_pressure": " %", "throttled": " %", "queue_wait_ms": " ms"}
INPUT_WORDS: Final = {
    "host_pressure": "CPU pressure of the host",
    "cgroup_pressure": "CPU pressure of the control group",
    "throttled": "throttled periods",
    "run_delay_ms": "run delay of the proxy",
    "queue_wait_ms": "queue wait in the proxy",
    "idle": "idle CPU",
    "returning": "CPU that would come back",
}
_HOT: Final = {
    "host-pressure": "host_pressure",
    "cgroup-pressure": "cgroup_pressure",
    "throttled": "throttled",
    "queue-wait": "queue_wait_ms",
}
_WORDS: Final = {
    "calm": "all is calm",
    "forced": "asked for by hand",
    "central-down": "no Central takes work: none answers, or none did until a moment ago",
    "central-slow": "the Central answers too slowly",
    "no-tokens": "the Central grants no more requests",
    "no-central": "no Central is known",
    "policy-unknown": "the Central does not have this service's policy yet",
    "holding": "neither busy nor calm for long enough, so the weight stays",
    "dwelling": "it would turn round, but the last time was too short a while ago (dwell)",
    "off": "no input can be read on this host",
}
STATE_WORDS: Final = {
    "local": "all work is done here",
    "shifted": "work has left this host",
    "returning": "work comes back",
}


def reason(state: CentralState, thresholds: Mapping[str, float]) -> str:
    """Why the weight is what it is; an input with its value and the threshold that it is above."""
    field = _HOT.get(state.reason)
    if state.reason == "central-down" and (said := [each for each in state.centrals if each.trouble]):
        return "no Central takes work: " + "; ".join(f"{each.address}: {each.trouble}" for each in said)
    if field is None:
        return _WORDS.get(state.reason, state.reason)
    value, threshold = getattr(state.inputs, field), thresholds.get(field)
    shown = "" if value is None else f" {value:.0f}{_UNITS[field]}"
    above = "" if threshold is None else f" (work leaves above {threshold:g}{_UNITS[field]})"
    return f"{INPUT_WORDS[field]}{shown}{above}"


def points(weight: float) -> str:
    """`40 of 100 points`, as exact as it matters."""
    return f"{weight:.0f} of 100 points" if weight == round(weight) or weight >= 1 else f"{weight:.1f} of 100 points"


def saving(state: CentralState) -> str:
    """What the shift spares this host; empty if nothing has left."""
    if state.weight <= 0 and state.moved_rps <= 0:
        return ""
    return f"{state.moved_rps:.0f} requests/s are served elsewhere, which saves {state.saved_cores:.2f} cores"


def summary(state: CentralState, thresholds: Mapping[str, float]) -> str:
    """All of it in one line."""
    if (gateway := state.gateway) is not None:
        granted = max(0.0, gateway.granted_rps)
        room = f"{granted:.0f} of {gateway.capacity:.0f} requests/s are granted to {gateway.hosts} hosts"
        return f"Central: {room}, {gateway.served_rps:.0f} are served"
    parts = [f"Central Mesh: {points(state.weight)} are elsewhere", reason(state, thresholds), saving(state)]
    return "; ".join(filter(None, parts))
