"""A recorded trace: a file with a JSON object in each line, either a `Moment`, or what `pannier central status -o json
--follow` prints.

Lines are read one by one, so a trace may be long. What is wrong with one is said with file, line and field, and nothing
is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from pannier.shared.check import check
from pannier.shared.explain import (
    BAD_VALUE,
    SYNTAX,
    UNREADABLE,
    WRONG_TYPE,
    ConfigError,
    Place,
    Problem,
    problem,
    refuse,
)
from pannier.shared.toml_position import Path as Field
from pannier.supervisor.central_simulation import Host, Inputs, Moment, Number

T = TypeVar("T")

LONGEST: Final = 64 * 1024
FOLLOWED_MS: Final = 500
"""Between two lines of `--follow` that do not say when they were printed."""
NO_WAY: Final = frozenset({"central-down", "central-slow", "no-central", "policy-unknown"})
"""Reasons of a recorded state with which the Central could not be used."""


class _State(Struct, frozen=True):
    """What is replayed of a recorded state."""

    inputs: Inputs
    weight: Number = 0.0
    limit: Number = 100.0
    reason: str = ""
    forced: bool = False
    since_ms: int = 0


@dataclass(frozen=True)
class _Line:
    file: str
    number: int
    text: str

    def place(self, _path: Field, *, key: bool = False) -> Place:
        return Place(self.file, self.number, 1, self.text)

    def refused(self, code: str, message: str, expectation: str = "") -> ConfigError:
        return ConfigError([Problem(self.place(()), code, "", message, expectation)])


def recorded(file: str) -> Host:
    """The moments of a trace. Raises ConfigError for the first line that is none, and for a file without any."""
    last: int | None = None
    for line in _lines(file):
        moment = _moment(line, last)
        if moment is not None:
            last = moment.ms
            yield moment
    if last is None:
        raise ConfigError([Problem(Place(file), BAD_VALUE, "", "a trace without a line")])


def _lines(file: str) -> Iterator[_Line]:
    try:
        with Path(file).open("rb") as stream:
            number = 0
            while raw := stream.readline(LONGEST + 1):
                number += 1
                line = _Line(file, number, raw.decode(errors="replace").rstrip("\r\n"))
                if len(raw) > LONGEST:
                    raise line.refused(SYNTAX, f"a line of more than {LONGEST} bytes")
                if line.text.strip():
                    yield line
    except OSError as error:
        raise ConfigError([Problem(Place(file), UNREADABLE, "", error.strerror or str(error))]) from error


def _moment(line: _Line, last: int | None) -> Moment | None:
    """What the line says; None for a status of which no process had anything to say."""
    try:
        data = msgspec.json.decode(line.text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise line.refused(SYNTAX, str(error), 'expected JSON such as {"ms": 250, "host_pressure": 31.5}') from error
    if not isinstance(data, dict):
        raise line.refused(WRONG_TYPE, "no object", 'expected JSON such as {"ms": 250, "host_pressure": 31.5}')
    if "inputs" not in data and "states" not in data:
        return _checked(line, data, Moment)
    state = _newest(line, data)
    if state is None:
        return None
    passed = 0 if last is None else last + FOLLOWED_MS
    said = {
        **msgspec.structs.asdict(state.inputs),
        "ms": data.get("ms", passed),
        "usable": state.reason not in NO_WAY,
        "limit": state.limit,
        "forced": state.weight if state.forced else None,
    }
    return _checked(line, said, Moment)


def _newest(line: _Line, data: Mapping[str, Any]) -> _State | None:
    """Of a status the process in force; of two the one that came last."""
    if "states" not in data:
        return _state(line, data, ())
    states = data["states"]
    if not isinstance(states, list):
        raise line.refused(WRONG_TYPE, "states is no list")
    found = [_state(line, state, ("states", at)) for at, state in enumerate(states)]
    return max(found, key=lambda state: state.since_ms, default=None)


def _state(line: _Line, data: Any, at: Field) -> _State:
    known = {name: data[name] for name in _State.__struct_fields__ if name in data} if isinstance(data, dict) else data
    return _checked(line, known, _State, at)


def _checked(line: _Line, data: Any, type_: type[T], at: Field = ()) -> T:
    refuse(problem(line, finding) for finding in check(data, (type_,), at=at))
    return msgspec.convert(data, type_)
