"""How `central status` looks: what has left and why, the inputs beside their thresholds, who takes it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import click
from pannier.shared.central import CentralState, CentralStatus, Inputs
from pannier.shared.central_words import INPUT_WORDS, STATE_WORDS, points, reason, saving
from pannier.supervisor.cli.output import table

_BAR: Final = 25
_COLOURS: Final = {"local": "green", "shifted": "yellow", "returning": "cyan"}
_WAYS: Final = {"redirect": "redirected by the kernel", "relay": "relayed by the proxy", "none": "they stay here"}
_SHARES: Final = frozenset({"idle", "returning"})
_PERCENT: Final = frozenset({"host_pressure", "cgroup_pressure", "throttled"})


def lines(found: CentralStatus, *, coloured: bool = False, now_ms: int | None = None) -> Iterator[str]:
    """The lines; `now_ms` since epoch."""
    state = found.state
    if not found.configured:
        yield f"{found.service} has no Central Mesh: add [central] to its profile"
        return
    if found.gateway is not None:
        yield from _central(found, found.gateway, state)
        return
    if state is None:
        yield f"{found.service}: the proxy has said nothing of its Central Mesh yet"
        return
    words = STATE_WORDS.get(state.state, state.state)
    yield f"{found.service}: {click.style(words, fg=_COLOURS.get(state.state), bold=True) if coloured else words}"
    yield f"  weight   {_bar(state.weight)} {points(state.weight)}{_allowed(state)}"
    yield f"  why      {reason(state, found.thresholds)}"
    yield f"  since    {_ago(state.since_ms, round(time.time() * 1000) if now_ms is None else now_ms)}{_turns(state)}"
    yield f"  ways     {_ways(found, state)}"
    if text := saving(state):
        yield f"  saving   {text}"
    if found.forced is not None:
        yield f"  by hand  {found.forced:g} points, until `pannier central return`"
    if state.shedding:
        text = "what is least critical is refused with 503: no Central takes it"
        yield f"  shedding {click.style(text, fg='red') if coloured else text}"
    for text in state.trouble:
        yield f"  trouble  {click.style(text, fg='red') if coloured else text}"
    yield ""
    yield table(*_inputs(found, state.inputs))
    yield ""
    yield from _centrals(found, state)


def _bar(weight: float) -> str:
    full = round(weight / 100 * _BAR)
    return "█" * full + "░" * (_BAR - full)


def _allowed(state: CentralState) -> str:
    return f", tokens allow {state.limit:.0f}" if state.limit < 100 else ""


def _ago(since_ms: int, now_ms: int) -> str:
    if not since_ms:
        return "the start"
    seconds = max(0, now_ms - since_ms) // 1000
    parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), 2)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def _turns(state: CentralState) -> str:
    return f"; turned round {state.reversals} time{'s' * (state.reversals != 1)}" if state.reversals else ""


def _ways(found: CentralStatus, state: CentralState) -> str:
    calls = _WAYS.get(state.way, state.way)
    if found.outbound == "off":
        calls = "they stay here (outbound is off)"
    answers = "come in by way of the Central" if state.inbound and state.weight > 0 else "come in here"
    return f"the app's calls: {calls}; calls to it: {answers}"


def _inputs(found: CentralStatus, inputs: Inputs) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows; amounts have units, so they stand on the right by themselves."""
    headings = ("NOW", "LEAVES ABOVE", "COMES BACK BELOW")
    rows = []
    for field, words in INPUT_WORDS.items():
        threshold = found.thresholds.get(field)
        amounts = (getattr(inputs, field), threshold, None if threshold is None else threshold * found.share)
        cells = zip(amounts, headings, strict=True)
        rows.append((words, *(_amount(field, amount).rjust(max(9, len(heading))) for amount, heading in cells)))
    return ("INPUT", *(heading.rjust(9) for heading in headings)), rows


def _amount(field: str, value: float | None) -> str:
    if value is None:
        return "-"
    if field in _SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:.1f} %" if field in _PERCENT else f"{value:.1f} ms"


def _centrals(found: CentralStatus, state: CentralState) -> Iterator[str]:
    if not state.centrals:
        named = f"those named: {', '.join(found.addresses)}" if found.addresses else "none is named"
        yield f'no Central is known: discovery knows no service "{found.central}", and {named}'
        return
    rows = [
        (
            each.address,
            each.up,
            round(each.rtt_ms, 2) if each.up and each.rtt_ms else None,
            round(each.granted_rps),
            each.trouble or "-",
        )
        for each in state.centrals
    ]
    yield table(("CENTRAL", "UP", "RTT MS", "GRANTED RPS", "TROUBLE"), rows)


def _central(found: CentralStatus, address: str, state: CentralState | None) -> Iterator[str]:
    yield f"{found.service} is a Central, at {address} ({_WHO[found.identity]})"
    gateway = None if state is None else state.gateway
    if gateway is None:
        yield "  nothing is known yet: the proxy has said nothing"
        return
    granted = max(0.0, gateway.granted_rps)  # what was given and taken back is not always 0 to the last digit
    share = granted / gateway.capacity * 100 if gateway.capacity else 0.0
    yield f"  granted  {_bar(share)} {granted:.0f} of {gateway.capacity:.0f} requests/s"
    yield f"  served   {gateway.served_rps:.0f} requests/s for {gateway.hosts} host{'s' * (gateway.hosts != 1)}"
    if gateway.strangers:
        yield f"  refused  {gateway.strangers} connections of whoever is no host of this Central"
    if gateway.pressed:
        yield "  pressed  it has too little itself, and grants less"
    for text in state.trouble if state is not None else ():
        yield f"  trouble  {text}"


_WHO: Final = {
    "certificates": "hosts show certificates",
    "plain": "hosts in the networks that its profile names",
    "loopback": "for this host alone: neither certificates nor networks are named",
}
