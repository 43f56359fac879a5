"""Lays settings over one another and remembers where each value came from; no I/O.

Order, from the bottom: profile (its `extends` parent below it), project file, app, environment, `--set`, live. Tables
are merged key by key; anything else, lists included, is replaced whole. `sidecars.NAME = false` takes a sidecar away
with its settings, `true` adds it as it is below or with its defaults: TOML has no other way to say "not this one".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pannier.shared.explain import SYNTAX, ConfigError, Finding, Place, Problem, Source, problem
from pannier.shared.toml_position import DEPTH_LIMIT, Path, Position, Positions, TooDeep, scan

ENVIRONMENT_PREFIX = "PANNIER__"
_TOML_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TOML_END = " (at end of document)"


@dataclass(frozen=True, slots=True)
class Layer:
    """One set of values: `name` is what `--origin` calls it, `source` knows where each value was written."""

    name: str
    data: Mapping[str, Any]
    source: Source


@dataclass(frozen=True, slots=True)
class Origin:
    """Which layer gave the value of `path`; `source` knows where it is written, and what is below it."""

    layer: str
    path: Path
    source: Source = field(repr=False)

    @property
    def place(self) -> Place:
        return self.source.place(self.path)


@dataclass(frozen=True, slots=True)
class Document:
    """A file as a source. `under` is the table of the file that the layer is about."""

    name: str
    lines: Sequence[str] = field(repr=False)
    positions: Positions = field(repr=False)
    under: Path = ()

    def place(self, path: Path, *, key: bool = False) -> Place:
        whole = (*self.under, *path)
        position = (self.positions.key(whole) if key else self.positions.value(whole)) or Position(1, 1)
        return line_of(self.name, self.lines, position.line, position.column)


@dataclass(frozen=True, slots=True)
class Assignments:
    """Single assignments as a source: each path has a label such as `--set proxy.workers` or a variable's name."""

    labels: Mapping[Path, str]
    fallback: str

    def place(self, path: Path, *, key: bool = False) -> Place:
        for length in range(len(path), 0, -1):
            if label := self.labels.get(path[:length]):
                return Place(label)
        return Place(self.fallback)


class Merged:
    """What layers came to, as a source: a path is written where the layer that gave it has it.

    What no layer has (a default) is nowhere; `fallback` says what it is about.
    """

    def __init__(self, origins: Mapping[Path, Origin], fallback: str) -> None:
        self._origins = origins
        self._fallback = fallback
        self._inside: dict[Path, Origin] = {}
        for path, origin in origins.items():
            for length in range(1, len(path)):
                self._inside.setdefault(path[:length], origin)

    def place(self, path: Path, *, key: bool = False) -> Place:
        for length in range(len(path), 0, -1):
            origin = self._origins.get(path[:length]) or self._inside.get(path[:length])
            if origin is not None:
                return origin.source.place(path, key=key)
        return Place(self._fallback)


def parse_toml(name: str, text: str) -> tuple[Document, dict[str, Any]]:
    """A TOML text as a source, and what it says. Raises ConfigError with the place of the error."""
    lines = text.split("\n")
    try:
        return Document(name, lines, scan(text)), tomllib.loads(text)
    except TooDeep as error:
        raise syntax_error(name, lines, str(error), error.position.line, error.position.column) from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number with more digits than Python reads
        message = str(error)
        if at := _TOML_AT.search(message):
            raise syntax_error(name, lines, message[: at.start()], int(at[1]), int(at[2])) from error
        if message.endswith(_TOML_END):
            message = message.removesuffix(_TOML_END)
            raise syntax_error(name, lines, message, len(lines), len(lines[-1]) + 1) from error
        raise syntax_error(name, lines, message, 1, 1) from error


def syntax_error(name: str, lines: Sequence[str], message: str, line: int, column: int) -> ConfigError:
    """A text that is not what its name says, from `line` and `column` on."""
    return ConfigError([Problem(line_of(name, lines, line, column), SYNTAX, "", message)])


def line_of(name: str, lines: Sequence[str], line: int, column: int) -> Place:
    """The place in a text, with its source line."""
    return Place(name, line, column, lines[line - 1] if line <= len(lines) else "")


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[Path, Origin]]:
    """The layers from the bottom up as one tree, and the origin of each leaf (an empty table is a leaf)."""
    data: dict[str, Any] = {}
    origins: dict[Path, Origin] = {}
    for layer in layers:
        _lay(data, origins, layer.data, (), layer)
    return data, origins


def _lay(
    below: dict[str, Any], origins: dict[Path, Origin], above: Mapping[str, Any], path: Path, layer: Layer
) -> None:
    for key, given in above.items():
        here = (*path, key)
        switched = path == ("sidecars",) and isinstance(given, bool)
        if switched and not given:
            _forget(origins, here, below.pop(key, None))
            continue
        value = {} if switched else given
        if isinstance(value, Mapping):
            inner = below.get(key)
            if not isinstance(inner, dict):
                origins.pop(here, None)
                inner = below[key] = {}
            if value:
                origins.pop(here, None)
                _lay(inner, origins, value, here, layer)
            elif not inner:
                origins[here] = Origin(layer.name, here, layer.source)
        else:
            _forget(origins, here, below.get(key))
            below[key] = value
            origins[here] = Origin(layer.name, here, layer.source)


def _forget(origins: dict[Path, Origin], path: Path, held: Any) -> None:
    """Takes away the origins of what was `held` at `path`."""
    origins.pop(path, None)
    if isinstance(held, dict):
        for key, inner in held.items():
            _forget(origins, (*path, key), inner)


def environment_layer(environment: Mapping[str, str], sidecars: Iterable[str]) -> Layer:
    """The variables `PANNIER__A__B=value` as a layer. Raises ConfigError for names that are no path."""
    given = [
        (name, name[len(ENVIRONMENT_PREFIX) :].lower().split("__"), text)
        for name, text in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]
    return _assigned("environment", given, sidecars)


def set_layer(assignments: Sequence[str], sidecars: Iterable[str]) -> Layer:
    """The options `--set a.b=value` as a layer; the last of several for one path holds.

    Raises ConfigError for what has no `=`, or no path before it.
    """
    given = []
    problems = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if equals:
            given.append((f"--set {path}", path.strip().split("."), text))
        else:
            problems.append(Problem(Place(f"--set {assignment}"), SYNTAX, "", "no value", "expected PATH=VALUE"))
    if problems:
        raise ConfigError(problems)
    return _assigned("--set", given, sidecars)


def parse_value(text: str) -> Any:
    """A value as TOML writes it (`3`, `true`, `["a"]`, `{ x = 1 }`, `"3"`); anything else is text, as are dates."""
    text = text.strip()
    nested = sum(map(text.count, "[{.")) > DEPTH_LIMIT
    if nested or "\n" in text:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # ValueError: also a number with more digits than Python reads
        return text
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text


def _assigned(name: str, given: Iterable[tuple[str, list[str], str]], sidecars: Iterable[str]) -> Layer:
    data: dict[str, Any] = {}
    labels: dict[Path, str] = {}
    source = Assignments(labels, name)
    problems: list[Problem] = []
    known = set(sidecars)
    for label, parts, text in given:
        # A sidecar's name may stand first: PANNIER__RESILIENCE__RETRY__ATTEMPTS=3.
        path: tuple[str, ...] = ("sidecars", *parts) if parts[0] in known else tuple(parts)
        labels[path] = label
        if not all(path) or len(path) > DEPTH_LIMIT:
            problems.append(problem(source, Finding(path, SYNTAX, "no path", "expected names with a dot between them")))
            continue
        table = data
        for part in path[:-1]:
            inner = table.get(part)
            if not isinstance(inner, dict):
                inner = table[part] = {}
            table = inner
        table[path[-1]] = parse_value(text)
    if problems:
        raise ConfigError(problems)
    return Layer(name, data, source)
