"""`pannier resilience`: who is out and why, how much room limits leave, and an operator's own decisions about both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click
from pannier.shared.errors import NoSuchSidecar, Unreachable
from pannier.shared.messages import (
    BreakerStates,
    LimitState,
    LimitStates,
    Nothing,
    Reset,
    ResetDone,
    SidecarList,
    TakeOut,
)
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    from pannier.shared.bus import Bus

T = TypeVar("T")

WHOLE = "(all of it)"
INBOUND = "(inbound)"


@click.group()
def command() -> None:
    """Show who is out and what room limits leave; take endpoints out and in by hand."""


@command.command()
@name_option
@output_option
def breakers(*, name: str | None, output: str) -> None:
    """List what is out, and what has failed lately. All others are closed."""
    found = _ask(name, lambda bus: bus.request("resilience", "breakers", Nothing(), BreakerStates)).breakers
    if output == "json":
        print_json(found)
        return
    now_ms = time.time() * 1000
    print_table(
        ("SERVICE", "ENDPOINT", "STATE", "SECONDS LEFT", "TIMES", "FAILURES", "WHY"),
        [
            (
                one.service,
                one.endpoint or WHOLE,
                one.state,
                round(max(one.until_ms - now_ms, 0) / 1000, 1) if one.until_ms else None,
                one.times,
                one.failures,
                one.reason,
            )
            for one in found
        ],
    )


@command.command()
@name_option
@output_option
def limits(*, name: str | None, output: str) -> None:
    """List how much of each limit is in use, how much room is left, and where the limit is set."""
    found = _ask(name, lambda bus: bus.request("resilience", "limits", Nothing(), LimitStates)).limits
    if output == "json":
        print_json(found)
        return
    print_table(
        ("SERVICE", "LIMIT", "USED", "OF", "ROOM", "WHY"),
        [(one.service or INBOUND, one.limit, one.used, one.most, _room(one), one.reason) for one in found],
    )


@command.command()
@click.argument("service")
@click.argument("endpoint", required=False)
@name_option
def reset(*, service: str, endpoint: str | None, name: str | None) -> None:
    """Take back in what is out: an endpoint by its address, or all of a service."""
    done = _ask(name, lambda bus: bus.request("resilience", "reset", Reset(service, endpoint), ResetDone)).endpoints
    back = ", ".join(address or WHOLE for address in done)
    talk(f"{service}: {back} back in" if done else f"{service}: nothing was out")


@command.command("open")
@click.argument("service")
@click.argument("endpoint")
@click.option("--for", "duration", default="60s", metavar="DURATION", help="For how long (default: 60s).")
@name_option
def open_(*, service: str, endpoint: str, duration: str, name: str | None) -> None:
    """Take an endpoint out by hand, by its address; it comes back as after any other failure."""
    from pannier.supervisor.request import duration as seconds

    for_ms = round((seconds(duration, "--for") or 0) * 1000)
    _ask(name, lambda bus: bus.request("resilience", "open", TakeOut(service, endpoint, for_ms), Nothing))
    talk(f"{service}: {endpoint} is out for {duration}")


def _room(limit: LimitState) -> int | None:
    return None if limit.used is None else max(limit.most - limit.used, 0)


def _ask(name: str | None, question: Callable[[Bus], Awaitable[T]]) -> T:
    async def asked(bus: Bus) -> T:
        try:
            return await question(bus)
        except Unreachable as error:
            found = await bus.request("supervisor", "sidecar.list", Nothing(), SidecarList)
            if any(sidecar.name == "resilience" and sidecar.state for sidecar in found.sidecars):
                raise
            raise NoSuchSidecar(
                f"{bus.service} runs without resilience, which knows who is out",
                hint=f"pannier sidecar add resilience --name {bus.service}",
            ) from error

    return ask(the_one(name), asked)
