"""`pannier down`: stops a service in order, and returns when nothing of it is left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import click
from pannier.shared.errors import TimedOut, Unreachable
from pannier.shared.messages import Nothing
from pannier.supervisor.cli.output import talk
from pannier.supervisor.cli.services import bus_of, name_option, orphaned, the_one

_LOOK_EVERY: Final = 0.05  # seconds between two looks for a folder that its keeper removes last
_ORPHANS_MS: Final = 5000


@click.command()
@name_option
@click.option("--timeout", default="60s", metavar="DURATION", help="How long to wait for the end (default: 60s).")
def command(*, name: str | None, timeout: str) -> None:
    """Stop what `up` or `run` started, in order."""
    import trio
    from pannier.supervisor.request import duration

    found = the_one(name, orphans=True)
    trio.run(_stop, found, duration(timeout, "--timeout") or 60.0)
    talk(f"{found} is stopped")


async def _stop(name: str, timeout: float) -> None:
    import trio
    from pannier.shared.runtime import service_dir

    directory = service_dir(name, create=False)
    with trio.move_on_after(timeout):
        if name in orphaned():
            await _stop_orphans(directory)
        else:
            async with bus_of(name) as bus:
                with suppress(Unreachable):
                    await bus.request("supervisor", "stop", Nothing(), Nothing)
                await bus.wait_closed()
        while directory.exists():  # noqa: ASYNC110  # it goes when its keeper does, and nobody can tell us after that
            await trio.sleep(_LOOK_EVERY)
        return
    raise TimedOut(f"{name} did not stop within {timeout:g} s", hint=f"pannier ps --name {name}")


async def _stop_orphans(directory: Path) -> None:
    from pannier.supervisor.keeper_start import connect_keeper
    from pannier.supervisor.live import clear_live

    async with connect_keeper(directory) as keeper:
        await keeper.shutdown(_ORPHANS_MS)
        async for _ in keeper.events():
            pass
    clear_live(directory.name)
