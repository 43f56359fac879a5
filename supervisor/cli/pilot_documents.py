"""What `pannier pilot config` and `pannier pilot policy` have in common: versions, which are shown and gone back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import click
from pannier.supervisor.cli.output import F, output_option, print_json, print_table, talk
from pannier.supervisor.cli.pilot_client import pilot_options, the_pilot

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


def has_version(found: Json) -> str:
    """What a change has led to, in words."""
    version = f"has version {found['version']}"
    return (
        f"{found['service']} {version} in {found['stage']}" if found.get("service") else f"{found['stage']} {version}"
    )


def add_versions(group: click.Group, kind: str, *names: str) -> None:
    """Adds the commands `history`, `rollback` and `delete`, of what is at `/v1/KIND/NAMES`."""

    def named(command: F) -> F:
        for name in reversed(names):
            command = click.argument(name)(command)
        return command

    def path(said: Mapping[str, str]) -> Sequence[str]:
        return ("v1", kind, *(said[name] for name in names))

    @group.command()
    @named
    @pilot_options
    @output_option
    def history(*, pilot: str | None, token_file: Path | None, output: str, **said: str) -> None:
        """List the versions that are kept."""
        versions = the_pilot(pilot, token_file).ask("GET", (*path(said), "history"), dict[str, Any])["versions"]
        if output == "json":
            print_json(versions)
            return
        rows = [
            (one["version"], when(one["when"]), "deleted" if one.get("deleted") else "", one.get("comment", ""))
            for one in versions
        ]
        print_table(("VERSION", "WHEN", "", "COMMENT"), rows)

    @group.command()
    @named
    @click.argument("to", type=click.IntRange(1), metavar="VERSION")
    @change_options
    @pilot_options
    def rollback(
        *, to: int, version: int | None, comment: str, pilot: str | None, token_file: Path | None, **said: str
    ) -> None:
        """Make a version with the content of an old one."""
        body = changed(version, comment, to=to)
        found = the_pilot(pilot, token_file).ask("POST", (*path(said), "rollback"), dict[str, Any], body)
        talk(f"{has_version(found)}, as version {to} was")

    @group.command()
    @named
    @change_options
    @pilot_options
    def delete(*, version: int | None, comment: str, pilot: str | None, token_file: Path | None, **said: str) -> None:
        """Delete it; `rollback` brings it back."""
        body = changed(version, comment)
        found = the_pilot(pilot, token_file).ask("DELETE", path(said), dict[str, Any], body)
        talk(f"{has_version(found)}: it is deleted")


def when(seconds: float) -> str:
    """A time of day, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
