"""`pannier sidecar`: changes which capabilities a running service carries; nothing else of it is touched."""

from __future__ import annotations

import click
from pannier.shared.messages import Nothing, SidecarList, SidecarName
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.services import ask, name_option, the_one

PATIENCE = 20.0
"""Seconds for a change: the sidecar itself has 10 to become ready."""


@click.group()
def command() -> None:
    """List, add, remove and restart the sidecars of a running service."""


@command.command("list")
@name_option
@output_option
def list_(*, name: str | None, output: str) -> None:
    """List the installed sidecars and what they do here."""
    found = ask(the_one(name), lambda bus: bus.request("supervisor", "sidecar.list", Nothing(), SidecarList)).sidecars
    if output == "json":
        print_json(found)
    else:
        rows = [(s.name, s.state or "not running", s.pid or None, s.restarts, s.ready) for s in found]
        print_table(("NAME", "STATE", "PID", "RESTARTS", "READY"), rows)


@command.command()
@click.argument("sidecar")
@name_option
def add(*, sidecar: str, name: str | None) -> None:
    """Start a sidecar, with the profile's settings or its defaults, and wait until it is ready."""
    _change("sidecar.add", sidecar, name)
    talk(f"{sidecar} is ready")


@command.command()
@click.argument("sidecar")
@name_option
def rm(*, sidecar: str, name: str | None) -> None:
    """End a sidecar; its capability is gone, everything else goes on."""
    _change("sidecar.rm", sidecar, name)
    talk(f"{sidecar} is removed")


@command.command()
@click.argument("sidecar")
@name_option
def restart(*, sidecar: str, name: str | None) -> None:
    """Give a sidecar a new process, and wait until it is ready."""
    _change("sidecar.restart", sidecar, name)
    talk(f"{sidecar} is ready")


def _change(verb: str, sidecar: str, name: str | None) -> None:
    ask(
        the_one(name),
        lambda bus: bus.request("supervisor", verb, SidecarName(sidecar), Nothing, timeout=PATIENCE),
    )
