"""What the command line, the project file and the layers come to: one `Request` for the supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from pannier.shared.duration import seconds
from pannier.shared.errors import UsageError
from pannier.shared.explain import refuse
from pannier.shared.profile import App, Profile
from pannier.shared.project import PROJECT_FILE, Project, load_project, resolve, socket_path
from pannier.shared.runtime import SOCKET_NAME_LIMIT, check_name, default_name
from pannier.supervisor import certificates
from pannier.supervisor.live import read_live
from pannier.supervisor.plan import Arguments, Plan, Said
from pannier.supervisor.planning import Installation
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

_OF_ONE: Final = ("name", "port", "outbound_port", "metrics_port")


class Request(msgspec.Struct, frozen=True):
    """What `run` was asked for.

    `said` is what the profile was made from. `seconds`: it ends by itself after that. `lifeline`: a descriptor whose
    end of file ends the service. `on_ready` is called when all is ready.
    """

    arguments: Arguments
    profile: Profile
    said: Said
    installation: Installation
    environment: dict[str, str]
    seconds: float | None = None
    lifeline: int | None = None
    on_ready: Callable[[Plan], None] = lambda _: None

    def with_ends(self, *, lifeline: int | None, on_ready: Callable[[Plan], None]) -> Request:
        """The same request, tied to whoever started this process."""
        return msgspec.structs.replace(self, lifeline=lifeline, on_ready=on_ready)

    def with_seconds(self, seconds: float | None) -> Request:
        """The same request, to end by itself after so long."""
        return msgspec.structs.replace(self, seconds=seconds)


class Asked(msgspec.Struct, frozen=True):
    """The options of `run`, as they were typed; None and empty = not given. `alone`: a project in this folder is not
    meant."""

    profile: str | None = None
    name: str | None = None
    app_port: str | None = None
    port: int | str | None = None
    outbound_port: str | None = None
    metrics_port: str | None = None
    workers: int | None = None
    ready_timeout: str | None = None
    assignments: tuple[str, ...] = ()
    file: str | None = None
    app: str | None = None
    duration: str | None = None
    command: tuple[str, ...] = ()
    alone: bool = False


def project_of(asked: Asked, types: Mapping[str, type]) -> Project | None:
    """The project file that was named, else the one in this folder, if there is one."""
    if asked.file is not None:
        return load_project(asked.file, sidecars=types)
    if asked.alone:
        return None
    return load_project(PROJECT_FILE, sidecars=types) if Path(PROJECT_FILE).is_file() else None


def runs_many(asked: Asked) -> bool:
    """Whether a whole project is asked for, and not one app, which `--app`, its name or what to run tell.

    Raises UsageError for options that only one app can have, ConfigError for a project that is none.
    """
    if asked.alone or asked.app is not None or asked.command or asked.app_port is not None:
        return False
    project = project_of(asked, sidecar_types())
    if project is None or asked.name in project.apps:
        return False
    if given := [f"--{field.replace('_', '-')}" for field in _OF_ONE if getattr(asked, field) is not None]:
        raise UsageError(
            f"{', '.join(given)}: for one app, and a project is run here ({', '.join(project.apps) or 'no apps'})",
            hint="choose one with --app, or say what to run behind `--`",
        )
    return True


def request_for(asked: Asked, environment: Mapping[str, str]) -> Request:
    """Resolves everything for one app. Raises ConfigError with all problems, UsageError for options that are none."""
    types = sidecar_types()
    project = project_of(asked, types)
    name = check_name(asked.name or asked.app or default_name())
    known = project is not None and name in project.apps
    app = project.apps[name] if project is not None and known else App()
    inputs: dict[str, Any] = {
        "sidecars": types,
        "project": project,
        "app": asked.app or (name if known else None),
        "environment": environment,
        "assignments": asked.assignments,
    }
    layer = read_live(name)
    resolved = resolve(asked.profile, **inputs, live=layer)
    below = resolve(asked.profile, **inputs) if layer else resolved
    command = asked.command or tuple(app.command)
    folder = _folder(project, app)
    address = _app_address(asked.app_port, app, folder)
    central = resolved.profile.central
    refuse(resolved.problems(certificates.findings(None if central is None else central.tls)))
    if not command and address is None and (central is None or central.gateway is None):
        raise UsageError("nothing to run", hint="pannier run --app-port 8080 -- python app.py")
    return Request(
        arguments=Arguments(
            name=name,
            profile=Path(resolved.name).stem,
            command=command,
            app=address,
            port=_listener(asked.port, app.port, _of_project(project, app, app.socket), "--port"),
            outbound_port=_listener(
                asked.outbound_port,
                app.outbound_port,
                _of_project(project, app, app.outbound_socket),
                "--outbound-port",
            ),
            metrics_port=_port(asked.metrics_port, app.metrics_port, "--metrics-port"),
            workers=asked.workers,
            ready_timeout=duration(asked.ready_timeout, "--ready-timeout"),
            cwd=folder,
            terminal=bool(command) and sys.stdin is not None and sys.stdin.isatty(),
            project=None if project is None else str(project.path),
            entry=inputs["app"],
            assignments=asked.assignments,
            source=_source(asked.profile, project),
        ),
        profile=resolved.profile,
        said=Said(dict(below.data), layer),
        installation=Installation(types, sidecar_modules()),
        environment={**environment, **app.env},
        seconds=duration(asked.duration, "--for"),
    )


def duration(text: str | None, option: str) -> float | None:
    """Seconds; raises UsageError that names the option."""
    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def app_address(text: str) -> str:
    """`8080` as `127.0.0.1:8080`, `unix:/path` as it is; raises UsageError for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return f"unix:{os.path.abspath(path)}" if path else _no_port(text, "--app-port")
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return f"127.0.0.1:{int(text)}"
    return _no_port(text, "--app-port")


def _source(profile: str | None, project: Project | None) -> str | None:
    """The path of a profile that was named by one: on the command line from here, in a project file from there."""
    if profile is not None:
        return os.path.abspath(profile) if profile.endswith(".toml") else None
    named = project is not None and project.profile.endswith(".toml")
    return os.path.abspath(project.folder / project.profile) if project is not None and named else None


def _app_address(text: str | None, app: App, folder: str) -> str | None:
    if text is not None:
        return app_address(text)
    if app.app_socket is not None:
        return f"unix:{os.path.normpath(os.path.join(folder, app.app_socket))}"
    return None if app.app_port is None else f"127.0.0.1:{app.app_port}"


def _of_project(project: Project | None, app: App, socket: str | None) -> str | None:
    return None if project is None or socket is None else socket_path(project, app, socket)


def _listener(text: int | str | None, port: int | str | None, socket: str | None, option: str) -> int | str | None:
    """A port, or `unix:` and an absolute path: of the command line, else of the project."""
    if isinstance(text, str) and text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return _socket(os.path.abspath(path), option) if path else _no_port(text, option)
    return _socket(socket, option) if text is None and socket is not None else _port(text, port, option)


def _socket(path: str, option: str) -> str:
    """`unix:` and the path. It has no spaces, since others are told it as an address."""
    if not path.isprintable() or " " in path:
        raise UsageError(f"{option}: {path!r} has spaces or worse", hint="choose a path such as unix:/run/app.sock")
    if (length := len(path.encode())) > SOCKET_NAME_LIMIT:
        raise UsageError(
            f"{option}: {path} takes {length} bytes; a socket's path holds {SOCKET_NAME_LIMIT}",
            hint="choose a shorter one, in a folder of /run for example",
        )
    return f"unix:{path}"


def _port(text: int | str | None, given: int | str | None, option: str) -> int | None:
    value: int | str | None = text if text is not None else given
    if value is None:
        return None
    if value == "auto" and option != "--port":
        return 0
    if str(value).isascii() and str(value).isdigit() and int(value) < 65536:
        return int(value)
    return int(_no_port(str(value), option))


def _no_port(text: str, option: str) -> str:
    also = "auto" if option == "--metrics-port" else "a path as unix:/run/app.sock"
    raise UsageError(f"{option}: {text!r} is no port", hint=f"give a number from 1 to 65535, or {also}")


def _folder(project: Project | None, app: App) -> str:
    if project is None or app.cwd is None:
        return str(project.folder) if project is not None and app.command else os.getcwd()
    return os.path.abspath(project.folder / app.cwd)


def option_words(asked: Asked, app: str) -> Sequence[str]:
    """The options that a `run` of one app of the same project gets."""
    words = ["--app", app]
    words += ["--file", asked.file or PROJECT_FILE]
    words += ["--profile", asked.profile] if asked.profile else []
    words += ["--for", asked.duration] if asked.duration else []
    words += ["--workers", str(asked.workers)] if asked.workers else []
    words += ["--ready-timeout", asked.ready_timeout] if asked.ready_timeout else []
    for assignment in asked.assignments:
        words += ["--set", assignment]
    return words
