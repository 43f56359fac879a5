"""Resolves a profile, a project file and all other layers into what one service runs on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from pannier.shared import central_rules
from pannier.shared.check import check
from pannier.shared.errors import UsageError
from pannier.shared.explain import (
    BAD_VALUE,
    ConfigError,
    Finding,
    Problem,
    bounded,
    in_order,
    near_match,
    problem,
    refuse,
)
from pannier.shared.layers import Assignments, Layer, Merged, Origin, environment_layer, merge, set_layer
from pannier.shared.profile import App, Profile, Settings
from pannier.shared.profile_files import SidecarTypes, profile_layers, read_document, shown
from pannier.shared.rights import refusals
from pannier.shared.runtime import NAME_PATTERN
from pannier.shared.toml_position import Path

PROJECT_FILE = "pannier.toml"
APPS_LIMIT = 64


AppName = Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$(?!\\n)", description="a name of 1 to 63 of a-z, 0-9, -")]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a project file has besides settings: the profile that they are laid over, and the apps."""

    profile: str = "dev"
    apps: Annotated[dict[AppName, Any], Meta(extra={"mixes": (App, Settings)})] = {}


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
    """The profile that holds after all layers, and where each of its values comes from (defaults have no origin).

    `warnings` say what a sidecar finds in its settings that cannot be meant.
    """

    name: str
    profile: Profile
    data: Mapping[str, Any] = field(repr=False)
    origins: Mapping[Path, Origin] = field(repr=False)
    warnings: tuple[Problem, ...] = ()

    def problems(self, findings: Sequence[Finding]) -> list[Problem]:
        """The findings with the places where the layers have them."""
        source = Merged(self.origins, f"profile {self.name}")
        return [problem(source, finding) for finding in bounded(findings)]


def load_project(path: str | FilePath, *, sidecars: SidecarTypes) -> Project:
    """Reads a project file and checks all of it. Raises ConfigError with every problem in it."""
    path = FilePath(path).absolute()
    document, data = read_document(path)
    findings = check(data, (Settings, Head), tables={"sidecar": sidecars}, partial=True)
    tables = data.pop("apps", {})
    if isinstance(tables, dict) and len(tables) > APPS_LIMIT:
        findings = [Finding(("apps",), BAD_VALUE, f"has {len(tables)} apps", f"expected at most {APPS_LIMIT}")]
    refuse(problem(document, finding) for finding in findings)
    shared = _fields(App)
    return Project(
        path=path,
        profile=data.pop("profile", "dev"),
        apps={
            name: msgspec.convert({key: table[key] for key in table.keys() & shared}, App)
            for name, table in tables.items()
        },
        layer=Layer(document.name, data, document),
        overlays={
            name: Layer(
                f"apps.{name}",
                {key: value for key, value in table.items() if key not in shared},
                replace(document, under=("apps", name)),
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
    folder: FilePath | None = None,
) -> Resolved:
    """The profile by name or path (else the project's, else `dev`) with every layer over it, from the bottom up.

    Profile, project file, the project's `app`, environment, `--set` assignments, live. The other apps of the project
    are static endpoints by their names, unless a layer names the same service: they are below everything. `folder` is
    where the user is, if not here. Raises ConfigError with all problems, UsageError if the project has no such app.
    """
    name = profile if profile is not None else project.profile if project else "dev"
    # A path on the command line starts where the user is, one in a project file where that file is.
    start = project.folder if project and profile is None else folder or FilePath.cwd()
    layers = profile_layers(name, start, project.folder if project else start, sidecars)
    if project is not None:
        layers = [_neighbours(project, app), *layers, project.layer]
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
    refuse(
        problem(layer.source, finding)
        for layer in above
        for finding in check(layer.data, (Settings,), tables={"sidecar": sidecars}, partial=True)
    )
    data, origins = merge([*below, *above])
    findings = check(data, (Profile,), tables={"sidecar": sidecars})
    configs = _configs(data.get("sidecars", {}), findings, sidecars)
    for sidecar, config in configs.items():
        if callable(contradictions := getattr(config, "contradictions", None)):
            found: list[Finding] = contradictions()
            findings += [replace(finding, path=("sidecars", sidecar, *finding.path)) for finding in found]
    source = Merged(origins, f"profile {name}")
    refuse(problem(source, finding) for finding in bounded(findings))
    plain = msgspec.convert({key: value for key, value in data.items() if key != "sidecars"}, Profile)
    pilot = getattr(configs.get("discovery"), "pilot", None)
    findings += central_rules.findings(
        plain,
        discovery="discovery" in configs,
        pilot=pilot is not None,
        advertised=getattr(pilot, "advertise", None),
    )
    problems = [problem(source, finding) for finding in bounded([*findings, *refusals(configs, plain.grants)])]
    refuse(problems)
    profile = msgspec.structs.replace(plain, sidecars=configs)
    return Resolved(name, profile, data, origins, in_order(problems))


def _configs(tables: Any, findings: Sequence[Finding], sidecars: SidecarTypes) -> dict[str, Any]:
    """The settings of each sidecar that is well formed: nothing was found in its table."""
    malformed = {finding.path[1:2] for finding in findings if finding.path[:1] == ("sidecars",)}
    if () in malformed:
        return {}
    return {name: msgspec.convert(table, sidecars[name]) for name, table in tables.items() if (name,) not in malformed}


def examine(
    path: str | FilePath, *, sidecars: SidecarTypes, look: Callable[[Profile], Sequence[Finding]] = lambda _: ()
) -> tuple[Literal["profile", "project"], list[Problem]]:
    """Which of them a file is, and everything wrong with it by itself: a project once with each app.

    `look` may find more in what it comes to.
    """
    path = FilePath(path).absolute()
    kind: Literal["profile", "project"] = "project" if path.name == PROJECT_FILE else "profile"
    try:
        _, data = read_document(path)
        if {"apps", "profile"} & data.keys():
            kind = "project"
        if kind == "project":
            return kind, examine_apps(load_project(path, sidecars=sidecars), sidecars=sidecars, look=look)
        folder = path.parent.parent if path.parent.name == "profiles" else path.parent
        layers = profile_layers(str(path), path.parent, folder, sidecars)
        return kind, _seen(settle(path.stem, layers, [], sidecars=sidecars), look)
    except ConfigError as error:
        return kind, list(error.problems)


def examine_apps(
    project: Project,
    profile: str | None = None,
    *,
    sidecars: SidecarTypes,
    look: Callable[[Profile], Sequence[Finding]] = lambda _: (),
) -> list[Problem]:
    """Everything wrong with what the apps of the project come to with the profile (else the project's own).

    What is wrong for several apps in the same way is said once.
    """
    problems: dict[Problem, None] = {}
    for app in project.apps or [None]:
        try:
            found = _seen(resolve(profile, sidecars=sidecars, project=project, app=app), look)
        except ConfigError as error:
            found = list(error.problems)
        problems |= dict.fromkeys(found)
    return list(problems)


def _seen(resolved: Resolved, look: Callable[[Profile], Sequence[Finding]]) -> list[Problem]:
    return [*resolved.warnings, *resolved.problems(look(resolved.profile))]


def _overlay(project: Project, app: str) -> Layer:
    if app not in project.overlays:
        near = near_match(app, project.apps)
        raise UsageError(
            f"{shown(project.path)} has no app {app[:80]!r}",
            hint=f'did you mean "{near}"?' if near else f"it has: {', '.join(project.apps) or 'none'}",
        )
    return project.overlays[app]


def _neighbours(project: Project, app: str | None) -> Layer:
    others = {name: other for name, other in project.apps.items() if name != app and (other.port or other.socket)}
    services = {name: [{"address": _public(project, other)}] for name, other in others.items()}
    document = project.layer.source
    labels: dict[Path, str] = {
        ("services", name): str(document.place(("apps", name, "socket" if other.socket else "port")))
        for name, other in others.items()
    }
    return Layer("apps", {"services": services} if services else {}, Assignments(labels, str(project.path)))


def _public(project: Project, app: App) -> str:
    return f"127.0.0.1:{app.port}" if app.socket is None else f"unix:{socket_path(project, app, app.socket)}"


def socket_path(project: Project, app: App, path: str) -> str:
    """The absolute path of a socket that an app of the project names."""
    return os.path.normpath(project.folder / (app.cwd or "") / path)


def _fields(struct: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(struct.__struct_encode_fields__)
