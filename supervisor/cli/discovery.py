"""`pannier discovery`: which services and instances are known, from where, and registering what cannot do it itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from pannier.shared.endpoints import Endpoint, Endpoints
from pannier.shared.errors import UsageError
from pannier.shared.explain import near_match
from pannier.shared.instances import State
from pannier.supervisor.cli import discovery_change
from pannier.supervisor.cli.discovery_sources import source_options, the_source
from pannier.supervisor.cli.output import output_option, print_json, print_table


class ServiceRow(msgspec.Struct, frozen=True):
    """How many instances of a service are UP, how many are not, how many are suspect, and who says so."""

    service: str
    up: int
    other: int
    suspect: int
    sources: Sequence[str]


@click.group()
def command() -> None:
    """Show who is where, and who says so; register what cannot do it itself."""


for change in discovery_change.COMMANDS:
    command.add_command(change)


@command.command()
@source_options
@output_option
def services(*, name: str | None, pilot: str | None, token_file: Path | None, output: str) -> None:
    """List the services that are known here, and how many instances each has."""
    rows = by_service(the_source(name, pilot, token_file).endpoints())
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("SERVICE", "UP", "OTHER", "SUSPECT", "SOURCES"),
        [(row.service, row.up, row.other, row.suspect, ", ".join(row.sources) or None) for row in rows],
    )


@command.command()
@click.argument("service", required=False)
@source_options
@output_option
def endpoints(
    *, service: str | None, name: str | None, pilot: str | None, token_file: Path | None, output: str
) -> None:
    """List instances, of one service or all: where they are, how they stand, and who says so."""
    found = the_source(name, pilot, token_file).endpoints()
    if service is not None and service not in found.services:
        near = near_match(service, found.services)
        hint = f"did you mean {near}?" if near else "see them: pannier discovery services"
        raise UsageError(f"no service {service[:80]} is known", hint=hint)
    rows = [one for one in found.endpoints if service in (None, one.service)]
    if output == "json":
        print_json(rows)
        return
    shifted = any(one.centrals for one in rows)
    headings = ("SERVICE", "ID", "ADDRESS", "STATE", "SOURCE", "EPOCH", "ZONE", "VERSION", "WEIGHT", "SUSPECT")
    print_table(
        (*headings, "BY WAY OF A CENTRAL") if shifted else headings,
        [(*_cells(one), _by_way(one)) if shifted else _cells(one) for one in rows],
    )


@command.command()
@source_options
@output_option
def stores(*, name: str | None, pilot: str | None, token_file: Path | None, output: str) -> None:
    """List where endpoints come from, and how each of these stands."""
    rows = the_source(name, pilot, token_file).sources()
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("SOURCE", "WHERE", "ENDPOINTS", "TROUBLE"),
        [(row.kind, row.place, row.endpoints, row.trouble or "none") for row in rows],
    )


def by_service(found: Endpoints) -> Sequence[ServiceRow]:
    """A row a service, by name."""
    rows = []
    for service in sorted(found.services):
        own = [one for one in found.endpoints if one.service == service]
        up = sum(one.state == State.UP for one in own)
        suspect = sum(one.suspect for one in own)
        rows.append(ServiceRow(service, up, len(own) - up, suspect, sorted({one.source for one in own})))
    return rows


def _by_way(one: Endpoint) -> str | None:
    """Which part of its requests goes there, such as "40 % by 10.77.0.2:15090"."""
    return ", ".join(f"{share.weight:.3g} % by {share.address}" for share in one.centrals) or None


def _cells(one: Endpoint) -> Sequence[object]:
    return (
        one.service,
        one.id,
        one.address,
        one.state,
        one.source,
        one.epoch or None,
        one.metadata.get("zone"),
        one.metadata.get("version"),
        one.weight,
        one.suspect,
    )
