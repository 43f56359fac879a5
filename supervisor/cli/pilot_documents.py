"""What `pannier pilot config` and `pannier pilot policy` have in common: versions, which are shown and gone back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import click
from pannier.supervisor.cli.output import F, print_json, print_table
from pannier.supervisor.cli.pilot_client import Client

Json: TypeAlias = Mapping[str, Any]


def change_options(command: F) -> F:
    """Adds `--version N` and `--comment TEXT` as the arguments `version` and `comment`."""
    command = click.option("--comment", default="", help="Why, for the history.")(command)
    return click.option(
        "--version", type=click.IntRange(0), help="Only if this version is in force (0: only if there is none)."
    )(command)


def changed(version: int | None, comment: str, **body: Any) -> dict[str, Any]:
    """The body of a change."""
    return {**body, "version": version, "comment": comment}


def show_history(pilot: Client, path: Sequence[str], output: str) -> None:
    """Prints the versions that are kept."""
    versions = pilot.ask("GET", (*path, "history"), dict[str, Any])["versions"]
    if output == "json":
        print_json(versions)
        return
    rows = [
        (one["version"], when(one["when"]), "deleted" if one.get("deleted") else "", one.get("comment", ""))
        for one in versions
    ]
    print_table(("VERSION", "WHEN", "", "COMMENT"), rows)


def roll_back(pilot: Client, path: Sequence[str], to: int, version: int | None, comment: str) -> Json:
    """Makes a version with the content of an old one."""
    return pilot.ask("POST", (*path, "rollback"), dict[str, Any], changed(version, comment, to=to))


def when(seconds: float) -> str:
    """A time of day, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
