"""`pannier pilot config`: keys and texts that a service is given in a stage, changed while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.pilot_client import pilot_options, the_pilot
from pannier.supervisor.cli.pilot_documents import add_versions, change_options, changed, has_version, when


@click.group("config")
def command() -> None:
    """Show and change the configuration of services, with its history and a way back."""


def _path(stage: str, service: str) -> Sequence[str]:
    return ("v1", "config", stage, service)


@command.command("list")
@pilot_options
@output_option
def list_(*, pilot: str | None, token_file: Path | None, output: str) -> None:
    """List the services that have one."""
    found = the_pilot(pilot, token_file).ask("GET", ("v1", "config"), dict[str, Any])["documents"]
    if output == "json":
        print_json(found)
        return
    rows = [(one["stage"], one["service"], one["version"], when(one["when"]), one.get("comment", "")) for one in found]
    print_table(("STAGE", "SERVICE", "VERSION", "WHEN", "COMMENT"), rows)


@command.command()
@click.argument("stage")
@click.argument("service")
@pilot_options
@output_option
def get(stage: str, service: str, *, pilot: str | None, token_file: Path | None, output: str) -> None:
    """Show what a service is given."""
    found = the_pilot(pilot, token_file).ask("GET", _path(stage, service), dict[str, Any])
    if output == "json":
        print_json(found)
        return
    print_table(("KEY", "VALUE"), sorted(found["values"].items()))
    talk(f"version {found['version']}, of {when(found['when'])}")


@command.command("set")
@click.argument("stage")
@click.argument("service")
@click.argument("settings", nargs=-1, metavar="KEY=TEXT...")
@click.option("--unset", multiple=True, metavar="KEY", help="Takes a key away.")
@change_options
@pilot_options
def set_(
    stage: str,
    service: str,
    *,
    settings: Sequence[str],
    unset: Sequence[str],
    version: int | None,
    comment: str,
    pilot: str | None,
    token_file: Path | None,
) -> None:
    """Set keys, and leave the others as they are."""
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} sets nothing", hint="write KEY=TEXT")
        values[key] = value
    if not values and not unset:
        raise UsageError("nothing is said to change", hint="name KEY=TEXT, or --unset KEY")
    body = changed(version, comment, set=values, unset=list(unset))
    found = the_pilot(pilot, token_file).ask("PATCH", _path(stage, service), dict[str, Any], body)
    talk(has_version(found))


add_versions(command, "config", "stage", "service")
