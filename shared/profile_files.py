"""Finds and reads the files of profiles and projects, with the parents that a profile extends.

A profile is named, and found beside the project file (`profiles/NAME.toml`) or among the built-in ones; a name is
checked before it becomes part of a path, so it cannot leave those folders. What a built-in profile extends is built in,
too: a `staging` of one's own does not change `production`. Only a person, by an option or in a project file, may point
at a path ending in `.toml`. Files are limited in size and nesting before any parser sees them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath
from typing import Any

from pannier.profiles import STAGES
from pannier.shared.check import check
from pannier.shared.explain import (
    BAD_VALUE,
    SYNTAX,
    UNKNOWN_NAME,
    UNREADABLE,
    ConfigError,
    Finding,
    Place,
    Problem,
    near_match,
    problem,
    refuse,
)
from pannier.shared.layers import Document, Layer, line_of, parse_toml
from pannier.shared.profile import Profile
from pannier.shared.runtime import NAME_PATTERN

SIZE_LIMIT = 256 * 1024
EXTENDS_LIMIT = 8

SidecarTypes = Mapping[str, type]


def builtin_profiles() -> list[str]:
    """The names of the profiles that come with Pannier, in the order of the stages."""
    return list(STAGES)


def profile_names(folder: FilePath | None = None) -> dict[str, str]:
    """Every profile that can be named, with where it is: `built in` or its file in `folder`/profiles."""
    names = dict.fromkeys(builtin_profiles(), "built in")
    if folder is not None and (folder / "profiles").is_dir():
        own = sorted((folder / "profiles").glob("*.toml"))
        names |= {path.stem: str(path) for path in own if re.fullmatch(NAME_PATTERN, path.stem)}
    return names


def profile_layers(name: str, start: FilePath, folder: FilePath, sidecars: SidecarTypes) -> list[Layer]:
    """The profile and those it extends, the lowest first. A path begins at `start`, `folder` is the project's.

    Raises ConfigError with all problems of the first file that has any.
    """
    layers: list[Layer] = []
    seen: list[str] = []
    asked: Document | None = None
    wanted: str | None = name
    own: FilePath | None = folder
    while wanted is not None:
        by_path = asked is None and wanted.endswith(".toml")
        file = (start / wanted).absolute() if by_path else _find(wanted, own, seen, asked)
        if not by_path and file == _builtin(wanted):
            own = None
        document, data = read_document(file)
        seen.append(str(file))
        findings = check(data, (Profile,), tables={"sidecar": sidecars}, partial=True)
        if len(seen) > EXTENDS_LIMIT:
            findings.append(Finding(("extends",), BAD_VALUE, f"more than {EXTENDS_LIMIT} profiles extend one another"))
        refuse(problem(document, finding) for finding in findings)
        wanted = data.pop("extends", None)
        layers.insert(0, Layer(f"profile {FilePath(document.name).stem}", data, document))
        asked = document
    return layers


def _find(name: str, folder: FilePath | None, seen: Sequence[str], asked: Document | None) -> FilePath | Traversable:
    known = profile_names(folder)
    place = asked.place(("extends",)) if asked else Place(f"profile {name[:80]!r}")
    subject = "extends" if asked else ""
    if re.fullmatch(NAME_PATTERN, name) is None:
        remark = "expected 1 to 63 of a-z, 0-9, -"
        raise ConfigError([Problem(place, UNKNOWN_NAME, subject, "no profile name", remark, near_match(name, known))])
    # A profile of one's own may extend the built-in one of the same name.
    own: list[FilePath | Traversable] = [] if folder is None else [folder / "profiles" / f"{name}.toml"]
    candidates = [*own, _builtin(name)]
    for candidate in candidates:
        if candidate.is_file() and str(candidate) not in seen:
            return candidate
    if name in known:
        raise ConfigError([Problem(place, BAD_VALUE, subject, "profiles extend one another in a circle")])
    remark = f"known here: {', '.join(known)}"
    near = near_match(name, known)
    raise ConfigError([Problem(place, UNKNOWN_NAME, subject, f"unknown profile {name!r}", remark, near)])


def _builtin(name: str) -> Traversable:
    return resources.files("pannier.profiles") / f"{name}.toml"


def read_document(file: FilePath | Traversable) -> tuple[Document, dict[str, Any]]:
    """A file as a source, and what it says. Raises ConfigError if it cannot be read, or is no TOML."""
    name = shown(file)
    try:
        with file.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([Problem(Place(name), UNREADABLE, "", f"cannot be read: {reason}")]) from error
    if len(raw) > SIZE_LIMIT:
        message = f"larger than {SIZE_LIMIT // 1024} KiB"
        raise ConfigError([Problem(Place(name), UNREADABLE, "", message, "is it a configuration at all?")])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode()
        lines = before.split("\n")
        place = line_of(name, lines, len(lines), len(lines[-1]) + 1)
        raise ConfigError([Problem(place, SYNTAX, "", "no UTF-8 text")]) from error
    return parse_toml(name, text)


def shown(file: FilePath | Traversable) -> str:
    """The path as a person here would write it."""
    if isinstance(file, FilePath) and file.is_relative_to(FilePath.cwd()):
        return str(file.relative_to(FilePath.cwd()))
    return str(file)
