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
from pannier.shared.project import PROJECT_FILE, Project, Resolved, examine, load_project, resolve
from pannier.shared.toml_position import Path
from pannier.supervisor.cli import profile_change
from pannier.supervisor.cli.output import output_option, print_json, print_table
from pannier.supervisor.cli.services import ask, the_one
from pannier.supervisor.live import read_live
from pannier.supervisor.sidecar_types import sidecar_types


@click.group()
def command() -> None:
    """List, show and validate profiles."""


for change in profile_change.COMMANDS:
    command.add_command(change)


@command.command("list")
@output_option
def list_(output: str) -> None:
    """List the profiles that can be named here."""
    types = sidecar_types()
    # The folder is enough to find profiles: a broken project file must not hide them.
    rows = [_row(name, where, types) for name, where in profile_names(FilePath.cwd()).items()]
    if output == "json":
        print_json(rows)
        return
    headings = ("NAME", "SIDECARS", "ORPHAN GRACE", "UNKNOWN NAMES", "CONFIRM", "WHERE", "DESCRIPTION")
    cells = [[", ".join(value) or None if isinstance(value, list) else value for value in row.values()] for row in rows]
    print_table(headings, cells)


def _row(name: str, where: str, types: Mapping[str, type]) -> dict[str, Any]:
    profile, description = None, ""
    try:
        profile = resolve(where if where.endswith(".toml") else name, sidecars=types).profile
        description = profile.description
    except ConfigError as error:
        description = f"broken: {error.problems[0].message}"
    return {
        "name": name,
        "sidecars": list(profile.sidecars) if profile else [],
        "orphan_grace": profile.orphan_grace if profile else None,
        "outbound_unknown": profile.outbound.unknown if profile else None,
        "confirm": profile.confirm if profile else None,
        "where": where,
        "description": description,
    }


@command.command()
@click.argument("name", required=False)
@click.option(
    "-f", "--file", type=click.Path(dir_okay=False), help=f"Project file (default: {PROJECT_FILE}, if it is here)."
)
@click.option("--app", help="Lay the settings of this app of the project over it.")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Lay one value over it.")
@click.option("-n", "--name", "service", help="As it holds for this running service, with what was changed by hand.")
@click.option("--origin", is_flag=True, help="Show which layer each value comes from.")
@output_option
def show(
    *,
    name: str | None,
    file: str | None,
    app: str | None,
    assignments: tuple[str, ...],
    service: str | None,
    origin: bool,
    output: str,
) -> None:
    """Show what a profile comes to: with its parents, the project file, the environment and --set."""
    types = sidecar_types()
    if service is not None:
        if file or app or assignments:
            raise click.UsageError("-n has the project, the app and the settings with which the service was started")
        resolved = _in_force(service, name, types)
    else:
        resolved = _resolved(name, file, app, assignments, types)
    print_resolved(resolved, origin=origin, output=output)


def print_resolved(resolved: Resolved, *, origin: bool, output: str) -> None:
    """Prints every setting, with `origin` also where it comes from."""
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


def _resolved(
    name: str | None, file: str | None, app: str | None, assignments: tuple[str, ...], types: Mapping[str, type]
) -> Resolved:
    project = _project(file, types)
    if app is not None and project is None:
        raise click.UsageError(f"--app needs a project file, and there is no {PROJECT_FILE} here")
    return resolve(name, sidecars=types, project=project, app=app, environment=os.environ, assignments=assignments)


def _in_force(service: str, name: str | None, types: Mapping[str, type]) -> Resolved:
    """The profile (else the service's own) with all layers of a running service."""
    from pannier.shared.messages import Nothing, ProfileInForce

    found = ask(the_one(service), lambda bus: bus.request("supervisor", "profile.in_force", Nothing(), ProfileInForce))
    return resolve(
        name or found.profile,
        sidecars=types,
        project=load_project(found.project, sidecars=types) if found.project else None,
        app=found.app,
        environment=found.variables,
        assignments=found.assignments,
        live=read_live(service),
    )


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
