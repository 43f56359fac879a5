"""Says what is wrong with a configuration, and where: codes, places, and the text that an operator reads.

All problems are reported at once, each on two lines: `FILE:LINE:COLUMN CODE error PATH: WHAT`, then the line as it was
written with what would be right. Where a value was written is the business of its `Source`: a file, or an option.
An error refuses the configuration; a warning says that it cannot be meant, and lets it pass.
Text from outside is printed without control characters: a hostile file must not drive the operator's terminal.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from pannier.shared.errors import Blame, PannierError
from pannier.shared.toml_position import Path

UNREADABLE = "PAN0100"
SYNTAX = "PAN0101"
UNKNOWN_FIELD = "PAN0102"
WRONG_TYPE = "PAN0103"
BAD_VALUE = "PAN0104"
UNKNOWN_NAME = "PAN0105"
MISSING = "PAN0106"
TOO_MANY = "PAN0107"

Severity: TypeAlias = Literal["error", "warning"]

EX_CONFIG = 65
FINDINGS_LIMIT = 100
_SHOWN = 96
_PATH_SHOWN = 200
_MESSAGE_SHOWN = 400
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at `path`, before anybody knows where that was written."""

    path: Path
    code: str
    message: str
    expectation: str = ""
    near: str = ""
    at_key: bool = False
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: a file with line and column from 1, or another `source` with line 0."""

    source: str
    line: int = 0
    column: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Source(Protocol):
    """Something that values were read from, and that can say where."""

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where the value of `path` (with `key` its name) was written; the nearest thing above it if nowhere."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: a finding and its place."""

    place: Place
    code: str
    path: str
    message: str
    expectation: str = ""
    near: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        subject = f"{printable(self.path, _PATH_SHOWN)}: " if self.path else ""
        first = f"{self.place}  {self.code} {self.severity}  {subject}{printable(self.message, _MESSAGE_SHOWN)}"
        remark = f'did you mean "{self.near}"?' if self.near else self.expectation
        if self.place.line:
            second = f"{self.place.line:>5} | {printable(self.place.text.strip(), _SHOWN)}     {printable(remark)}"
            return f"{printable(first)}\n{second.rstrip()}"
        return printable(first) + (f"\n      | {printable(remark)}" if remark else "")


class ConfigError(PannierError):
    """A configuration that cannot be used; `problems` has every reason, at least one of them an error, in the order of
    the text."""

    exit_code = EX_CONFIG
    blame = Blame.CONFIG

    def __init__(self, problems: Sequence[Problem], *, hint: str = "") -> None:
        self.problems = in_order(problems)
        super().__init__(
            "\n".join([*map(str, self.problems), f"{count(problems)} (exit {EX_CONFIG})"]),
            hint=hint,
            code=next(problem.code for problem in self.problems if problem.severity == "error"),
        )


def bounded(findings: Sequence[Finding]) -> list[Finding]:
    """Errors before warnings, and no more than FINDINGS_LIMIT of them: one after these says that there are more."""
    ordered = sorted(findings, key=lambda finding: finding.severity != "error")
    if len(ordered) <= FINDINGS_LIMIT:
        return ordered
    left = ordered[FINDINGS_LIMIT]
    message = f"more than {FINDINGS_LIMIT} findings: from here on they are left out"
    return [*ordered[:FINDINGS_LIMIT], replace(left, code=TOO_MANY, message=message, expectation="", near="")]


def problem(source: Source, finding: Finding) -> Problem:
    """The finding with the place where `source` has it."""
    return Problem(
        source.place(finding.path, key=finding.at_key),
        finding.code,
        dotted(finding.path),
        finding.message,
        finding.expectation,
        finding.near,
        finding.severity,
    )


def refuse(problems: Iterable[Problem]) -> None:
    """Raises ConfigError with all of the problems if one of them is an error."""
    found = list(problems)
    if any(problem.severity == "error" for problem in found):
        raise ConfigError(found)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems in the order of the texts that they are about."""
    return tuple(sorted(problems, key=lambda one: (one.place.source, one.place.line, one.place.column)))


def count(problems: Sequence[Problem]) -> str:
    """How many of which severity in how many places: `2 errors, 1 warning in 1 file`."""
    kinds = [problem.severity for problem in problems]
    found = [
        f"{number} {severity}{'s' * (number != 1)}"
        for severity in ("error", "warning")
        if (number := kinds.count(severity))
    ]
    places = {problem.place.source for problem in problems}
    noun = "file" if all(problem.place.line for problem in problems) else "place"
    return f"{', '.join(found)} in {len(places)} {noun}{'s' * (len(places) != 1)}"


def dotted(path: Path) -> str:
    """The path as TOML would write it: `services."a.b"[0].address`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part and _BARE.issuperset(part) else json.dumps(part))
    return text


def near_match(name: str, known: Iterable[str]) -> str:
    """The known name that is most like `name`, or an empty text."""
    return next(iter(difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.6)), "")


def printable(text: str, limit: int | None = None) -> str:
    """The text for a terminal: no control characters but the line breaks of ours, cut with `…` at `limit`."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(c if c.isprintable() or (c == "\n" and limit is None) else "\N{REPLACEMENT CHARACTER}" for c in text)
