"""`pannier central simulate`: what the controller would do, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.output import output_option, print_json, print_table

if TYPE_CHECKING:
    from pannier.supervisor.central_simulation import Change, Host, Outcome

SYNTHETIC: Final = "synthetic:"
BARE: Final = "production"  # has no [central] of its own, and what one needs beside it
LASTING_MS: Final = 1_000
_HEADINGS: Final = ("TIME", "STATE", "WEIGHT", "REASON", "HOST", "GROUP", "THROTTLED", "QUEUE", "IDLE", "RETURNING")


@click.command("simulate")
@click.argument("trace", metavar="TRACE")
@click.option("-p", "--profile", help="Its numbers (default: those of a bare [central]).")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Change one, as central.leave.calm=5s.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, help="For jitter and noise (default: 1).")
@output_option
def command(*, trace: str, profile: str | None, assignments: tuple[str, ...], seed: int, output: str) -> None:
    """Show when work would leave a host and come back, and why.

    TRACE is a file with a JSON object in each line: "ms", and of "host_pressure", "cgroup_pressure", "throttled",
    "queue_wait_ms", "idle", "returning", "usable", "limit", "forced" what is known; or what `central status -o json
    --follow` printed; or synthetic:peak, synthetic:flapping, synthetic:step, synthetic:central-down.
    """
    from pannier.supervisor.central_simulation import simulate

    outcome = simulate(_host(trace, seed), numbers(profile, assignments), seed)
    if output == "json":
        print_json(asdict(outcome))
        return
    print_table(_HEADINGS, [_row(change) for change in _lasting(outcome)])
    click.echo(f"\n{_summary(outcome)}")


def numbers(profile: str | None, assignments: tuple[str, ...]) -> bytes | None:
    """The controller of a profile, as in table `central`, in msgpack; None for the defaults."""
    if profile is None and not assignments:
        return None
    import msgspec
    from pannier.shared.project import resolve
    from pannier.supervisor.central_table import controller
    from pannier.supervisor.sidecar_types import sidecar_types

    name = profile or BARE
    central = resolve(name, sidecars=sidecar_types(), assignments=assignments).profile.central
    if central is None:
        raise UsageError(f"profile {name} has no [central]", hint="set what it should be: --set central.dwell=1m")
    return msgspec.msgpack.encode(controller(central))


def _host(trace: str, seed: int) -> Host:
    from pannier.supervisor.central_synthetic import NAMES, synthetic
    from pannier.supervisor.central_trace import recorded

    if not trace.startswith(SYNTHETIC):
        return recorded(trace)
    name = trace.removeprefix(SYNTHETIC)
    if name not in NAMES:
        hosts = ", ".join(SYNTHETIC + name for name in NAMES)
        raise UsageError(f"no synthetic host is called {name!r}", hint=f"there are {hosts}")
    return synthetic(name, seed)


def _row(change: Change) -> tuple[str | float | None, ...]:
    moment = change.moment
    return (
        _seconds(change.ms),
        change.state,
        round(change.weight, 2),
        change.reason,
        moment.host_pressure,
        moment.cgroup_pressure,
        moment.throttled,
        moment.queue_wait_ms,
        moment.idle,
        moment.returning,
    )


def _lasting(outcome: Outcome) -> Iterator[Change]:
    """Without what held for a moment only, while the work stayed where it was: noise at a threshold is no news."""
    shown = ""
    ends = [change.ms for change in outcome.changes[1:]] + [outcome.length_ms]
    for change, end in zip(outcome.changes, ends, strict=True):
        if change.state != shown or end - change.ms >= LASTING_MS:
            yield change
        shown = change.state


def _summary(outcome: Outcome) -> str:
    length, shifted, turns = _seconds(outcome.length_ms), _seconds(outcome.shifted_ms), outcome.reversals
    lines = [f"{length}, {shifted} of it shifted, {turns} reversal{'s' * (turns != 1)}"]
    if outcome.starving_ms is None or outcome.pressed_ms is None:
        lines.append("the enter rule never held")
    else:
        lines.append(
            f"pressure from {_seconds(outcome.pressed_ms)} on; "
            f"the enter rule held {_seconds(outcome.starving_ms - outcome.pressed_ms)} later"
        )
        for what, ms in (("first relief", outcome.relief_ms), ("all that may leave", outcome.full_ms)):
            lines.append(f"{what}: " + ("never" if ms is None else f"{_seconds(ms - outcome.starving_ms)} after that"))
    return "\n".join(lines)


def _seconds(ms: int) -> str:
    return f"{ms / 1_000:.2f}s"
