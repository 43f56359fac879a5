"""`pannier stat`: requests, success rate and latency by route, as the observability sidecar counts them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click
import msgspec
from pannier.shared.central import CentralStatus
from pannier.shared.central_words import summary
from pannier.shared.errors import NoSuchSidecar, PannierError, Unreachable
from pannier.shared.messages import Nothing, SidecarList, StatReply, StatRequest
from pannier.supervisor.cli.output import output_option, print_json, print_table
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    from pannier.shared.bus import Bus


@click.command()
@name_option
@click.option("-w", "--window", default="10s", metavar="DURATION", help="Over how long (default: 10s).")
@output_option
def command(*, name: str | None, window: str, output: str) -> None:
    """Show requests, success rate and latency by route."""
    from pannier.supervisor.request import duration

    request = StatRequest(duration(window, "--window") or 10.0)
    reply, central = ask(the_one(name), lambda bus: _asked(bus, request))
    state = None if central is None else central.state
    if output == "json":
        print_json(reply if state is None else {**msgspec.to_builtins(reply), "central": state})
        return
    print_table(
        ("SERVICE", "ROUTE", "DIRECTION", "REQUESTS", "SUCCESS %", "RPS", "P50 MS", "P95 MS", "P99 MS"),
        [
            (
                row.service,
                row.route or "-",
                row.direction,
                row.requests,
                None if row.success_rate is None else round(100 * row.success_rate, 2),
                round(row.rps, 1),
                _rounded(row.p50_ms),
                _rounded(row.p95_ms),
                _rounded(row.p99_ms),
            )
            for row in reply.rows
        ],
    )
    if central is not None and state is not None:
        click.echo(f"\n{summary(state, central.thresholds)}")


async def _asked(bus: Bus, request: StatRequest) -> tuple[StatReply, CentralStatus | None]:
    reply = await _counted(bus, request)
    with suppress(PannierError):  # a supervisor of a release before knows no Central Mesh
        return reply, await bus.request("supervisor", "central.status", Nothing(), CentralStatus)
    return reply, None


async def _counted(bus: Bus, request: StatRequest) -> StatReply:
    try:
        return await bus.request("observability", "stat", request, StatReply)
    except Unreachable as error:
        found = await bus.request("supervisor", "sidecar.list", Nothing(), SidecarList)
        if any(sidecar.name == "observability" and sidecar.state for sidecar in found.sidecars):
            raise
        raise NoSuchSidecar(
            f"{bus.service} runs without observability, which counts requests",
            hint=f"pannier sidecar add observability --name {bus.service}",
        ) from error


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
