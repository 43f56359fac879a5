"""The tables of promises in `docs/sidecars/*.md`, made from the tests that show them.

    @pytest.mark.semantics("resilience", "Failures in a row open a breaker", "services.*.breaker.consecutive_failures")

A mark says whose promise it is, the promise, and the fields of that sidecar's settings whose defaults belong to it.
Marks are read from the source, nothing is run; defaults come from the structs that decode a profile. So a row cannot
name a test or a field that is not there, and a table that no longer says what the tests do is found by
`test_sidecar_pages.py`. Tests with the same promise share a row. Rows stand in the order of files and lines.

Refused: a list of promises beside the tests, which nobody would keep; marks that are collected by running pytest,
which takes a build and all peers to write a page.

    python -m tests.structure.semantics     # writes the tables; `make docs`
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from pannier.shared.errors import UsageError
from pannier.shared.fields import Field, Fields
from pannier.shared.profile import Profile
from pannier.supervisor.sidecar_types import sidecar_types

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "sidecars"
BEGIN = "<!-- promises: written by `make docs` from the tests' marks -->"
END = "<!-- end of promises -->"
MARK = "pytest.mark.semantics"


class BadMark(Exception):
    """A mark that says nothing that could be a row: where it is, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of a sidecar's table: the promise, the fields with its defaults, the tests (file, name) that show it."""

    sidecar: str
    text: str
    fields: tuple[str, ...]
    tests: tuple[tuple[Path, str], ...]


def promises(sources: Iterable[tuple[Path, str]]) -> list[Promise]:
    """All rows that the marks in these files (path, text) come to. Raises BadMark."""
    found: dict[tuple[str, str], Promise] = {}
    for path, source in sources:
        for one in _of_file(path, source):
            older = found.get((one.sidecar, one.text), Promise(one.sidecar, one.text, (), ()))
            fields = tuple(dict.fromkeys((*older.fields, *one.fields)))
            found[one.sidecar, one.text] = Promise(one.sidecar, one.text, fields, (*older.tests, *one.tests))
    return list(found.values())


def table(rows: Iterable[Promise], page: Path) -> str:
    """The rows as the table that `page` has. Raises BadMark for a field that is not there."""
    fields = Fields((Profile,), {"sidecar": sidecar_types()})
    lines = ["| promise | default | shown by |", "| --- | --- | --- |"]
    for row in rows:
        by_gate: dict[str, list[str]] = {}
        for name in row.fields:
            gate, shown = _default(fields, row, name)
            by_gate.setdefault(gate, []).append(shown)
        defaults = ", ".join(", ".join(shown) + gate for gate, shown in by_gate.items())
        tests = ", ".join(f"[`{name}`]({os.path.relpath(path, page.parent)})" for path, name in row.tests)
        lines.append(f"| {_cell(row.text)} | {_cell(defaults)} | {tests} |")
    return "\n".join(lines)


def renewed(page: Path, rows: Iterable[Promise]) -> str:
    """The text of the page with the table that its sidecar's rows come to. Raises BadMark if it has no place for it."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BadMark(f"{page}: needs the lines {BEGIN!r} and {END!r}, once each")
    before, rest = text.split(BEGIN)
    after = rest.partition(END)[2]
    own = [row for row in rows if row.sidecar == page.stem]
    return f"{before}{BEGIN}\n{table(own, page)}\n{END}{after}"


def sources() -> Iterator[tuple[Path, str]]:
    """Every file of tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        yield path, path.read_text()


def pages() -> list[Path]:
    """The page of each sidecar."""
    return [PAGES / f"{name}.md" for name in sorted(sidecar_types())]


def _of_file(path: Path, source: str) -> Iterator[Promise]:
    for node in ast.walk(ast.parse(source)):
        for mark in getattr(node, "decorator_list", []):
            if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != MARK:
                continue
            where = f"{path}:{mark.lineno}"
            name = str(getattr(node, "name", ""))
            if not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and name.startswith("test_")):
                raise BadMark(f"{where}: {name} is no test")
            words = [argument.value for argument in mark.args if isinstance(argument, ast.Constant)]
            if mark.keywords or len(words) != len(mark.args) or not all(isinstance(word, str) for word in words):
                raise BadMark(f"{where}: a mark has texts alone: sidecar, promise, fields")
            if len(words) < 2 or words[0] not in sidecar_types():
                raise BadMark(f"{where}: names no sidecar, or no promise")
            sidecar, text, *fields = map(str, words)
            yield Promise(sidecar, text, tuple(fields), ((path, name),))


def _default(fields: Fields, row: Promise, name: str) -> tuple[str, str]:
    """Where the field is, if its table need not be, and its default."""
    parts = name.split(".")
    whole = [f"{row.sidecar}.{'.'.join(parts[: end + 1])}" for end in range(len(parts))]
    try:
        found = [fields.find(path) for path in whole]
    except UsageError as error:
        path, test = row.tests[0]
        raise BadMark(f"{path}: {test}: {name}: {error}") from error
    gate = next((each for each in found[:-1] if each.owner and not each.required and each.default is None), None)
    where = f" where there is a `{gate.path.rpartition('.')[2]}`" if gate else ""
    return where, f"`{name.removeprefix('services.*.')}` {_value(found[-1])}"


def _value(field: Field) -> str:
    if field.required:
        return "must be given"
    plain: Any = to_builtins(field.default)
    if plain is None or plain in ({}, []):
        return "not set"
    return format(plain, "g") if isinstance(plain, float) else re.sub(r'^"(.*)"$', r"\1", json.dumps(plain))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Writes the table of every page anew."""
    rows = promises(sources())
    for page in pages():
        page.write_text(renewed(page, rows))


if __name__ == "__main__":
    main()
