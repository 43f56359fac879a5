"""What will run, as data: the plan of one service and everything it is made of.

Frozen and free of behaviour: a plan prints, compares, and travels to the next supervisor through the keeper.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from urllib.parse import quote

import msgspec
from pannier.supervisor.keeper_protocol import Stdio
from pannier.supervisor.restart import RestartSettings


class Kind(StrEnum):
    KEEPER = "keeper"
    SUPERVISOR = "supervisor"
    PROXY = "proxy"
    SIDECAR = "sidecar"
    APP = "app"


class Readiness(StrEnum):
    """What makes a process ready."""

    SPAWNED = "spawned"  # that it runs
    MESSAGE = "message"  # Ready on the bus
    NOTIFY = "notify"  # READY=1 on the notify socket
    LISTENING = "listening"  # its address accepts a connection


class Arguments(msgspec.Struct, frozen=True):
    """What the command line said. A port of None is the default, 0 any free one, `unix:/path` a socket instead.

    `project`, `entry` (the app's name in it) and `assignments` are kept so that another profile can be laid under them,
    `source` (the path of a profile that was named by one) so that it can be read again.
    """

    name: str
    profile: str = "dev"
    command: tuple[str, ...] = ()
    app: str | None = None  # "127.0.0.1:8080" or "unix:/path"
    port: int | str | None = None
    outbound_port: int | str | None = None
    metrics_port: int | None = None
    workers: int | None = None
    ready_timeout: float | None = None
    cwd: str = "/"
    terminal: bool = False
    project: str | None = None
    entry: str | None = None
    assignments: tuple[str, ...] = ()
    source: str | None = None


class Place(msgspec.Struct, frozen=True):
    """Where a service runs: its folder, the caller's environment, this host's cores, and what was bound: a listener
    has a port or, by its path, a socket. `outward` is this host's address on its way to others, if there is one."""

    directory: str
    environment: dict[str, str]
    pannierd: str
    cores: int
    ports: dict[str, int] = {}
    sockets: dict[str, str] = {}
    hostname: str = ""
    outward: str = ""

    def inside(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def address(self, listener: str) -> str:
        """Where the listener is reached on this host: `127.0.0.1:8080` or `unix:/path`."""
        path = self.sockets.get(listener)
        return f"127.0.0.1:{self.ports[listener]}" if path is None else f"unix:{path}"

    def url(self, listener: str) -> str:
        """The same as a URL; a socket as those clients write it that take one: its path, percent-encoded, as a host."""
        path = self.sockets.get(listener)
        return f"http://127.0.0.1:{self.ports[listener]}" if path is None else f"http+unix://{quote(path, safe='')}"


class Installed(msgspec.Struct, frozen=True):
    """A sidecar of this installation: the module to run, the settings it has unless the profile gives others."""

    module: str
    settings: msgspec.Struct
    token: str


class Said(msgspec.Struct, frozen=True):
    """What people said, as plain data: `below` is what all layers under the live one come to."""

    below: dict[str, Any] = {}
    live: dict[str, Any] = {}


class Listener(msgspec.Struct, frozen=True):
    """One address to bind `count` times. `exact`: asked for by the user, so a taken port is an error."""

    name: str
    host: str
    port: int
    count: int
    exact: bool
    option: str


class UnixListener(msgspec.Struct, frozen=True):
    """One Unix socket, of `mode`, that `count` workers share."""

    name: str
    path: str
    mode: int
    count: int
    option: str


class Grant(msgspec.Struct, frozen=True):
    """What the bearer of `token` is on the bus: held descriptors, configuration (msgpack), topics besides `events`, the
    topics that it hears and the verbs that it serves (None = any)."""

    role: str
    token: str
    descriptors: tuple[str, ...]
    config: bytes
    topics: tuple[str, ...]
    hears: tuple[str, ...] | None = None
    verbs: tuple[str, ...] | None = None


class ProcessPlan(msgspec.Struct, frozen=True):
    """One process. `ready_within` and `silence` (without a sign of life, then it is killed; 0 = never) in seconds.

    `writes` are the tables whose absence is published when it is removed for good. A sidecar that is `fused` has no
    process of its own: it lives in that of `Plan.fused`.
    """

    name: str
    kind: Kind
    argv: tuple[str, ...]
    environment: dict[str, str]
    cwd: str
    held: tuple[str, ...]
    stdio: tuple[Stdio, Stdio, Stdio]
    own_group: bool
    restart: RestartSettings
    readiness: Readiness
    ready_within: float
    silence: float = 0.0
    writes: tuple[str, ...] = ()
    grant: Grant | None = None
    fused: bool = False


class Plan(msgspec.Struct, frozen=True):
    """One service, whole.

    `sidecars` are all that are installed, so that one can be added without asking anybody again; `enabled` names those
    that run. `base` is the payload of table `base`, `central` that of table `central`, None where there is none;
    `drain` is the one deadline of a stop, in seconds. `settings` are the effective ones, defaults and all, and with
    `said` they are what a later change starts from. `fused` is the process in which our sidecars live, if they share
    one: that is decided at the start, for the whole run.
    """

    service: str
    profile: str
    arguments: Arguments
    place: Place
    proxy: ProcessPlan
    sidecars: dict[str, ProcessPlan]
    enabled: tuple[str, ...]
    app: ProcessPlan | None
    base: dict[str, Any]
    ready_timeout: float
    drain: float
    orphan_grace_ms: int
    settings: dict[str, Any]
    said: Said
    fused: ProcessPlan | None = None
    central: dict[str, Any] | None = None
