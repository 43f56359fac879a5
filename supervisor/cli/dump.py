"""Collects what a bug report needs and packs it. Whatever is packed goes through one `Redactor`: no member has a way
around it, and each is collected by itself, so that what is gone costs only its own member.

What is known to be secret, and looked for everywhere: the values of the environments of all processes of the service
(but those that every shell has), and the settings that the `Redactor` hides by their name.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import msgspec
from pannier.shared.errors import PannierError
from pannier.shared.messages import LogLines, LogRequest, Nothing, SaidInForce, Status
from pannier.shared.runtime import runtime_dir, state_dir
from pannier.supervisor.bus_state import BusState
from pannier.supervisor.cli.config import revisions, said_in_force
from pannier.supervisor.cli.remains import environments_of, tables_of
from pannier.supervisor.cli.services import ask, running
from pannier.supervisor.redaction import REDACTED, Redactor, secrets_of

_TAIL: Final = 64 << 10  # bytes of the end of a log file
_ORDINARY: Final = re.compile(
    r"PATH|HOME|PWD|OLDPWD|SHELL|LANG|LANGUAGE|LC_\w+|TERM|USER|LOGNAME|HOSTNAME|TZ|SHLVL|_|EDITOR|PAGER|VIRTUAL_ENV"
    r"|XDG_\w+|PANNIER_(NAME|BUS|API|OUTBOUND|FDS|RUNTIME_DIR|STATE_DIR)|NOTIFY_SOCKET|OTEL_SERVICE_NAME|NO_PROXY|no_proxy"
)
"""Variables whose values turn up everywhere and are nobody's secret."""
_PACKAGES: Final = frozenset(
    {"pannier", "click", "h11", "h2", "msgpack", "msgspec", "opentelemetry-sdk", "prometheus-client", "tomlkit", "trio"}
)
_VALUES: Final = re.compile(r" \S.*? → .*?(?=; |\)$|$| \(\+)")
"""The two values of a difference, as a summary of a change has it."""


@dataclass
class Found:
    """`members` by file name: text, or plain data. `missing` says what could not be had; `known` are secrets."""

    members: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def collect(self, name: str, work: Callable[[], Any]) -> None:
        """Has `work` make a member. That it cannot is no reason to leave the others out, whatever went wrong."""
        try:
            self.members[name] = work()
        except PannierError as error:
            self.missing.append(f"{name}: {error.message}")
        except Exception as error:  # a report of a bug must not be kept from being made by that bug
            self.missing.append(f"{name}: {type(error).__name__}: {error}")


def collect(service: str, log_lines: int) -> Found:
    """Everything that can be had of the service, not yet redacted."""
    found = Found()
    found.collect("environment.json", lambda: _environments(service, found.known))
    found.collect("settings.json", lambda: _settings(said_in_force(service)[1], found.known))
    found.known -= {service, found.members.get("settings.json", {}).get("profile", "")}  # which may be words of a shell
    found.collect("processes.json", lambda: _ask(service, "status", Nothing(), Status))
    found.collect("bus.json", lambda: _ask(service, "diagnostics.bus", Nothing(), BusState))
    found.collect("tables.json", lambda: msgspec.to_builtins(tables_of(service)))
    found.collect("history.json", lambda: _history(service))
    found.collect("log.txt", lambda: _log(service, log_lines))
    found.collect("files.json", lambda: _files(service))
    found.collect("versions.json", _versions)
    found.collect("machine.json", _machine)
    return found


def pack(found: Found, folder: str) -> bytes:
    """The archive, without what may be secret."""
    redactor = Redactor(found.known)
    members = {**found.members, "missing.txt": "".join(f"{line}\n" for line in found.missing) or "nothing\n"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, str):
                text = redactor.text(content)
            else:
                text = json.dumps(redactor.tree(content), indent=1, ensure_ascii=False) + "\n"
            data = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _ask(service: str, verb: str, body: msgspec.Struct, reply: type[msgspec.Struct]) -> Any:
    if service not in running():
        raise PannierError(f"the supervisor of {service} does not answer")
    return msgspec.to_builtins(ask(service, lambda bus: bus.request("supervisor", verb, body, reply)))


def _environments(service: str, known: set[str]) -> Any:
    """The processes and the names of their variables alone; the values become known secrets."""
    found = environments_of(service)
    for variables in [*found.values(), dict(os.environ)]:
        known.update(value for name, value in variables.items() if not _ORDINARY.fullmatch(name))
    if not found:
        raise PannierError(f"no process of {service} runs")
    return [
        {"pid": pid, "program": (_read(f"/proc/{pid}/comm") or [""])[0], "names": sorted(_plain_names(variables))}
        for pid, variables in sorted(found.items())
    ]


def _plain_names(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name))


def _settings(said: SaidInForce, known: set[str]) -> Any:
    """What was said; with all defaults it would be longer, and say no more."""
    layers = {"below": msgspec.msgpack.decode(said.below), "live": msgspec.msgpack.decode(said.live)}
    known.update(secrets_of(layers))
    return {"profile": said.profile, "revision": said.revision, **layers}


def _history(service: str) -> Any:
    """Without the values that changes had: a summary does not say of each under which name it stands."""
    found = revisions(service)
    entries = [
        {**msgspec.to_builtins(each), "id": f"{each.id[:4]}…", "summary": _VALUES.sub(f" {REDACTED}", each.summary)}
        for each in found.revisions
    ]
    return {"revisions": entries, "problems": found.problems}


def _log(service: str, lines: int) -> str:
    """The last lines, by the supervisor, else of the file that `pannier up` has them written to."""
    if service in running():
        found = ask(service, lambda bus: bus.request("supervisor", "logs", LogRequest(lines), LogLines)).lines
        return "".join(f"{line.at_ms} {line.source} {line.stream} | {line.text}\n" for line in found)
    path = state_dir() / f"{service}.log"
    if not path.is_file():
        raise PannierError(f"the supervisor of {service} does not answer, and there is no {path}")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:]) + "\n"


def _files(service: str) -> Any:
    """The names in the folders of the service, with kind and size; a socket that is left says much. Contents
    are left out: their names are hashes of what may hold a secret."""
    return {
        str(folder): [
            {"name": path.name, "mode": oct(status.st_mode), "bytes": status.st_size}
            for path in sorted(folder.iterdir())
            if path.suffix != ".content" and (status := path.lstat())
        ]
        for folder in (runtime_dir() / service, state_dir() / "history" / service)
        if folder.is_dir()
    }


def _versions() -> Any:
    installed = {each.name.lower(): each.version for each in distributions()}
    return {
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in sorted(_PACKAGES & installed.keys())},
        "programs": {
            program: (Path(sys.executable).parent / program).is_file() for program in ("pannierd", "pannier-keeper")
        },
    }


def _machine() -> Any:
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "files": {
            path: _read(path)
            for path in (
                "/proc/meminfo",
                "/proc/pressure/cpu",
                "/proc/pressure/memory",
                "/proc/self/limits",
                "/proc/self/cgroup",
                "/sys/fs/cgroup/cpu.max",
                "/sys/fs/cgroup/memory.max",
                "/etc/os-release",
            )
        },
    }


def _read(path: str) -> list[str] | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[:64]
    except OSError:
        return None
