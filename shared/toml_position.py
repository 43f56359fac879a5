"""Finds the line and column of each key and value of a TOML text, for error messages.

`tomllib` gives none, and tomlkit's items forget where they came from. The scanner runs before the parser does, so it
reads anything: what it does not understand it skips to the end of the line, and it never fails for a text that is no
TOML. Its one refusal is nesting beyond `DEPTH_LIMIT`, with which the parser could be kept busy for hours.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field

DEPTH_LIMIT = 32

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_STRING = re.compile(
    r'''"""(?:[^\\"]|\\.|"(?!""))*"{3,5}|\'\'\'(?:[^']|'(?!''))*'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]*")
_REST_OF_LINE = re.compile(r"[^\n]*")


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1; the column counts characters."""

    line: int
    column: int


class TooDeep(ValueError):
    """The text nests deeper than `DEPTH_LIMIT`, at `position`."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"nested deeper than {DEPTH_LIMIT} levels")
        self.position = position


@dataclass(slots=True)
class Positions:
    """Where the keys and the values of one text begin, by path; elements of arrays have their index in the path."""

    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)

    def key(self, path: Path) -> Position | None:
        """Where the key of `path` stands, else that of the nearest part above it that is written."""
        return _nearest(path, self.keys, self.values)

    def value(self, path: Path) -> Position | None:
        """Where the value of `path` begins, else its key, else what is written above it."""
        return _nearest(path, self.values, self.keys)


def scan(text: str) -> Positions:
    """The positions of every key and value in `text`. Raises TooDeep, and nothing else."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def _nearest(path: Path, first: dict[Path, Position], second: dict[Path, Position]) -> Position | None:
    for length in range(len(path), 0, -1):
        if (position := first.get(path[:length]) or second.get(path[:length])) is not None:
            return position
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found = Positions()
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}  # the index of the last table of each array of tables

    def document(self) -> None:
        table: Path = ()
        while True:
            self._skip(_BLANK_LINES)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._assignment(table, depth=1)
            self._skip(_REST_OF_LINE)

    def _header(self) -> Path:
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        self._skip(_BLANK)
        path: Path = ()
        parts = self._key(depth=1)
        for number, (part, start) in enumerate(parts, 1):
            path += (part,)
            last = number == len(parts)
            if many and last:
                self._tables[path] = self._tables.get(path, -1) + 1
            self.found.keys.setdefault(path, self._position(start))
            if path in self._tables:
                path += (self._tables[path],)
                self.found.keys.setdefault(path, self._position(start))
        return path

    def _assignment(self, table: Path, depth: int) -> None:
        parts = self._key(depth)
        path = table
        for part, start in parts:
            path += (part,)
            self.found.keys.setdefault(path, self._position(start))
        self._skip(_BLANK)
        if parts and self.text.startswith("=", self.at):
            self.at += 1
            self._skip(_BLANK)
            self._value(path, depth + len(parts))

    def _key(self, depth: int) -> list[tuple[str, int]]:
        parts: list[tuple[str, int]] = []
        while match := _KEY_PART.match(self.text, self.at):
            parts.append((_unquoted(match.group()), match.start()))
            if depth + len(parts) > DEPTH_LIMIT:
                raise TooDeep(self._position(match.start()))
            self.at = match.end()
            if (dot := _DOT.match(self.text, self.at)) is None:
                break
            self.at = dot.end()
        return parts

    def _value(self, path: Path, depth: int) -> None:
        self.found.values.setdefault(path, self._position(self.at))
        if depth > DEPTH_LIMIT:
            raise TooDeep(self._position(self.at))
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self.at += 1
            self._elements(path, depth)
        elif opening == "{":
            self.at += 1
            self._pairs(path, depth)
        elif match := _STRING.match(self.text, self.at):
            self.at = match.end()
        else:
            self._skip(_SCALAR)

    def _elements(self, path: Path, depth: int) -> None:
        index = 0
        while self._inside("]"):
            before = self.at
            self._value((*path, index), depth + 1)
            index += 1
            self._separator(before)

    def _pairs(self, path: Path, depth: int) -> None:
        while self._inside("}"):
            before = self.at
            self._assignment(path, depth + 1)
            self._separator(before)

    def _inside(self, closing: str) -> bool:
        """Whether another entry begins here; passes the closing bracket if not."""
        self._skip(_BLANK_LINES)
        if self.at >= len(self.text):
            return False
        if self.text[self.at] == closing:
            self.at += 1
            return False
        return True

    def _separator(self, before: int) -> None:
        self._skip(_BLANK_LINES)
        if self.text.startswith(",", self.at) or self.at == before:
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _position(self, offset: int) -> Position:
        line = bisect_right(self._line_starts, offset)
        return Position(line, offset - self._line_starts[line - 1] + 1)


def _unquoted(part: str) -> str:
    if part[0] == "'":
        return part[1:-1]
    if part[0] == '"':
        try:
            return str(tomllib.loads(f"key = {part}")["key"])
        except tomllib.TOMLDecodeError:
            return part[1:-1]
    return part
