"""`pannier pilot policy`: how the services of a stage are called by clients that have no sidecar of ours.

A policy is what a profile says under `sidecars.traffic` and `sidecars.resilience`, and of its proxy what callers
notice. Defaults are left out when a profile is put: a pilot of another version may have others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.pilot_client import pilot_options, the_pilot
from pannier.supervisor.cli.pilot_documents import Json, add_versions, change_options, changed, has_version, when

PARTS = ("traffic", "resilience", "proxy")
_TOLD = ("stage", "version", "when", "comment", "deleted", "problems", "unmapped")
"""What an answer says besides, and `show -o json` prints."""
_SUCH_A_FILE = f"name {', '.join(PARTS)}; `pannier pilot policy show STAGE` prints such a file"


@click.group("policy")
def command() -> None:
    """Show and change the policy of a stage, which Envoy and gRPC are served."""


def _path(stage: str) -> Sequence[str]:
    return ("v1", "policy", stage)


@command.command()
@click.argument("stage")
@pilot_options
@output_option
def show(stage: str, *, pilot: str | None, token_file: Path | None, output: str) -> None:
    """Show the policy of a stage, as JSON that `apply` takes."""
    found = the_pilot(pilot, token_file).ask("GET", _path(stage), dict[str, Any])
    print_json(found if output == "json" else {part: found[part] for part in PARTS if part in found})
    talk(f"version {found['version']}, of {when(found['when'])}")


@command.command()
@click.argument("stage")
@click.argument("file", metavar="PROFILE|FILE")
@change_options
@pilot_options
def apply(
    stage: str, file: str, *, version: int | None, comment: str, pilot: str | None, token_file: Path | None
) -> None:
    """Put what a profile (a name, or a TOML file) says of traffic and resilience; or a JSON file of these parts."""
    content = _of_json(Path(file)) if file.endswith(".json") else _of_profile(file)
    body = changed(version, comment or f"of {file}", **content)
    found = the_pilot(pilot, token_file).ask("PUT", _path(stage), dict[str, Any], body)
    for one in found.get("problems", ()):
        talk(f"{one['code']} {one['severity']}  {one['path']}: {one['message']}")
    talk(f"{has_version(found)}; {len(found['unmapped'])} things do not reach all clients (report)")


@command.command()
@click.argument("stage")
@pilot_options
@output_option
def report(stage: str, *, pilot: str | None, token_file: Path | None, output: str) -> None:
    """List what Envoy and gRPC do not get of it, and why."""
    found = the_pilot(pilot, token_file).ask("GET", (*_path(stage), "report"), dict[str, Any])["unmapped"]
    if output == "json":
        print_json(found)
        return
    rows = [(one["where"], one["clients"], one["what"], one["why"]) for one in found]
    print_table(("WHERE", "CLIENTS", "WHAT", "WHY"), rows)


add_versions(command, "policy", "stage")


def _of_json(file: Path) -> Json:
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}", hint=_SUCH_A_FILE) from error
    if unknown := sorted(content.keys() - {*PARTS, *_TOLD}):
        raise UsageError(f"{file} has {unknown[0]!r}, which is no part of a policy", hint=_SUCH_A_FILE)
    if not content.keys() & set(PARTS):
        raise UsageError(f"{file} has no part of a policy", hint=_SUCH_A_FILE)
    return {part: content[part] for part in PARTS if part in content}


def _of_profile(name: str) -> Json:
    from pannier.shared.project import resolve
    from pannier.supervisor.sidecar_types import sidecar_types

    profile = resolve(name, sidecars=sidecar_types()).profile
    content = {part: said(profile.sidecars[part]) for part in PARTS[:2] if part in profile.sidecars}
    timeouts = {"connect": profile.proxy.timeouts.connect, "request": profile.proxy.timeouts.request}
    return {**content, "proxy": {"balance": profile.proxy.balance, "timeouts": timeouts}}


def said(value: Any) -> Any:
    """Plain data of a struct, without the fields that have their default."""
    if isinstance(value, msgspec.Struct):
        return {
            field.encode_name: said(getattr(value, field.name))
            for field in msgspec.structs.fields(value)
            if field.required or getattr(value, field.name) != _default(field)
        }
    if isinstance(value, dict):
        return {key: said(one) for key, one in value.items()}
    return [said(one) for one in value] if isinstance(value, (list, tuple)) else value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
