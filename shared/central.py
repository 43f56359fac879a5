"""The Central Mesh in a profile, and what the data path says of it while it runs.

`CentralSettings` is the table `[central]`; what cannot be meant together is refused in `central_rules.py`. The numbers
are those of `shared/core/central`, which has the same defaults. `CentralState` is what a process of the proxy writes
four times a second, and what commands, topics and metrics show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct
from pannier.shared.duration import Duration
from pannier.shared.instances import SERVICE_PATTERN

TICK_MS: Final = 250
"""Milliseconds between two steps of the controller."""

Percent = Annotated[float, Meta(gt=0, le=100, description="a number above 0, and up to 100")]
IpAddress = Annotated[
    str,
    Meta(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$(?!\n)",
        description='an IP address with a port, such as "10.77.0.2:15090"',
    ),
]
IpHost = Annotated[
    str, Meta(pattern=r"^[0-9a-fA-F:.]{1,45}$(?!\n)", description='an IP address without a port, such as "10.77.0.2"')
]
Network = Annotated[str, Meta(min_length=1, max_length=64, description='a network such as "10.77.0.0/24"')]
PemFile = Annotated[
    str, Meta(pattern=r"^/[^\x00]{1,4095}$(?!\n)", description='the absolute path of a file, such as "/etc/tls/ca.pem"')
]
Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]


class Certificates(Struct, frozen=True, forbid_unknown_fields=True):
    """Files in PEM: our own certificate and its key, and the authority that signs those of the others."""

    certificate: PemFile
    key: PemFile
    authority: PemFile


class Enter(Struct, frozen=True, forbid_unknown_fields=True):
    """Work leaves when one of these is exceeded for `holds`, taken together, within the last `within`.

    `host_pressure` and `cgroup_pressure`: percent of time in which something waited for a CPU; `throttled`: percent of
    the periods of a CPU quota in which it ran out; `queue_wait`: how long work waits in the proxy.
    """

    host_pressure: Percent = 25.0
    cgroup_pressure: Percent = 25.0
    throttled: Percent = 10.0
    queue_wait: Duration = "20ms"
    holds: Duration = "2s"
    within: Duration = "3s"


class Leave(Struct, frozen=True, forbid_unknown_fields=True):
    """Work comes back when all of them stay below `share` (0…1) of what lets it leave, for `calm`, with the work that
    would come back added."""

    share: float = 0.5
    calm: Duration = "15s"


class GatewaySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Makes the service a Central, which takes on what others cannot serve.

    It listens on `host` and `port` (0: any free one), grants `capacity` requests a second at the most, and enrols that
    many `hosts` at the same time: the discovery beside it has to hold them all, and others as well.
    """

    host: Annotated[
        str, Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+)$(?!\n)", description='an IP address, such as "0.0.0.0"')
    ] = "0.0.0.0"
    port: Port = 15090
    capacity: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    hosts: Annotated[int, Meta(ge=1, le=4_000)] = 2_048


class CentralSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When this host has nothing left to give, its calls are governed by a Central; without this table there is none.

    Centrals are those in `addresses`, and those that discovery knows under `service`, which is also the name in their
    certificates; nobody looks up names to reach one. Connections are encrypted, except on the loopback and within the
    networks named in `plain`.
    `outbound` is how the app's calls leave (`best`: redirected by the kernel where that can be, else relayed),
    `inbound` whether calls to the app do. A Central reaches the app at `advertise` (else the pilot's `advertise`, else
    127.0.0.1) and `port` (0: any free one). `dwell`, drawn from 1 ± `jitter`, lies between two reversals; the weight
    rises by `step_up` points a step of 250 ms at the most, and falls by `step_down` points a second.
    """

    service: Annotated[str, Meta(pattern=SERVICE_PATTERN, description='a service name such as "central"')] = "central"
    addresses: Annotated[list[IpAddress], Meta(max_length=16)] = []
    plain: Annotated[list[Network], Meta(max_length=64)] = []
    tls: Certificates | None = None
    outbound: Literal["best", "redirect", "relay", "off"] = "best"
    inbound: bool = True
    port: Port = 0
    advertise: IpHost | None = None
    enter: Enter = Enter()
    leave: Leave = Leave()
    dwell: Duration = "30s"
    jitter: float = 0.2
    step_up: Percent = 10.0
    step_down: Percent = 5.0
    gateway: GatewaySettings | None = None


class Inputs(Struct, frozen=True):
    """What the controller saw last; None where it cannot be measured here.

    Pressure and `throttled` in percent, waits in milliseconds, `idle` and `returning` (the CPU that comes back with the
    work) in 0…1 of what this host, or its quota, has.
    """

    host_pressure: float | None = None
    cgroup_pressure: float | None = None
    throttled: float | None = None
    run_delay_ms: float | None = None
    queue_wait_ms: float | None = None
    idle: float | None = None
    returning: float | None = None


class CentralSeen(Struct, frozen=True):
    """One Central as this host sees it: requests a second that it has granted, milliseconds to it and back (0 where
    that is not known)."""

    address: str
    up: bool
    granted_rps: float = 0.0
    rtt_ms: float = 0.0
    trouble: str = ""


class GatewayState(Struct, frozen=True):
    """What a Central has taken on. `served` requests since it started; `pressed`: it is itself under pressure, and
    gives less; `strangers`: connections of whoever is no host of its own."""

    hosts: int = 0
    capacity: float = 0.0
    granted_rps: float = 0.0
    served_rps: float = 0.0
    served: int = 0
    pressed: bool = False
    strangers: int = 0


class CentralState(Struct, frozen=True):
    """Where a process of the proxy stands. `weight` and `limit` (what tokens allow) in points of 100, `since_ms` since
    epoch, `saved_cores` what this host need not do. `reversals` are counted since the process started; `shedding`:
    there is no way out, so what is least critical is refused."""

    state: str = "local"
    weight: float = 0.0
    limit: float = 0.0
    reason: str = ""
    forced: bool = False
    way: str = "none"
    inbound: bool = False
    since_ms: int = 0
    inputs: Inputs = Inputs()
    moved_rps: float = 0.0
    saved_cores: float = 0.0
    granted_rps: float = 0.0
    centrals: list[CentralSeen] = []
    reversals: int = 0
    shedding: bool = False
    trouble: list[str] = []
    gateway: GatewayState | None = None


def states_of(bulletins: Sequence[bytes]) -> list[CentralState]:
    """What processes of the proxy say (`Counters.central()`). One that cannot be understood is left out: a proxy of
    another version runs while it is replaced."""
    found = []
    for bulletin in bulletins:
        try:
            found.append(msgspec.msgpack.decode(bulletin, type=CentralState, strict=False))
        except msgspec.MsgspecError:
            continue
    return found


CENTRAL_STATE: Final = "central.state"
"""Topic, retained: `CentralState` of the proxy in force. Without a Central Mesh it is empty."""


class CentralForce(Struct, frozen=True):
    """Verb `central.force` of the supervisor: the weight from now on, in points of 100; None leaves it to the
    controller again."""

    weight: Annotated[float, Meta(ge=0, le=100)] | None = None


class CentralStatus(Struct, frozen=True):
    """Verb `central.status` of the supervisor, and what `central status -o json` prints.

    `configured`: the profile has `[central]`. `thresholds` are those of `enter`, by the names of `Inputs`, and `share`
    that of `leave`. `identity`: certificates, plain (within `plain`) or loopback. `forced`: what was asked for by hand.
    `states`: one a process of the proxy, of which there are two while one is replaced.
    """

    service: str
    configured: bool
    states: list[CentralState] = []
    central: str = ""
    addresses: list[str] = []
    identity: str = ""
    outbound: str = "off"
    inbound: bool = False
    instance: str = ""
    passthrough: str | None = None
    gateway: str | None = None
    thresholds: dict[str, float] = {}
    share: float = 0.0
    forced: float | None = None

    @property
    def state(self) -> CentralState | None:
        """That of the proxy in force: of two processes the one that came last."""
        return newest(self.states)


def newest(states: list[CentralState]) -> CentralState | None:
    """Of several processes of the proxy the one whose state is the youngest; None if nobody says anything."""
    return max(states, key=lambda state: state.since_ms, default=None)
