"""`pannier logs`: what a service and its sidecars wrote last, and with `-f` what they write now."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import click
from pannier.shared.errors import Unreachable
from pannier.shared.messages import LOGS, LogLine, LogLines, LogRequest
from pannier.shared.runtime import service_dir
from pannier.supervisor.cli import access_log
from pannier.supervisor.cli.services import bus_of, name_option, the_one


@click.command()
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=click.IntRange(0, 500), default=100, help="How many lines to begin with (default: 100).")
@click.option("--access", is_flag=True, help="The requests instead, one short line each.")
def command(*, name: str | None, follow: bool, tail: int, access: bool) -> None:
    """Show what a service and its sidecars write."""
    import trio

    service = the_one(name)
    if access:
        for line in access_log.lines(service_dir(service) / "access.log", tail=tail, follow=follow):
            click.echo(access_log.readable(line))
    else:
        trio.run(_show, service, follow, tail)


async def _show(name: str, follow: bool, tail: int) -> None:
    async with bus_of(name) as bus, bus.subscribe(LOGS, LogLines) as news:
        begin = (await bus.request("supervisor", "logs", LogRequest(tail), LogLines)).lines
        _print(begin)
        if follow:
            shown = set(begin)  # what was written between the two questions is in both answers
            with suppress(Unreachable):
                async for written in news:
                    _print(line for line in written.lines if line not in shown)


def _print(lines: Iterable[LogLine]) -> None:
    for line in lines:
        click.echo(f"{line.source} | {line.text}")
