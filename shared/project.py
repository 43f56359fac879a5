"""Reads profiles and project files, and resolves them with all layers into what one service runs on.

A profile is named, and found beside the project file (`profiles/NAME.toml`) or among the built-in ones; a name is
checked before it becomes part of a path, so it cannot leave those folders. Only a person, by an option or in a project
file, may point at a path ending in `.toml`. Files are limited in size and nesting before any parser sees them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath
from typing import Any

import msgspec
from pannier.profiles import STAGES
from pannier.shared.check import check
from pannier.shared.errors import UsageError
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
)
from pannier.shared.layers import (
    Assignments,
    Document,
    Layer,
    Origin,
    environment_layer,
    line_of,
    merge,
    parse_toml,
    set_layer,
)
from pannier.shared.profile import App, Profile, Settings
from pannier.shared.runtime import NAME_PATTERN
from pannier.shared.toml_position import Path

PROJECT_FILE = "pannier.toml"
SIZE_LIMIT = 256 * 1024
EXTENDS_LIMIT = 8

SidecarTypes = Mapping[str, type]


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: str = "dev"
    apps: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Project:
    """A project file: its `profile` (name or path), its `apps` by name, and what it lays over the profile."""

    path: FilePath
    profile: str
    apps: Mapping[str, App]
    layer: Layer = field(repr=False)
    overlays: Mapping[str, Layer] = field(repr=False)

    @property
    def folder(self) -> FilePath:
        return self.path.parent


@dataclass(frozen=True, slots=True)
class Resolved:
    """The profile that holds after all layers, and where each of its values comes from (defaults have no origin)."""

    name: str
    profile: Profile
    data: Mapping[str, Any] = field(repr=False)
    origins: Mapping[Path, Origin] = field(repr=False)


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


def load_project(path: str | FilePath, *, sidecars: SidecarTypes) -> Project:
    """Reads a project file and checks all of it. Raises ConfigError with every problem in it."""
    path = FilePath(path).absolute()
    document, data = _read(path)
    own = {key: value for key, value in data.items() if key != "apps"}
    findings = check(own, (Settings, _Head), tables={"sidecar": sidecars}, partial=True)
    tables = data.get("apps", {})
    if not isinstance(tables, dict):
        findings += check({"apps": tables}, (_Head,), partial=True)
        tables = {}
    for name, table in tables.items():
        at = ("apps", name)
        if re.fullmatch(NAME_PATTERN, name) is None:
            findings.append(Finding(at, BAD_VALUE, "no service name", "expected 1 to 63 of a-z, 0-9, -", at_key=True))
        findings += check(table, (App, Settings), tables={"sidecar": sidecars}, at=at, partial=True)
    if findings:
        raise ConfigError([problem(document, finding) for finding in findings])
    shared = _fields(App)
    return Project(
        path=path,
        profile=own.pop("profile", "dev"),
        apps={
            name: msgspec.convert({key: table[key] for key in table.keys() & shared}, App)
            for name, table in tables.items()
        },
        layer=Layer(document.name, own, document),
        overlays={
            name: Layer(
                f"apps.{name}",
                {key: value for key, value in table.items() if key not in shared},
                Document(document.name, document.text, document.positions, ("apps", name)),
            )
            for name, table in tables.items()
        },
    )


def resolve(
    profile: str | None = None,
    *,
    sidecars: SidecarTypes,
    project: Project | None = None,
    app: str | None = None,
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    live: Mapping[str, Any] | None = None,
) -> Resolved:
    """The profile by name or path (else the project's, else `dev`) with every layer over it, from the bottom up.

    Profile, project file, the project's `app`, environment, `--set` assignments, live. The other apps of the project
    are static endpoints by their names, unless a layer names the same service. Raises ConfigError with all problems,
    UsageError if the project has no such app.
    """
    name = profile or (project.profile if project else "dev")
    # A path on the command line starts where the user is, one in a project file where that file is.
    start = project.folder if project and not profile else FilePath.cwd()
    layers = _profile_layers(name, start, project.folder if project else start, sidecars)
    if project is not None:
        layers += [_neighbours(project, app), project.layer]
        if app is not None:
            layers.append(_overlay(project, app))
    above = [
        environment_layer(environment or {}, sidecars),
        set_layer(assignments, sidecars),
        live_layer(live or {}),
    ]
    return settle(name, layers, above, sidecars=sidecars)


def live_layer(data: Mapping[str, Any]) -> Layer:
    """What commands have changed at run time, as the topmost layer."""
    return Layer("live", data, Assignments({}, "live layer"))


def settle(name: str, below: Sequence[Layer], above: Sequence[Layer], *, sidecars: SidecarTypes) -> Resolved:
    """What all layers come to; those `above` were not checked yet. Raises ConfigError with all problems."""
    problems = [
        problem(layer.source, finding)
        for layer in above
        for finding in check(layer.data, (Settings,), tables={"sidecar": sidecars}, partial=True)
    ]
    if problems:
        raise ConfigError(problems)
    data, origins = merge([*below, *above])
    whole = check(data, (Profile,), tables={"sidecar": sidecars})
    if whole:
        raise ConfigError([problem(_Merged(origins, name), finding) for finding in whole])
    return Resolved(name, _decode(data, sidecars), data, origins)


def validate_file(path: str | FilePath, *, sidecars: SidecarTypes) -> str:
    """Checks a profile or project file by itself and says which of them it is. Raises ConfigError with all problems."""
    path = FilePath(path).absolute()
    _, data = _read(path)
    if {"apps", "profile"} & data.keys() or path.name == PROJECT_FILE:
        project = load_project(path, sidecars=sidecars)
        for app in project.apps or [None]:
            resolve(sidecars=sidecars, project=project, app=app)
        return "project"
    folder = path.parent.parent if path.parent.name == "profiles" else path.parent
    layers = _profile_layers(str(path), path.parent, folder, sidecars)
    data, origins = merge(layers)
    if whole := check(data, (Profile,), tables={"sidecar": sidecars}):
        raise ConfigError([problem(_Merged(origins, path.name), finding) for finding in whole])
    return "profile"


@dataclass(frozen=True, slots=True)
class _Merged:
    origins: Mapping[Path, Origin]
    name: str

    def place(self, path: Path, *, key: bool = False) -> Place:
        for length in range(len(path), 0, -1):
            for known, origin in self.origins.items():
                if known[:length] == path[:length]:
                    return origin.place
        return Place(f"profile {self.name}")


def _decode(data: Mapping[str, Any], sidecars: SidecarTypes) -> Profile:
    tables: Mapping[str, Any] = data.get("sidecars", {})
    configs: dict[str, Any] = {name: msgspec.convert(table, sidecars[name]) for name, table in tables.items()}
    plain = msgspec.convert({key: value for key, value in data.items() if key != "sidecars"}, Profile)
    return msgspec.structs.replace(plain, sidecars=configs)


def _overlay(project: Project, app: str) -> Layer:
    if app not in project.overlays:
        near = near_match(app, project.apps)
        raise UsageError(
            f"{_shown(project.path)} has no app {app[:80]!r}",
            hint=f'did you mean "{near}"?' if near else f"it has: {', '.join(project.apps) or 'none'}",
        )
    return project.overlays[app]


def _neighbours(project: Project, app: str | None) -> Layer:
    others = {name: other.port for name, other in project.apps.items() if name != app and other.port}
    services = {name: [{"address": f"127.0.0.1:{port}"}] for name, port in others.items()}
    document = project.layer.source
    labels: dict[Path, str] = {("services", name): str(document.place(("apps", name, "port"))) for name in others}
    return Layer("apps", {"services": services} if services else {}, Assignments(labels, str(project.path)))


def _profile_layers(name: str, start: FilePath, folder: FilePath, sidecars: SidecarTypes) -> list[Layer]:
    """The profile and those it extends, the lowest first."""
    layers: list[Layer] = []
    seen: list[str] = []
    asked: Document | None = None
    wanted: str | None = name
    while wanted is not None:
        by_path = asked is None and wanted.endswith(".toml")
        file = (start / wanted).absolute() if by_path else _find(wanted, folder, seen, asked)
        document, data = _read(file)
        seen.append(str(file))
        findings = check(data, (Profile,), tables={"sidecar": sidecars}, partial=True)
        if len(seen) > EXTENDS_LIMIT:
            findings.append(Finding(("extends",), BAD_VALUE, f"more than {EXTENDS_LIMIT} profiles extend one another"))
        if findings:
            raise ConfigError([problem(document, finding) for finding in findings])
        wanted = data.pop("extends", None)
        layers.insert(0, Layer(f"profile {FilePath(document.name).stem}", data, document))
        asked = document
    return layers


def _find(name: str, folder: FilePath, seen: Sequence[str], asked: Document | None) -> FilePath | Traversable:
    known = profile_names(folder)
    place = asked.place(("extends",)) if asked else Place(f"profile {name[:80]!r}")
    subject = "extends" if asked else ""
    if re.fullmatch(NAME_PATTERN, name) is None:
        remark = "expected 1 to 63 of a-z, 0-9, -"
        raise ConfigError([Problem(place, UNKNOWN_NAME, subject, "no profile name", remark, near_match(name, known))])
    # A profile of one's own may extend the built-in one of the same name.
    candidates: list[FilePath | Traversable] = [
        folder / "profiles" / f"{name}.toml",
        resources.files("pannier.profiles") / f"{name}.toml",
    ]
    for candidate in candidates:
        if candidate.is_file() and str(candidate) not in seen:
            return candidate
    if name in known:
        raise ConfigError([Problem(place, BAD_VALUE, subject, "profiles extend one another in a circle")])
    remark = f"known here: {', '.join(known)}"
    near = near_match(name, known)
    raise ConfigError([Problem(place, UNKNOWN_NAME, subject, f"unknown profile {name!r}", remark, near)])


def _read(file: FilePath | Traversable) -> tuple[Document, dict[str, Any]]:
    name = _shown(file)
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
        place = line_of(name, before, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise ConfigError([Problem(place, SYNTAX, "", "no UTF-8 text")]) from error
    return parse_toml(name, text)


def _shown(file: FilePath | Traversable) -> str:
    if isinstance(file, FilePath) and file.is_relative_to(FilePath.cwd()):
        return str(file.relative_to(FilePath.cwd()))
    return str(file)


def _fields(struct: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(struct.__struct_encode_fields__)
