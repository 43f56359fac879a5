"""`pannier analyze`: all that is wrong with configurations, and what nobody can mean by them. Nothing is started."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from pannier.shared.explain import ConfigError, Problem, count, in_order
from pannier.shared.project import PROJECT_FILE, examine, examine_apps, load_project, resolve
from pannier.supervisor.cli.output import output_option, print_json
from pannier.supervisor.contradictions import contradictions
from pannier.supervisor.sidecar_types import sidecar_types

EX_FINDINGS = 79


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path())
@click.option(
    "--profile", metavar="NAME", help=f"This profile, with the apps of the {PROJECT_FILE} here, if there is one."
)
@output_option
def command(*, files: tuple[str, ...], profile: str | None, output: str) -> int | None:
    """Find errors and contradictions in profile and project files; exit 79 if there are any."""
    if bool(files) is (profile is not None):
        raise click.UsageError("Give files, or --profile and a name.")
    found: list[Problem] = []
    if profile is not None:
        found = _of_profile(profile)
    for file in files:
        found += examine(file, sidecars=sidecar_types(), look=contradictions)[1]
    problems = in_order(found)
    if output == "json":
        print_json([_fields(problem) for problem in problems])
    elif problems:
        click.echo("\n".join(map(str, problems)))
        click.echo(f"{count(problems)} (exit {EX_FINDINGS})")
    else:
        click.echo(f"{', '.join(files) or profile}: no findings")
    return EX_FINDINGS if problems else None


def _of_profile(name: str) -> list[Problem]:
    types = sidecar_types()
    try:
        if Path(PROJECT_FILE).is_file():
            project = load_project(PROJECT_FILE, sidecars=types)
            return examine_apps(project, name, sidecars=types, look=contradictions)
        resolved = resolve(name, sidecars=types)
        return [*resolved.warnings, *resolved.problems(contradictions(resolved.profile))]
    except ConfigError as error:
        return list(error.problems)


def _fields(problem: Problem) -> dict[str, object]:
    fields = msgspec.to_builtins(problem)
    place = fields.pop("place")
    return {"file": place["source"], "line": place["line"], "column": place["column"], **fields}
