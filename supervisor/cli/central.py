"""`pannier central`: a Central, to which work goes from hosts that have nothing left to give. With a command: what
leaves a host, why, and by hand more or less of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from pannier.shared.central import CentralForce, CentralState, CentralStatus
from pannier.shared.central_words import points, reason, summary
from pannier.shared.errors import UsageError
from pannier.shared.messages import Nothing
from pannier.supervisor.cli.central_fleet import command as fleet
from pannier.supervisor.cli.central_simulate import command as simulate
from pannier.supervisor.cli.central_view import lines
from pannier.supervisor.cli.output import output_option, print_json, talk
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    from pannier.shared.bus import Bus

PROFILE: Final = "central"
LOOK_SECONDS: Final = 0.5
_HEARD_WITHIN: Final = 2.0  # seconds for the proxy to do what was asked
_STUCK: Final = frozenset({"central-down", "central-slow", "no-central", "no-tokens", "policy-unknown"})


@click.group(invoke_without_command=True)
@click.option("-n", "--name", help=f"The Central's name (default: {PROFILE}).")
@click.option("-p", "--profile", help=f"The stage (default: {PROFILE}).")
@click.option("--listen", metavar="HOST:PORT", help="Where hosts reach it (default: 0.0.0.0:15090).")
@click.option("--advertise", metavar="IP", help="Under which address they do (default: this host's address).")
@click.option("--capacity", type=click.IntRange(1), metavar="N", help="Requests a second that it takes on (20000).")
@click.option("--workers", type=click.IntRange(1, 16), help="Threads of the proxy (default: one a core, to 2).")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Change one setting.")
@click.option("-f", "--file", type=click.Path(exists=True, dir_okay=False), help="A project's settings over it.")
@click.option("--for", "duration", metavar="DURATION", help="End by itself after that.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    name: str | None,
    profile: str | None,
    listen: str | None,
    advertise: str | None,
    capacity: int | None,
    workers: int | None,
    assignments: Sequence[str],
    file: str | None,
    duration: str | None,
) -> int | None:
    """Run a Central in the foreground: hosts that have nothing left to give send their calls here. With a COMMAND: see
    and steer what leaves a host."""
    given = (name, profile, listen, advertise, capacity, workers, assignments, file, duration)
    if context.invoked_subcommand is not None:
        if any(given):
            raise UsageError(
                "these options are for a Central that starts",
                hint=f"pannier central {context.invoked_subcommand} --help",
            )
        return None
    from pannier.supervisor.cli.run import run

    return run(
        {
            "name": name or PROFILE,
            "profile": profile or PROFILE,
            "workers": workers,
            "assignments": (*_settings(listen, advertise, capacity), *assignments),
            "file": file,
            "duration": duration,
            "alone": True,
        }
    )


def _settings(listen: str | None, advertise: str | None, capacity: int | None) -> list[str]:
    from pannier.supervisor.ports import split_address

    found = ["central.gateway={}"]  # also of a profile that has none
    if listen is not None:
        host, port = split_address(listen)
        shown = f"[{host}]" if ":" in host else host
        found += [f'central.gateway.host="{shown}"', f"central.gateway.port={port}"]
    if advertise is not None:
        found.append(f'central.advertise="{advertise}"')
    if capacity is not None:
        found.append(f"central.gateway.capacity={capacity}")
    return found


command.add_command(simulate)
command.add_command(fleet)


@command.command()
@name_option
@output_option
@click.option(
    "--follow", is_flag=True, help="Go on until interrupted; with -o json a line for each change, and its time (ms)."
)
def status(*, name: str | None, output: str, follow: bool) -> None:
    """Show what leaves this host and why: inputs with their thresholds, weight, ways, and the Centrals."""
    service = the_one(name)
    if not follow:
        found = ask(service, _status)
        if output == "json":
            print_json(found)
        else:
            click.echo("\n".join(lines(found, coloured=_coloured())))
        return
    with suppress(KeyboardInterrupt):
        ask(service, lambda bus: _follow(bus, output))


async def _follow(bus: Bus, output: str) -> None:
    import trio

    shown: CentralStatus | None = None
    drawn = output != "json" and sys.stdout.isatty()
    while True:
        found = await _status(bus)
        if drawn:
            click.echo("\x1b[H\x1b[2J" + "\n".join(lines(found, coloured=_coloured())))
        elif shown is None or found != shown:
            click.echo(_stamped(found) if output == "json" else _line(found))
            sys.stdout.flush()
        shown = found
        await trio.sleep(LOOK_SECONDS)


def _stamped(found: CentralStatus) -> str:
    """JSON of it in a line, with the milliseconds since epoch: `central simulate` reads when it was."""
    import msgspec

    stamped = {"ms": time.time_ns() // 1_000_000, **msgspec.to_builtins(found)}
    return msgspec.json.encode(stamped).decode()


def _line(found: CentralStatus) -> str:
    """All of it in a line, for a log."""
    state = found.state
    return f"{found.service}: {'nothing is known' if state is None else summary(state, found.thresholds)}"


@command.command()
@click.argument("weight", metavar="POINTS", type=click.FloatRange(0, 100))
@name_option
def shift(*, weight: float, name: str | None) -> int:
    """Send so many of 100 points of the work away, now, whatever the host has left; `return` ends that."""
    return ask(the_one(name), lambda bus: _forced(bus, weight))


@command.command("return")
@name_option
def return_(*, name: str | None) -> int:
    """End what `shift` asked for: the work comes back if the host is calm, and else stays where it has to."""
    return ask(the_one(name), lambda bus: _forced(bus, None))


async def _forced(bus: Bus, weight: float | None) -> int:
    before = await bus.request("supervisor", "central.force", CentralForce(weight), CentralStatus)
    found = await _until(bus, lambda status: status.state is not None and _heard(status.state, weight))
    state, old = found.state, before.state
    if state is None:
        talk(f"{found.service}: it is noted, but the proxy says nothing of a Central Mesh yet")
        return 1
    was = f", {points(old.weight)} before" if old is not None else ""
    why = reason(state, found.thresholds)
    if weight is None and before.forced is None:
        talk(f"{found.service}: nothing was asked for by hand; {points(state.weight)} are elsewhere: {why}")
        return 0
    if weight is not None and state.weight < weight:
        talk(f"{found.service}: {points(state.weight)} instead of {weight:g} are elsewhere{was}: {why}")
        return int(state.reason in _STUCK)
    talk(f"{found.service}: {points(state.weight)} are elsewhere{was}: {why}")
    return 0


def _heard(state: CentralState, weight: float | None) -> bool:
    """Whether the proxy has done what was asked, or cannot: it may still stand where an asking before has put it."""
    if weight is None or not state.forced:
        return state.forced is (weight is not None)
    return state.weight == weight or state.reason in _STUCK


async def _until(bus: Bus, condition: Callable[[CentralStatus], bool]) -> CentralStatus:
    """How it stands once the proxy has done it, or has not for so long."""
    import trio

    deadline = trio.current_time() + _HEARD_WITHIN
    while True:
        found = await _status(bus)
        if condition(found) or trio.current_time() > deadline:
            return found
        await trio.sleep(0.1)


def _status(bus: Bus) -> Awaitable[CentralStatus]:
    return bus.request("supervisor", "central.status", Nothing(), CentralStatus)


def _coloured() -> bool:
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()
