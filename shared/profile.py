"""What a stage is made of: the settings of a profile, each in the small struct of the component that uses it.

Durations are texts such as `10s`. The settings of a sidecar belong to that sidecar and are decoded by its own type;
the presence of its name under `sidecars` is what makes it run. Every field has a default: a layer may set any of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from pannier.shared.central import CentralSettings
from pannier.shared.duration import PATTERN, Duration, milliseconds
from pannier.shared.rights import Grants

NEVER = "never"
MAX_SERVICES = 1024

Grace = Annotated[str, Meta(pattern=f"^never$|{PATTERN}", description='"never", or a duration such as "10s"')]
Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Address = Annotated[
    str,
    Meta(
        pattern=r"^(unix:/[^\s\x00]+|(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$(?!\n)",
        description='an address such as "127.0.0.1:8080" or "unix:/run/app.sock"',
    ),
]
CheckPath = Annotated[str, Meta(pattern=r"^/[!-~]{0,1023}$(?!\n)", description='a path such as "/healthz"')]
Text = Annotated[str, Meta(max_length=1024)]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=16)
]


class Endpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """One place where a service answers; weights are relative to those of the service's other endpoints.

    `metadata` is what others select endpoints by: `version`, `zone`. With `health`, discovery asks for that path, and
    the endpoint is healthy only while it answers 2xx or 3xx. Without discovery nobody asks.
    """

    address: Address
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    health: CheckPath | None = None
    metadata: Metadata = {}


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the proxy: reading a header, an idle connection, connecting, a whole request, draining."""

    header: Duration = "10s"
    idle: Duration = "60s"
    connect: Duration = "1s"
    request: Duration = "15s"
    drain: Duration = "10s"


class ProxySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The data path. `workers` 0 means one a core, and at most two.

    With a `seed`, the random choices of each worker are the same in every run; without, they differ.
    """

    workers: Annotated[int, Meta(ge=0, le=64)] = 0
    seed: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] | None = None
    balance: Literal["p2c_ewma", "round_robin"] = "p2c_ewma"
    timeouts: Timeouts = Timeouts()


class InboundSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which authorities are served besides the service's own name and the loopback names; `*` is any.

    `trusted_hops` is the number of proxies in front of the service that append to `X-Forwarded-For` or `Forwarded`: so
    many addresses are believed, from the right. With 0, what a request says of its client is left out.
    """

    hosts: list[Text] = []
    trusted_hops: Annotated[int, Meta(ge=0, le=16)] = 0


class OutboundSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Calls of the app to others. `unknown` decides about names that no cluster has."""

    unknown: Literal["passthrough", "deny"] = "passthrough"
    port: Port = 15001


class RestartSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The restart policy of the app: after `max_restarts` within `period` it counts as failed."""

    max_restarts: Annotated[int, Meta(ge=0, le=1000)] = 5
    period: Duration = "10s"
    on_crash: bool = True


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """What any layer may set: a profile, a project file, an app in it, the environment, an option.

    With `confirm`, a change of the running service is taken back unless it is confirmed within that time. With `fuse`,
    our own sidecars live in one process; it is read at the start. `grants` says what sidecars of third parties may do,
    by their names. `central` says when and how work leaves this host for another one.
    """

    description: Text = ""
    orphan_grace: Grace = "0s"
    ready_timeout: Duration = "30s"
    confirm: Duration | None = None
    fuse: bool = False
    proxy: ProxySettings = ProxySettings()
    inbound: InboundSettings = InboundSettings()
    outbound: OutboundSettings = OutboundSettings()
    restart: RestartSettings = RestartSettings()
    central: CentralSettings | None = None
    services: Annotated[dict[str, list[Endpoint]], Meta(max_length=MAX_SERVICES)] = {}
    sidecars: Annotated[dict[str, Any], Meta(extra={"typed_by": "sidecar"})] = {}
    grants: Annotated[dict[str, Grants], Meta(max_length=64)] = {}


class Profile(Settings, frozen=True, forbid_unknown_fields=True):
    """A stage, whole. In `sidecars` each value is an instance of that sidecar's own Config."""

    extends: str | None = None


class App(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[apps.NAME]` of a project file: what to start, and where it listens.

    `app_port` or `app_socket` is where the app itself listens, `port` or `socket` the public place of the proxy before
    it, `outbound_port` or `outbound_socket` where the app's own calls go. Sockets are paths, seen from `cwd`.
    """

    command: list[Text] = []
    app_port: Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")] | None = None
    app_socket: Text | None = None
    port: Port | None = None
    socket: Text | None = None
    outbound_port: Port | Literal["auto"] | None = None
    outbound_socket: Text | None = None
    metrics_port: Port | Literal["auto"] | None = None
    cwd: Text | None = None
    env: dict[str, str] = {}

    def __post_init__(self) -> None:
        for port, socket in (
            ("app_port", "app_socket"),
            ("port", "socket"),
            ("outbound_port", "outbound_socket"),
        ):
            if getattr(self, port) is not None and getattr(self, socket) is not None:
                raise ValueError(f"{port} and {socket} exclude one another")


def grace_milliseconds(grace: str) -> int:
    """The orphan grace in milliseconds, -1 for `never`. Raises ValueError if it is neither that nor a duration."""
    return -1 if grace == NEVER else milliseconds(grace)
