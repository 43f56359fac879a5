"""`pannier pilot status`: how a pilot stands, what it has decided, and whom it serves.

Parts of a pilot are shown as they describe themselves (`pilot/status.py`): single values in one row, what has rows of
its own as a table, so that a part which is new to this version is shown as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
from pannier.sidecars.pilot.http.status import Status
from pannier.supervisor.cli.output import output_option, print_json, print_table
from pannier.supervisor.cli.pilot_client import pilot_options, the_pilot

Table: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[Any]]]
"""A title, headings, rows."""


@click.command("status")
@pilot_options
@output_option
def command(*, pilot: str | None, token_file: Path | None, output: str) -> None:
    """Show store, instances, requests, other pilots, and who is served, by each part of it."""
    status = the_pilot(pilot, token_file).ask("GET", ("v1", "status"), Status)
    if output == "json":
        print_json(status)
        return
    print_table(("WHAT", "VALUE"), overview(status))
    for title, headings, rows in tables(status):
        click.echo(f"\n{title}")
        print_table(headings, rows)


def overview(status: Status) -> Sequence[tuple[str, Any]]:
    """What is one line each; what is as it should be and says nothing is left out."""
    states = _joined({state: count for state, count in status.states.items() if count})
    rows = [
        ("store", status.store or None),
        ("trouble", status.trouble or "none"),
        ("revision", str(status.revision)),
        ("instances", f"{status.instances} in {status.services} services{': ' * bool(states)}{states}"),
    ]
    if status.suspects:
        rows.append(("suspect", f"{status.suspects} miss renewals and are kept"))
    if status.detours:
        rows.append(("by way of Centrals", f"{status.detours}, which are not among the instances"))
    if status.preserving:
        rows.append(("preserving", "nobody is given up: too many renewals are missed at once"))
    if status.blind:
        rows.append(("blind", "this pilot does not hear its store, and takes no renewals"))
    if status.lag_s:
        rows.append(("waiting", f"for {status.lag_s:.1f} s until the store's watch tells an own write"))
    rows += [(f"{action} requests", _joined(counts)) for action, counts in status.requests.items()]
    done = {"evicted": status.evicted, "taken over": status.taken_over, "restored": status.restored}
    rows += [(name, f"{count} since it started") for name, count in done.items() if count]
    rows.append(("watches", str(status.watches)))
    return rows


def tables(status: Status) -> Sequence[Table]:
    """The other pilots, then each part."""
    found: list[Table] = []
    if status.peers:
        rows = [
            (peer.pilot, "this one" if peer.own else "gone" if peer.gone else "live", round(peer.heard_s, 1))
            for peer in status.peers
        ]
        found.append(("pilots of this store", ("PILOT", "STATE", "HEARD S AGO"), rows))
    for name, part in sorted(status.parts.items()):
        found += _part(name, part)
    return found


def _part(name: str, part: Any) -> Sequence[Table]:
    if isinstance(part, list):
        return [_listed(name, part)]
    if not isinstance(part, dict):
        return [(name, ("VALUE",), [(part,)])]
    single = {key: value for key, value in part.items() if not _has_rows(value)}
    found: list[Table] = [(name, [_heading(key) for key in single], [[_cell(value) for value in single.values()]])]
    for key, value in part.items():
        if isinstance(value, dict) and _has_rows(value):
            found.append(_listed(f"{name}: {key}", [{"name": each} | row for each, row in value.items()]))
        elif _has_rows(value):
            found.append(_listed(f"{name}: {key}", value))
    return found if single else found[1:]


def _listed(title: str, rows: Sequence[Any]) -> Table:
    described = [each for row in rows for each in _spread(row if isinstance(row, dict) else {"value": row})]
    columns = list(dict.fromkeys(key for row in described for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in described]
    return (title, [_heading(column) for column in columns], cells)


def _spread(row: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """A row for each thing in it that has fields, each with the row's own: a client's types, say."""
    nested = next((key for key, value in row.items() if isinstance(value, list) and _has_rows(value)), None)
    if nested is None:
        return [row]
    own = {key: value for key, value in row.items() if key != nested}
    return [own | each for each in row[nested]]


def _has_rows(value: Any) -> bool:
    """Whether it is a list of things with fields, or such things by name."""
    rows = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _heading(key: str) -> str:
    return key.replace("_", " ").upper()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return _joined(value) or None
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or None
    return round(value, 3) if isinstance(value, float) else None if value == "" else value


def _joined(found: Mapping[str, Any]) -> str:
    """Counts before their names, anything else behind them."""
    return ", ".join(
        f"{name}: {'yes' if value else 'no'}"
        if isinstance(value, bool)
        else f"{value} {name}"
        if isinstance(value, (int, float))
        else f"{name}: {_cell(value)}"
        for name, value in found.items()
    )
