"""`pannier profile`: which profiles there are, what one comes to with all its layers, whether files are right."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import click
import msgspec
from pannier.shared.explain import ConfigError, Problem, dotted, refuse
from pannier.shared.layers import Origin
from pannier.shared.profile_files import profile_names
from pannier.shared.project import PROJECT_FILE, Project, examine, load_project, resolve
from pannier.shared.toml_position import Path
from pannier.supervisor.cli.output import output_option, print_json, print_table
from pannier.supervisor.sidecar_types import sidecar_types


@click.group()
def command() -> None:
    """List, show and validate profiles."""


@command.command("list")
@output_option
def list_(output: str) -> None:
    """List the profiles that can be named here."""
    types = sidecar_types()
    # The folder is enough to find profiles: a broken project file must not hide them.
    rows = []
    for name, where in profile_names(FilePath.cwd()).items():
        try:
            profile = resolve(where if where.endswith(".toml") else name, sidecars=types).profile
            rows.append((name, where, list(profile.sidecars), profile.description))
        except ConfigError as error:
            rows.append((name, where, [], f"broken: {error.problems[0].message}"))
    if output == "json":
        keys = ("name", "where", "sidecars", "description")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_table(
            ("NAME", "WHERE", "SIDECARS", "DESCRIPTION"), [(n, w, ", ".join(s) or "-", d) for n, w, s, d in rows]
        )


@command.command()
@click.argument("name", required=False)
@click.option(
    "-f", "--file", type=click.Path(dir_okay=False), help=f"Project file (default: {PROJECT_FILE}, if it is here)."
)
@click.option("--app", help="Lay the settings of this app of the project over it.")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Lay one value over it.")
@click.option("--origin", is_flag=True, help="Show which layer each value comes from.")
@output_option
def show(
    *, name: str | None, file: str | None, app: str | None, assignments: tuple[str, ...], origin: bool, output: str
) -> None:
    """Show what a profile comes to: with its parents, the project file, the environment and --set."""
    types = sidecar_types()
    project = _project(file, types)
    if app is not None and project is None:
        raise click.UsageError(f"--app needs a project file, and there is no {PROJECT_FILE} here")
    resolved = resolve(
        name,
        sidecars=types,
        project=project,
        app=app,
        environment=os.environ,
        assignments=assignments,
    )
    leaves = list(_leaves(msgspec.to_builtins(resolved.profile)))
    if output == "json":
        values = msgspec.to_builtins(resolved.profile)
        found = {dotted(path): _origin_fields(resolved.origins.get(path)) for path, _ in leaves}
        print_json({"profile": values, "origins": found} if origin else values)
        return
    rows: list[tuple[str, ...]] = [(dotted(path), json.dumps(value, ensure_ascii=False)) for path, value in leaves]
    if not origin:
        print_table(("SETTING", "VALUE"), rows)
        return
    origins = [_origin_fields(resolved.origins.get(path)) for path, _ in leaves]
    print_table(
        ("SETTING", "VALUE", "LAYER", "PLACE"),
        [(*row, found["layer"], found["place"] or None) for row, found in zip(rows, origins, strict=True)],
    )


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
def validate(files: tuple[str, ...]) -> None:
    """Check profile and project files; every problem of all of them is reported."""
    types = sidecar_types()
    problems: list[Problem] = []
    for file in files:
        kind, found = examine(file, sidecars=types)
        if not any(problem.severity == "error" for problem in found):
            click.echo(f"{file}: a good {kind}")
        problems += found
    refuse(problems)


@command.command()
def schema() -> None:
    """Print a JSON Schema of profile and project files, with all installed sidecars, for an editor."""
    from pannier.shared.schema import schema as of

    print_json(of(sidecar_types()))


def _project(file: str | None, types: Mapping[str, type]) -> Project | None:
    if file is None and not FilePath(PROJECT_FILE).is_file():
        return None
    return load_project(file or PROJECT_FILE, sidecars=types)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _origin_fields(origin: Origin | None) -> dict[str, str]:
    if origin is None:
        return {"layer": "default", "place": ""}
    return {"layer": origin.layer, "place": str(origin.place)}
