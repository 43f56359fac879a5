"""The file with static endpoints: read when it changes, never believed when it is broken.

Rules:
- A file that cannot be read, parsed or decoded changes nothing: what it said last stays, and the complaint names file
  and line. So does a file without any service after one that had some: an editor that truncates before it writes, or a
  full disk, must not take every service away. To empty it deliberately, give a service an empty list.
- Changes are noticed by (inode, size, mtime) once a second. Refused: inotify, which misses a file behind a replaced
  symlink or bind mount, the way in which orchestrators deliver files.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pannier.shared.check import check
from pannier.shared.explain import UNREADABLE, ConfigError, Problem, problem
from pannier.shared.explain import Place as TextPlace
from pannier.shared.instances import ServiceName
from pannier.shared.layers import Document, parse_toml, syntax_error
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.toml_position import Positions

SIZE_LIMIT = 1 << 20


class StaticFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same `services` as a profile, in TOML or JSON."""

    services: dict[ServiceName, tuple[StaticEndpoint, ...]]


def parse(name: str, text: str) -> dict[str, tuple[StaticEndpoint, ...]]:
    """The services in a TOML text (JSON if `name` ends with `.json`). Raises ConfigError with every reason."""
    document, data = _parse_json(name, text) if name.endswith(".json") else parse_toml(name, text)
    if findings := check(data, [StaticFile]):
        raise ConfigError([problem(document, finding) for finding in findings])
    return msgspec.convert(data, StaticFile).services


def read(path: Path) -> dict[str, tuple[StaticEndpoint, ...]]:
    """The services in a file. Raises ConfigError, and OSError."""
    with path.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    name = str(path)
    if len(data) > SIZE_LIMIT:
        raise ConfigError([Problem(TextPlace(name, 1, 1), UNREADABLE, "", f"longer than {SIZE_LIMIT} bytes")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(TextPlace(name, line, 1), UNREADABLE, "", "not UTF-8")]) from error
    return parse(name, text)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the file brought: whether the services changed, and what is wrong with it ("" = nothing new)."""

    changed: bool = False
    complaint: str = ""


class StaticSource:
    """One watched file; `services` is its last good content."""

    def __init__(self, path: Path, services: dict[str, tuple[StaticEndpoint, ...]] | None = None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._trouble = ""
        self.services = services or {}

    def look(self) -> Look:
        """Reads the file if it changed since the last look. Complains once about each broken version; never raises."""
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return Look()
            self._seen = seen
            services = read(self._path)
        except OSError as error:
            message = f"cannot read {self._path}: {error.strerror}; what it said last stays in force"
            if message == self._trouble:
                return Look()
            self._seen, self._trouble = None, message
            return Look(complaint=message)
        except ConfigError as error:
            return Look(complaint=f"{error}\nwhat it said last stays in force")
        self._trouble = ""
        if self.services and not services:
            return Look(complaint=f"{self._path}:1: no services in it any more; what it said last stays in force")
        changed, self.services = services != self.services, services
        return Look(changed)


def _parse_json(name: str, text: str) -> tuple[Document, Any]:
    lines = text.split("\n")
    try:
        return Document(name, lines, Positions()), json.loads(text)
    except json.JSONDecodeError as error:
        raise syntax_error(name, lines, error.msg, error.lineno, error.colno) from error
    except (RecursionError, ValueError) as error:
        raise syntax_error(name, lines, str(error), 1, 1) from error
