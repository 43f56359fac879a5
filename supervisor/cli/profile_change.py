"""`pannier profile use|promote|confirm|set|reset|diff`: changes what a running service is governed by, and compares.

Files and variables are read here, where their errors have places; the supervisor gets the outcome as data and checks it
once more. What a change does is said in the same lines before it (`--dry-run`) and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.output import talk
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    import msgspec
    from pannier.shared.messages import Changed, LiveSetting, ProfileInForce
    from pannier.shared.project import Resolved
    from pannier.supervisor.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])

PATIENCE: Final = 90.0
"""Seconds for a change: each sidecar that starts, or starts again, has 10 to become ready."""
LIVE: Final = "live"

_set_option = click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Lay one value over it.")


def _change_options(command: F) -> F:
    dry_run = click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
    confirm = click.option(
        "--confirm",
        metavar="DURATION",
        help="Take it back after so long unless `profile confirm` comes; 0s = never (default: as the profile says).",
    )
    return name_option(dry_run(confirm(command)))


@click.command()
@click.argument("profile", metavar="NAME")
@_set_option
@_change_options
def use(*, profile: str, assignments: tuple[str, ...], name: str | None, dry_run: bool, confirm: str | None) -> None:
    """Put another profile under a running service, with the project file and the settings that it was started with.

    Only what differs is touched. All of it is in force afterwards or, if a sidecar does not come up, nothing.
    """
    service = the_one(name)
    changed = _use(service, _in_force(service), profile, assignments, confirm=confirm, dry_run=dry_run)
    _tell(service, changed, dry_run=dry_run)


@click.command()
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@_set_option
@_change_options
def promote(
    *, old: str, new: str, assignments: tuple[str, ...], name: str | None, dry_run: bool, confirm: str | None
) -> None:
    """Show what differs, and take a running service from profile A to profile B; refused if it does not run A."""
    service = the_one(name)
    found = _in_force(service)
    if found.profile != old:
        hint = f"pannier profile promote {found.profile} {new} --name {service}"
        raise UsageError(f"{service} runs {found.profile}, not {old}", hint=hint)
    _tell(service, _use(service, found, new, assignments, confirm=confirm, dry_run=True), dry_run=True)
    if not dry_run:
        _tell(service, _use(service, found, new, assignments, confirm=confirm, dry_run=False), dry_run=False)


@click.command()
@name_option
def confirm(*, name: str | None) -> None:
    """Keep the change that waits for it."""
    service = the_one(name)
    _ask(service, "profile.confirm", None)
    talk(f"{service}: the change stands")


@click.command("set")
@click.argument("assignments", nargs=-1, required=True, metavar="PATH=VALUE...")
@_change_options
def set_(*, assignments: tuple[str, ...], name: str | None, dry_run: bool, confirm: str | None) -> None:
    """Change settings of a running service, over everything that its profile says, until it stops."""
    from pannier.shared.messages import LiveChange

    service = the_one(name)
    request = LiveChange(live_settings(assignments), dry_run, _seconds(confirm))
    _tell(service, _ask(service, "live.set", request), dry_run=dry_run)


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@_change_options
def reset(*, paths: tuple[str, ...], name: str | None, dry_run: bool, confirm: str | None) -> None:
    """Take back what was set, added and removed by hand: everything under these paths, or all of it."""
    from pannier.shared.messages import LiveReset
    from pannier.supervisor.sidecar_types import sidecar_modules

    service = the_one(name)
    known = sidecar_modules()
    split = [path.split(".") for path in paths]
    request = LiveReset(
        [["sidecars", *path] if path[0] in known else path for path in split], dry_run, _seconds(confirm)
    )
    _tell(service, _ask(service, "live.reset", request), dry_run=dry_run)


@click.command()
@click.argument("profiles", nargs=-1, metavar="A B | live")
@name_option
def diff(*, profiles: tuple[str, ...], name: str | None) -> None:
    """Show which processes and rules differ.

    `A B` compares two profiles, with -n as that service would run them; `live` compares the profile of a running
    service with what holds there.
    """
    if profiles == (LIVE,):
        lines: Sequence[str] = _ask(the_one(name), "live.diff", None).lines
    elif len(profiles) == 2:
        from pannier.supervisor.change import change

        found = None if name is None else _in_force(the_one(name))
        lines = change(_planned(profiles[0], found), _planned(profiles[1], found)).lines
    else:
        raise click.UsageError("name two profiles, or `live`")
    for line in lines:
        click.echo(line)
    if not lines:
        talk("nothing differs")


COMMANDS: Final = (use, promote, confirm, set_, reset, diff)


def _use(
    service: str,
    found: ProfileInForce,
    profile: str,
    assignments: Sequence[str],
    *,
    confirm: str | None,
    dry_run: bool,
) -> Changed:
    import msgspec
    from pannier.shared.messages import Use

    every = [*found.assignments, *assignments]
    resolved = _resolve(profile, found, every)
    settings = msgspec.msgpack.encode(resolved.data)
    return _ask(service, "profile.use", Use(_stem(profile), settings, every, dry_run, _seconds(confirm)))


def _resolve(profile: str, found: ProfileInForce | None, assignments: Sequence[str]) -> Resolved:
    """The profile with the layers that a service was started with, else with those of this folder."""
    import os

    from pannier.shared.project import PROJECT_FILE, load_project, resolve
    from pannier.supervisor.sidecar_types import sidecar_types

    types = sidecar_types()
    file = found.project if found is not None else PROJECT_FILE if Path(PROJECT_FILE).is_file() else None
    return resolve(
        profile,
        sidecars=types,
        project=None if file is None else load_project(file, sidecars=types),
        app=None if found is None else found.app,
        environment=os.environ if found is None else found.variables,
        assignments=assignments,
    )


def _planned(profile: str, found: ProfileInForce | None) -> Plan:
    """The plan of some service that runs this profile."""
    from pannier.supervisor.plan import Arguments, Place, Said
    from pannier.supervisor.planning import Installation, plan_for
    from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

    resolved = _resolve(profile, found, [] if found is None else found.assignments)
    return plan_for(
        resolved.profile,
        Arguments(name="some", profile=_stem(profile)),
        Place("/", {}, "pannierd", 1, {"inbound": 0, "outbound": 0}),
        said=Said(dict(resolved.data)),
        installation=Installation(sidecar_types(), sidecar_modules()),
        token=lambda _: "",
    )


def live_settings(assignments: Sequence[str]) -> list[LiveSetting]:
    """The assignments as the supervisor takes them. Raises ConfigError with the place of each error."""
    import msgspec
    from pannier.shared.check import check
    from pannier.shared.explain import problem, refuse
    from pannier.shared.layers import Assignments, set_layer
    from pannier.shared.messages import LiveSetting
    from pannier.shared.profile import Settings
    from pannier.supervisor.difference import within
    from pannier.supervisor.sidecar_types import sidecar_types

    types = sidecar_types()
    layer = set_layer(assignments, types)
    findings = check(layer.data, (Settings,), tables={"sidecar": types}, partial=True)
    refuse(problem(layer.source, finding) for finding in findings)
    return [
        LiveSetting([str(part) for part in path], msgspec.msgpack.encode(within(layer.data, path)))
        for path in cast("Assignments", layer.source).labels
    ]


def _in_force(service: str) -> ProfileInForce:
    from pannier.shared.messages import Nothing, ProfileInForce

    return ask(service, lambda bus: bus.request("supervisor", "profile.in_force", Nothing(), ProfileInForce))


def _ask(service: str, verb: str, body: msgspec.Struct | None) -> Changed:
    from pannier.shared.messages import Changed

    return ask(service, lambda bus: bus.request("supervisor", verb, body, Changed, timeout=PATIENCE))


def _tell(service: str, changed: Changed, *, dry_run: bool) -> None:
    """What would happen is what was asked for; what has happened is talk."""
    for line in changed.lines:
        (click.echo if dry_run else talk)(line)
    if not changed.lines:
        talk("nothing would change" if dry_run else "nothing has changed")
    if changed.live:
        talk(f"{changed.live} setting{'s' * (changed.live != 1)} by hand on top of it: pannier profile diff live")
    if changed.confirm_s and dry_run:
        talk(f"it would have to be confirmed within {changed.confirm_s:.0f} s")
    elif changed.confirm_s:
        talk(f"taken back in {changed.confirm_s:.0f} s, unless: pannier profile confirm --name {service}")


def _seconds(text: str | None) -> float | None:
    from pannier.supervisor.request import duration

    return duration(text, "--confirm")


def _stem(profile: str) -> str:
    return Path(profile).stem
