"""`pannier diagnostics`: looks into bus and tables of a service, and packs what a bug report needs.

Tables are in memory that the processes of the service hold, so they can be looked at when the supervisor is gone.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from pannier.shared.errors import NotRunning, PannierError, UsageError
from pannier.shared.messages import Nothing
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.services import ask, name_option, the_one


@click.group()
def command() -> None:
    """Look into bus and tables; pack what a bug report needs, without secrets."""


@command.command()
@name_option
@output_option
def bus(*, name: str | None, output: str) -> None:
    """Show the topics of the bus with who listens, and its peers with what waits for them and what they missed."""
    from pannier.supervisor.bus_state import BusState

    found = ask(the_one(name), lambda bus: bus.request("supervisor", "diagnostics.bus", Nothing(), BusState))
    if output == "json":
        print_json(found)
        return
    print_table(
        ("TOPIC", "PUBLISHED", "RETAINED BY", "BYTES", "SUBSCRIBERS"),
        [
            (each.topic, each.published, each.retained_by, each.retained_bytes, ", ".join(each.subscribers) or None)
            for each in found.topics
        ],
    )
    click.echo()
    print_table(
        ("PEER", "PID", "SECONDS", "RECEIVED", "A SECOND", "PAUSES", "QUEUED", "DELIVERED", "CONFLATED", "DROPPED"),
        [
            (
                each.role,
                each.pid,
                each.seconds,
                each.received,
                each.rate,
                each.pauses,
                each.outbox.queued,
                each.outbox.delivered,
                each.outbox.conflated,
                each.outbox.dropped,
            )
            for each in found.peers
        ],
    )
    talk(f"{found.welcomed} were welcomed, {found.refused} refused; {found.open_calls} calls wait for an answer")


@command.command()
@name_option
@output_option
def tables(*, name: str | None, output: str) -> None:
    """Show every table: what is published, by whom, whether its writer lives and its checksum holds."""
    from pannier.supervisor.cli.remains import tables_of

    found = tables_of(the_one(name, orphans=True))
    if output == "json":
        print_json(found)
        return
    print_table(
        ("TABLE", "STATE", "GENERATION", "IN FORCE", "WRITER", "EPOCH", "HEARTBEAT S", "BYTES", "CHECKSUM"),
        [
            (
                each.kind,
                "never published" if each.generation == 0 else "absent" if each.absent else "published",
                each.generation,
                each.in_force,
                each.writer_pid or None,
                each.epoch or None,
                None if each.age_s is None else round(each.age_s, 1),
                each.length,
                "ok" if each.intact else "DAMAGED",
            )
            for each in found.tables
        ],
    )
    if found.revision:
        talk(f"revision {found.revision} is in force: pannier config history")


@command.command()
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--log-lines", type=click.IntRange(0, 500), default=200, help="How many of the last lines (default: 200)."
)
@name_option
def dump(*, file: str | None, log_lines: int, name: str | None) -> None:
    """Pack a tar.gz for a bug report: processes, bus, tables, settings, history, last lines, versions, this machine.

    Values that may be secret are left out: of environments all, of headers all, of settings those whose name says so,
    and whatever looks like a token. Look through it nevertheless before you send it. FILE may be `-` for stdout.
    """
    from pannier.supervisor.cli.dump import collect, pack

    service = _known(name)
    found = collect(service, log_lines)
    target = file or f"pannier-{service}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"
    data = pack(found, f"pannier-{service}")
    if target == "-":
        sys.stdout.buffer.write(data)
    else:
        _write(Path(target), data)
        click.echo(target)
    for missing in found.missing:
        talk(f"missing: {missing}")


def _known(name: str | None) -> str:
    """The service; one that has gone is known by its history. Raises NotRunning, UsageError."""
    try:
        return the_one(name, orphans=True)
    except NotRunning:
        from pannier.supervisor.history import History

        if name is None or not (found := History(name)).entries + found.problems:
            raise
        return name


def _write(path: Path, data: bytes) -> None:
    """A file for the owner alone; what is there is never overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already", hint="name another file") from error
    except OSError as error:
        raise PannierError(f"{path} cannot be written: {error.strerror}", hint="name a file elsewhere") from error
