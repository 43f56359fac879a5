"""`pannier profile use|promote|confirm|set|reset|diff`: changes what a running service is governed by, and compares.

Files and variables are read here, where their errors have places; the supervisor gets the outcome as data and checks it
once more. What a change does is said in the same lines before it (`--dry-run`) and after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
import msgspec
from pannier.shared.errors import PannierError, TimedOut, UsageError
from pannier.supervisor.cli.output import spoken, talk
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    from pannier.shared.bus import Bus
    from pannier.shared.messages import Changed, LiveSetting, ProfileInForce
    from pannier.shared.project import Resolved
    from pannier.supervisor.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])

PATIENCE: Final = 90.0
"""Seconds for a change: each sidecar that starts, or starts again, has 10 to become ready."""
LIVE: Final = "live"
LOOK_EVERY: Final = 0.25

_set_option = click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Lay one value over it.")
CONFIRM_HELP: Final = (
    "Take it back after so long unless `profile confirm` comes; 0s = never (default: as the profile says)."
)


class How(msgspec.Struct, frozen=True):
    """The options of everything that changes a running service, as they were typed."""

    name: str | None = None
    dry_run: bool = False
    confirm: str | None = None
    unless: tuple[str, ...] = ()
    wait: bool = False
    timeout: str | None = None

    @property
    def confirm_s(self) -> float | None:
        return _seconds(self.confirm, "--confirm")

    @property
    def patience(self) -> float:
        """Seconds for the supervisor to answer, and to wait beyond the time in which a change may be taken back."""
        return _seconds(self.timeout, "--timeout") or PATIENCE


def change_options(confirm_help: str = CONFIRM_HELP) -> Callable[[F], F]:
    """Adds the options of `How`."""

    def add(command: F) -> F:
        for option in (
            click.option("--timeout", metavar="DURATION", help="How long to wait for an answer (default: 90s)."),
            click.option("--wait", is_flag=True, help="Return when it stands for good, with 1 if it was taken back."),
            click.option(
                "--unless",
                multiple=True,
                metavar="CONDITION",
                help="Let requests decide: take it back as soon as this holds for those since, as 'success<99%' or"
                " 'p99>250ms'; else it stands when the time of --confirm is over, without `profile confirm`.",
            ),
            click.option("--confirm", metavar="DURATION", help=confirm_help),
            click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing."),
        ):
            command = option(command)
        return name_option(command)

    return add


@click.command()
@click.argument("profile", metavar="NAME")
@_set_option
@change_options()
def use(*, profile: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Put another profile under a running service, with the project file and the settings that it was started with.

    Only what differs is touched. All of it is in force afterwards or, if a sidecar does not come up, nothing.
    """
    how = How(**options)
    service = the_one(how.name)
    tell(service, _use(service, in_force(service), profile, assignments, how), how)


@click.command()
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@_set_option
@change_options()
def promote(*, old: str, new: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Show what differs, and take a running service from profile A to profile B; refused if it does not run A."""
    how = How(**options)
    service = the_one(how.name)
    found = in_force(service)
    if found.profile != old:
        hint = f"pannier profile promote {found.profile} {new} --name {service}"
        raise UsageError(f"{service} runs {found.profile}, not {old}", hint=hint)
    rehearsal = msgspec.structs.replace(how, dry_run=True)
    tell(service, _use(service, found, new, assignments, rehearsal), rehearsal)
    if not how.dry_run:
        tell(service, _use(service, found, new, assignments, how), how)


@click.command()
@name_option
def confirm(*, name: str | None) -> None:
    """Keep the change that waits for it."""
    service = the_one(name)
    request(service, "profile.confirm", None)
    talk(f"{service}: the change stands")


@click.command("set")
@click.argument("assignments", nargs=-1, required=True, metavar="PATH=VALUE...")
@change_options()
def set_(*, assignments: tuple[str, ...], **options: Any) -> None:
    """Change settings of a running service, over everything that its profile says, until it stops."""
    from pannier.shared.messages import LiveChange

    how = How(**options)
    service = the_one(how.name)
    change = LiveChange(live_settings(assignments), how.dry_run, how.confirm_s, list(how.unless), spoken())
    tell(service, request(service, "live.set", change, how.patience), how)


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@change_options()
def reset(*, paths: tuple[str, ...], **options: Any) -> None:
    """Take back what was set, added and removed by hand: everything under these paths, or all of it."""
    from pannier.shared.messages import LiveReset
    from pannier.supervisor.sidecar_types import sidecar_modules

    how = How(**options)
    service = the_one(how.name)
    known = sidecar_modules()
    split = [path.split(".") for path in paths]
    whole = [["sidecars", *path] if path[0] in known else path for path in split]
    change = LiveReset(whole, how.dry_run, how.confirm_s, list(how.unless), spoken())
    tell(service, request(service, "live.reset", change, how.patience), how)


@click.command()
@click.argument("profiles", nargs=-1, metavar="A B | live")
@name_option
def diff(*, profiles: tuple[str, ...], name: str | None) -> None:
    """Show which processes and rules differ.

    `A B` compares two profiles, with -n as that service would run them; `live` compares the profile of a running
    service with what holds there.
    """
    if profiles == (LIVE,):
        lines: Sequence[str] = request(the_one(name), "live.diff", None).lines
    elif len(profiles) == 2:
        from pannier.supervisor.change import change

        found = None if name is None else in_force(the_one(name))
        lines = change(_planned(profiles[0], found), _planned(profiles[1], found)).lines
    else:
        raise click.UsageError("name two profiles, or `live`")
    for line in lines:
        click.echo(line)
    if not lines:
        talk("nothing differs")


COMMANDS: Final = (use, promote, confirm, set_, reset, diff)


def reread(service: str, how: How) -> Changed:
    """Has a service run on its own profile and layers as their files are now. Raises ConfigError with the place of each
    error."""
    found = in_force(service)
    folder = None if found.folder is None else Path(found.folder)
    resolved = resolve_for(found.source or found.profile, found, found.assignments, folder=folder)
    return _put(service, found.profile, resolved, how, assignments=found.assignments, source=found.source)


def _use(service: str, found: ProfileInForce, profile: str, assignments: Sequence[str], how: How) -> Changed:
    every = [*found.assignments, *assignments]
    source = os.path.abspath(profile) if profile.endswith(".toml") else None
    return _put(service, profile, resolve_for(profile, found, every), how, assignments=every, source=source)


def _put(
    service: str, profile: str, resolved: Resolved, how: How, *, assignments: Sequence[str], source: str | None
) -> Changed:
    from pannier.shared.messages import Use

    settings = msgspec.msgpack.encode(resolved.data)
    more = (list(assignments), how.dry_run, how.confirm_s, list(how.unless), spoken(), source)
    return request(service, "profile.use", Use(Path(profile).stem, settings, *more), how.patience)


def resolve_for(
    profile: str,
    found: ProfileInForce | None,
    assignments: Sequence[str],
    *,
    live: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Resolved:
    """The profile with the layers that a service was started with, else with those of this folder. Without a project it
    is looked for in `folder`, else here."""
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
        live=live,
        folder=folder,
    )


def _planned(profile: str, found: ProfileInForce | None) -> Plan:
    """The plan of some service that runs this profile."""
    from pannier.supervisor.plan import Arguments, Place, Said
    from pannier.supervisor.planning import Installation, plan_for
    from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

    resolved = resolve_for(profile, found, [] if found is None else found.assignments)
    return plan_for(
        resolved.profile,
        Arguments(name="some", profile=Path(profile).stem),
        Place("/", {}, "pannierd", 1, {"inbound": 0, "outbound": 0}),
        said=Said(dict(resolved.data)),
        installation=Installation(sidecar_types(), sidecar_modules()),
        token=lambda _: "",
    )


def live_settings(assignments: Sequence[str]) -> list[LiveSetting]:
    """The assignments as the supervisor takes them. Raises ConfigError with the place of each error."""
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


def in_force(service: str) -> ProfileInForce:
    """What is needed to resolve a profile for a service that runs."""
    from pannier.shared.messages import Nothing, ProfileInForce

    return ask(service, lambda bus: bus.request("supervisor", "profile.in_force", Nothing(), ProfileInForce))


def request(service: str, verb: str, body: msgspec.Struct | None, patience: float = PATIENCE) -> Changed:
    """Asks for a change. Raises TimedOut after `patience` seconds."""
    from pannier.shared.messages import Changed

    return ask(service, lambda bus: bus.request("supervisor", verb, body, Changed, timeout=patience))


def tell(service: str, changed: Changed, how: How) -> None:
    """What would happen is what was asked for; what has happened is talk. With `--wait` returns when it is settled, and
    raises PannierError if it was taken back."""
    for line in changed.lines:
        (click.echo if how.dry_run else talk)(line)
    if not changed.lines:
        talk("nothing would change" if how.dry_run else "nothing has changed")
    if changed.live:
        talk(f"{changed.live} setting{'s' * (changed.live != 1)} by hand on top of it: pannier profile diff live")
    if changed.confirm_s and changed.unless:
        will = "it would be" if how.dry_run else "it is"
        talk(f"{will} taken back if {' or '.join(changed.unless)} within {changed.confirm_s:.0f} s, else kept")
    elif changed.confirm_s and how.dry_run:
        talk(f"it would have to be confirmed within {changed.confirm_s:.0f} s")
    elif changed.confirm_s:
        talk(f"taken back in {changed.confirm_s:.0f} s, unless: pannier profile confirm --name {service}")
    if how.wait and changed.confirm_s and not how.dry_run:
        _wait(service, changed.revision, changed.confirm_s + how.patience)


def _wait(service: str, revision: int, patience: float) -> None:
    """Returns when a revision stands for good. Raises PannierError if it was taken back, TimedOut."""
    state = ask(service, lambda bus: _settled(bus, revision, patience))
    if state == "taken back":
        raise PannierError(f"revision {revision} was taken back", hint=f"pannier logs --name {service}")
    talk(f"revision {revision} stands")


async def _settled(bus: Bus, revision: int, patience: float) -> str:
    """What became of a revision that was pending; the history is asked, since it alone outlives the supervisor."""
    import trio
    from pannier.shared.messages import Nothing, Revisions

    with trio.move_on_after(patience):
        while True:
            found = await bus.request("supervisor", "config.history", Nothing(), Revisions)
            state = next((each.state for each in found.revisions if each.number == revision), "")
            if state != "pending":
                return state
            await trio.sleep(LOOK_EVERY)
    raise TimedOut(f"revision {revision} is still pending after {patience:g} s", hint="pannier config history")


def _seconds(text: str | None, option: str) -> float | None:
    from pannier.supervisor.request import duration

    return duration(text, option)
