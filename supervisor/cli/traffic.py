"""`pannier traffic`: changes where calls go while they are made, and shows where they go.

Each change is a few settings of the live layer, so it is checked, shown by `profile show --origin` and undone like any
other. Settings are merged with those of the profile below, table by table; that is why a split names every subset that
there is, and a shift all its fields.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from pannier.shared.errors import NoSuchSidecar, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.explain import near_match
from pannier.shared.messages import (
    Canaries,
    CanaryProgress,
    Changed,
    LiveChange,
    LiveReset,
    LiveSetting,
    Nothing,
    SidecarList,
    TrafficStatus,
)
from pannier.supervisor.cli.output import F, output_option, print_json, print_table, spoken, talk
from pannier.supervisor.cli.services import ask, name_option, the_one
from pannier.supervisor.cli.traffic_rows import EXPERIMENTS, SUBSETS, experiment_rows, subset_rows

if TYPE_CHECKING:
    from pannier.shared.bus import Bus

SERVICES: Final = ("sidecars", "traffic", "services")
CHANGED_HERE: Final = ("split", "shift", "mirror", "fault")
PATIENCE: Final = 20.0
"""Seconds for a change: every sidecar that takes part has 10."""
LOOK_EVERY: Final = 0.25


def dry_run_option(command: F) -> F:
    """Adds `--dry-run` as the argument `dry_run`."""
    return click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")(command)


@click.group()
def command() -> None:
    """Split, shift and mirror calls, inject faults, and see where calls go."""


@command.command()
@click.argument("service")
@click.argument("weights", nargs=-1, required=True, metavar="SUBSET=WEIGHT...")
@dry_run_option
@name_option
def split(*, service: str, weights: tuple[str, ...], dry_run: bool, name: str | None) -> None:
    """Share the calls to a service among its subsets; one that is not named gets none. It ends a shift."""
    given = dict(map(_weight, weights))
    known = _subsets(ask(the_one(name), _status), service)
    for subset in given:
        _known(subset, known, f"{service} has no subset")
    whole = {**dict.fromkeys(known, 0), **given}
    _change(name, [_setting(service, "split", whole), _setting(service, "shift")], dry_run=dry_run)
    if not dry_run and (canary := ask(the_one(name), lambda bus: _canary(bus, service))) is not None:
        talk(f"the profile has a shift of its own, which is {canary.state}: {service}/{canary.subset} keeps its weight")


@command.command()
@click.argument("target", metavar="[SERVICE/]SUBSET")
@click.argument("step", metavar="+POINTS")
@click.option("--every", default="30s", metavar="DURATION", help="How long a step lasts (default: 30s).")
@click.option(
    "--abort-on",
    default="success<99%",
    metavar="CONDITION",
    help="When to take everything back (default: 'success<99%').",
)
@click.option("--until", default=100, metavar="PERCENT", help="Where to end (default: 100).")
@click.option("--min-requests", default=20, metavar="N", help="How many requests judge a step (default: 20).")
@click.option("--wait", is_flag=True, help="Return when it is done, with 1 if it was aborted.")
@click.option("--timeout", default="1h", metavar="DURATION", help="How long to wait (default: 1h).")
@dry_run_option
@name_option
def shift(
    *,
    target: str,
    step: str,
    every: str,
    abort_on: str,
    until: int,
    min_requests: int,
    wait: bool,
    timeout: str,
    dry_run: bool,
    name: str | None,
) -> None:
    """Shift calls to a subset step by step, and all back if it fails them."""
    from pannier.supervisor.request import duration

    patience = duration(timeout, "--timeout") or 0.0
    if re.fullmatch(r"\+[0-9]{1,3}%?", step) is None:
        raise UsageError(f"{step!r} is no step", hint="write the percentage points of each step as +10")
    settings = {
        "step": int(step.strip("+%")),
        "every": every,
        "until": until,
        "abort_on": "".join(abort_on.split()),
        "min_requests": min_requests,
        "started": time.time(),
    }
    service, subset = _target(ask(the_one(name), _status), target)
    _change(name, [_setting(service, "shift", {"to": subset, **settings})], dry_run=dry_run)
    if wait and not dry_run:
        _wait(the_one(name), service, subset, patience)


@command.command()
@click.argument("service")
@click.option("--to", required=True, metavar="TARGET", help="Where the copies go: SERVICE or SERVICE/SUBSET.")
@click.option("--percent", default=100.0, metavar="PERCENT", help="Of how many calls (default: 100).")
@dry_run_option
@name_option
def mirror(*, service: str, to: str, percent: float, dry_run: bool, name: str | None) -> None:
    """Send copies of the calls to a service elsewhere; what comes back is dropped."""
    _change(name, [_setting(service, "mirror", {"to": to, "percent": percent})], dry_run=dry_run)


@command.command()
@click.argument("service")
@click.option("--delay", metavar="DURATION", help="Hold a call back for so long.")
@click.option("--abort", type=int, metavar="STATUS", help="Answer it with this status.")
@click.option("--percent", default=100.0, metavar="PERCENT", help="How many calls it strikes (default: 100).")
@click.option("--for", "period", required=True, metavar="DURATION", help="When it ends by itself.")
@dry_run_option
@name_option
def fault(
    *,
    service: str,
    delay: str | None,
    abort: int | None,
    percent: float,
    period: str,
    dry_run: bool,
    name: str | None,
) -> None:
    """Delay or abort calls to a service for some time, where the stage allows it."""
    from pannier.supervisor.request import duration

    if delay is None and abort is None:
        raise UsageError("a fault delays or aborts", hint="give --delay, --abort, or both")
    duration(delay, "--delay")
    until = time.time() + (duration(period, "--for") or 0.0)
    settings = {"delay": delay, "abort": abort, "percent": percent, "until": until}
    given = {key: value for key, value in settings.items() if value is not None}
    _change(name, [_setting(service, "fault", given)], dry_run=dry_run)


@command.command()
@click.argument("service", required=False)
@dry_run_option
@name_option
def undo(*, service: str | None, dry_run: bool, name: str | None) -> None:
    """Take back what these commands changed, for one service or all: the profile's own settings hold again."""

    by = spoken()

    async def undone(bus: Bus) -> Changed:
        services = [service] if service is not None else [one.name for one in (await _status(bus)).services]
        paths = [[*SERVICES, one, kind] for one in services for kind in CHANGED_HERE]
        if not paths:
            return Changed([])
        return await bus.request(
            "supervisor", "live.reset", LiveReset(paths, dry_run, by=by), Changed, timeout=PATIENCE
        )

    _tell(ask(the_one(name), undone), dry_run=dry_run)


@command.command()
@name_option
@output_option
def status(*, name: str | None, output: str) -> None:
    """Show splits, canaries and why they stand where they do, mirrors, and faults with the time they still have."""
    found = ask(the_one(name), _status)
    if output == "json":
        print_json(found)
        return
    print_table(SUBSETS, subset_rows(found))
    if experiments := experiment_rows(found, time.time()):
        click.echo()
        print_table(EXPERIMENTS, experiments)


def _weight(text: str) -> tuple[str, int]:
    subset, equals, weight = text.partition("=")
    if not (subset and equals and weight.isascii() and weight.isdigit()):
        raise UsageError(f"{text!r} is no weight", hint="write each as SUBSET=WEIGHT: v1=90 v2=10")
    return subset, int(weight)


def _setting(service: str, kind: str, value: dict[str, Any] | None = None) -> LiveSetting:
    return LiveSetting([*SERVICES, service, kind], None if value is None else msgspec.msgpack.encode(value))


def _target(status: TrafficStatus, target: str) -> tuple[str, str]:
    """The service and the subset that are meant; a subset alone is enough where only one service has it."""
    service, slash, subset = target.partition("/")
    if slash:
        _known(subset, _subsets(status, service), f"{service} has no subset")
        return service, subset
    owners = [one.name for one in status.services if target in one.subsets]
    if len(owners) > 1:
        raise UsageError(
            f"several services have a subset {target}",
            hint=f"write one of: {', '.join(f'{owner}/{target}' for owner in owners)}",
        )
    if not owners:
        _known(target, {subset: 0 for one in status.services for subset in one.subsets}, "no service has a subset")
    return owners[0], target


def _subsets(status: TrafficStatus, service: str) -> dict[str, int]:
    known = {one.name: one.subsets for one in status.services if one.subsets}
    _known(service, known, "no subsets are known of")
    return known[service]


def _known(name: str, known: Iterable[str], complaint: str) -> None:
    if name in known:
        return
    near = near_match(name, known)
    there_are = ", ".join(known)
    raise UsageError(
        f"{complaint} {name[:80]}",
        hint=f"did you mean {near}?"
        if near
        else f"there are: {there_are}"
        if there_are
        else "subsets are named in the profile: [sidecars.traffic.services.NAME.subsets]",
    )


def _change(name: str | None, settings: list[LiveSetting], *, dry_run: bool) -> None:
    by = spoken()

    async def changed(bus: Bus) -> Changed:
        await _status(bus)  # settings of a sidecar that does not run would make it run
        return await bus.request(
            "supervisor", "live.set", LiveChange(settings, dry_run, by=by), Changed, timeout=PATIENCE
        )

    _tell(ask(the_one(name), changed), dry_run=dry_run)


def _tell(changed: Changed, *, dry_run: bool) -> None:
    if dry_run:
        click.echo("\n".join(changed.lines) or "nothing would change")
        return
    for line in changed.lines:
        talk(line)
    if not changed.lines:
        talk("nothing has changed")


async def _status(bus: Bus) -> TrafficStatus:
    try:
        return await bus.request("traffic", "status", Nothing(), TrafficStatus)
    except Unreachable as error:
        found = await bus.request("supervisor", "sidecar.list", Nothing(), SidecarList)
        if any(sidecar.name == "traffic" and sidecar.state for sidecar in found.sidecars):
            raise
        raise NoSuchSidecar(
            f"{bus.service} runs without traffic, which decides where calls go",
            hint=f"pannier sidecar add traffic --name {bus.service}",
        ) from error


def _wait(name: str, service: str, subset: str, timeout: float) -> None:
    canary = ask(name, lambda bus: _ended(bus, service, subset, timeout))
    if canary is None:
        raise PannierError(f"the shift of {service} was taken back", hint="pannier traffic status")
    if canary.state == "aborted":
        raise PannierError(
            f"the shift to {service}/{subset} was aborted: {canary.reason}",
            hint=f"all calls go where they went before; when {subset} is mended, give the same command again",
        )


async def _canary(bus: Bus, service: str) -> CanaryProgress | None:
    found = await bus.request("traffic", "canaries", Nothing(), Canaries)
    return next((one for one in found.canaries if one.service == service), None)


async def _ended(bus: Bus, service: str, subset: str, timeout: float) -> CanaryProgress | None:
    """The canary when it is over; None if it is gone. Traffic is asked, since what is retained of the topic may still
    be about an earlier shift; that it does not answer while it is restarted is no end."""
    import trio

    said = None
    with trio.move_on_after(timeout):
        while True:
            try:
                canary = await _canary(bus, service)
            except (Unreachable, TimedOut):
                if not bus.statistics().connected:
                    raise
                await trio.sleep(LOOK_EVERY)
                continue
            if canary is None or canary.subset != subset:
                return None
            if (canary.state, canary.weight) != said:
                said = canary.state, canary.weight
                why = f": {canary.reason}" if canary.reason else ""
                talk(f"{service}/{subset} {canary.state} at {canary.weight:g} %{why}")
            if canary.state in ("done", "aborted"):
                return canary
            await trio.sleep(LOOK_EVERY)
    raise TimedOut(f"the shift to {service}/{subset} was not over within {timeout:g} s", hint="pannier traffic status")
