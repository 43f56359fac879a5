"""`pannier config`: what holds, what held before, the way back to it, and the files read again.

History and the configuration in force are the supervisor's; where it is gone, its files are read.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from pannier.shared.errors import NotRunning
from pannier.shared.messages import Nothing, Revision, Revisions, Rollback, SaidInForce
from pannier.supervisor.cli.output import output_option, print_json, print_table, spoken, talk
from pannier.supervisor.cli.profile_change import How, change_options, in_force, request, reread, resolve_for, tell
from pannier.supervisor.cli.services import ask, name_option, running, the_one

if TYPE_CHECKING:
    from pannier.shared.project import Resolved
    from pannier.supervisor.history import History

STANDS: Final = "Take it back after so long unless `profile confirm` comes (default: it stands at once)."


@click.group()
def command() -> None:
    """Show what holds and what held before; go back to it, read the files again."""


@command.command()
@name_option
@output_option
def history(*, name: str | None, output: str) -> None:
    """List what was put in force, newest first, and what became of it."""
    found = revisions(name)
    if output == "json":
        print_json(found.revisions)
    else:
        rows = [_row(each) for each in reversed(found.revisions)]
        print_table(("REVISION", "ID", "WHEN", "STATE", "PROFILE", "BY", "WHAT"), rows)
    for problem in found.problems:
        talk(problem)


@command.command()
@click.argument("revision", metavar="REVISION")
@change_options(STANDS)
def rollback(*, revision: str, **options: Any) -> None:
    """Put in force again what held in a revision (its number, or how its id begins), as a new revision.

    Also while a change waits to be confirmed. Endpoints are as they are now: who was registered since stays registered.
    """
    how = How(**options)
    service = the_one(how.name)
    stands = 0.0 if how.confirm is None else how.confirm_s
    change = Rollback(revision, how.dry_run, stands, list(how.unless), f"{spoken()} {revision}")
    tell(service, request(service, "config.rollback", change, how.patience), how)


@command.command()
@change_options()
def reload(**options: Any) -> None:
    """Read the files of a running service again, and put in force what differs.

    Nothing changes if they have errors (exit 65). What was set by hand stays on top.
    """
    how = How(**options)
    service = the_one(how.name)
    tell(service, reread(service, how), how)


@command.command()
@name_option
@click.option("--origin", is_flag=True, help="Show which layer each value comes from.")
@output_option
def effective(*, name: str | None, origin: bool, output: str) -> None:
    """Show every setting that is in force, defaults and all; files that have changed since are not."""
    from pannier.supervisor.cli.profile import print_resolved

    service, said = said_in_force(name)
    print_resolved(_resolved(service, said, origin=origin), origin=origin, output=output)


def revisions(name: str | None) -> Revisions:
    """The history by its keeper, else as its files say. Raises NotRunning if there is neither."""
    if name is None or name in running():
        return ask(the_one(name), lambda bus: bus.request("supervisor", "config.history", Nothing(), Revisions))
    found = _history(name)
    return Revisions(found.revisions(), found.problems)


def said_in_force(name: str | None) -> tuple[str, SaidInForce]:
    """The service, and what holds there, else what held there last. Raises NotRunning if there is neither."""
    import msgspec

    if name is None or name in running():
        service = the_one(name)
        return service, ask(service, lambda bus: bus.request("supervisor", "config.said", Nothing(), SaidInForce))
    found = _history(name)
    newest = found.newest
    if newest is None:
        raise NotRunning(f"nothing is known of {name}", hint=f"pannier run --name {name} -- CMD")
    content = found.content(newest)
    talk(f"{name} does not answer: this is revision {newest.number}, the last that is known")
    below, above = (msgspec.msgpack.encode(layer) for layer in (content.below, content.live))
    return name, SaidInForce(content.profile, below, above, newest.number)


def _history(name: str) -> History:
    from pannier.supervisor.history import History

    found = History(name)
    if not found.entries and not found.problems:
        raise NotRunning(f"no service {name} runs here, and it has no history", hint="pannier ps")
    return found


def _resolved(service: str, said: SaidInForce, *, origin: bool) -> Resolved:
    """What was said as settings. The files say where a value comes from, as long as they still say that value."""
    import dataclasses

    import msgspec
    from pannier.shared.errors import PannierError
    from pannier.shared.layers import Assignments, Layer
    from pannier.shared.project import live_layer, settle
    from pannier.supervisor.sidecar_types import sidecar_types

    below, above = msgspec.msgpack.decode(said.below), msgspec.msgpack.decode(said.live)
    source = Assignments({}, "as it was read")
    layers = [Layer(f"profile {said.profile}", below, source)]
    found = settle(said.profile, layers, [live_layer(above)], sidecars=sidecar_types())
    if not origin:
        return found
    try:
        context = in_force(service)
        folder = None if context.folder is None else Path(context.folder)
        profile = context.source or context.profile
        files = resolve_for(profile, context, context.assignments, live=above, folder=folder)
    except PannierError as error:
        talk(f"where values come from cannot be said: {error.message.splitlines()[0]}")
        return found
    from pannier.supervisor.difference import within

    same = {
        path: files.origins[path]
        for path in found.origins
        if path in files.origins and within(files.data, path) == within(found.data, path)
    }
    return dataclasses.replace(found, origins={**found.origins, **same})


def _row(each: Revision) -> tuple[Any, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.at_ms / 1000))
    return each.number, each.id, when, each.state, each.profile, each.by, each.summary
