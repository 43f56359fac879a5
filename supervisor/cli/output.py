"""How commands speak: data on stdout, talk on stderr, tables that are never cut, colour only where it is wanted.

A command that shows a list takes `-o table|json`; its JSON is the pinned interface, its table is for people.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """Adds `-o table|json` as the argument `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print: table or json."
    )(command)


def print_json(data: Any) -> None:
    """Prints plain data as JSON on stdout; a msgspec struct in it is printed as its fields."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints aligned columns on stdout, as wide as they are; numbers stand on the right, None is `-`."""
    click.echo(table(headings, rows))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The rows under their headings; control characters in a cell are replaced."""
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    numeric = [
        bool(rows) and all(isinstance(row[column], (int, float, type(None))) for row in rows)
        for column in range(len(headings))
    ]
    lines = []
    for row in cells:
        columns = zip(row, widths, numeric, strict=True)
        lines.append("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in columns))
    return "\n".join(line.rstrip() for line in lines)


def talk(text: str) -> None:
    """Prints a line for the person at the terminal, on stderr. A stderr that is gone is ignored."""
    try:
        click.echo(text, err=True, color=_coloured(sys.stderr))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def spoken() -> str:
    """The command that runs, without its options, for the history."""
    context = click.get_current_context(silent=True)
    return "" if context is None else context.command_path.removeprefix("pannier ")


def styled(text: str, colour: str, *, err: bool = True) -> str:
    """The text in a colour if the stream that it goes to (stderr, else stdout) wants colours."""
    return click.style(text, fg=colour) if _coloured(sys.stderr if err else sys.stdout) else text


def _coloured(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and stream.isatty()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
