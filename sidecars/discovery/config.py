"""What a profile may say under `sidecars.discovery`; each struct belongs to the component that it is named after."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field
from pannier.shared.duration import Duration
from pannier.shared.instances import EVERY, InstanceId
from pannier.shared.messages import SERVICES
from pannier.shared.profile import Address, CheckPath, Metadata
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.rights import Needs

FollowedName = Annotated[
    str, Meta(pattern=r"^(\*|[a-z0-9][a-z0-9._-]{0,62})$(?!\n)", description='a service name such as "orders", or "*"')
]
Count = Annotated[int, Meta(ge=1, le=100)]


class Instance(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance that this sidecar runs beside, as others reach it; filled in by the supervisor.

    Without `id` it is `<hostname>-<port of address>`; without `address` nothing is announced to other services.
    """

    id: InstanceId | None = None
    address: Address | None = None
    metadata: Metadata = {}


class HealthChecks(Struct, frozen=True, forbid_unknown_fields=True):
    """Active checks of the own app, by one of four: GET `path`; gRPC's health service, asked for the service `grpc` (""
    is the whole server); `tcp`, a connect; a `command` that ends with 0. Without any the app is healthy while the
    supervisor says it is."""

    path: CheckPath | None = None
    grpc: Annotated[str, Meta(max_length=256)] | None = None
    tcp: bool = False
    command: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=64)] = []
    interval: Duration = "10s"
    timeout: Duration = "1s"
    failures: Count = 3
    successes: Count = 1

    def __post_init__(self) -> None:
        if sum((self.path is not None, self.grpc is not None, self.tcp, bool(self.command))) > 1:
            raise ValueError("`path`, `grpc`, `tcp` and `command` exclude one another")

    @property
    def is_asked(self) -> bool:
        """Whether there is a check at all."""
        return self.path is not None or self.grpc is not None or self.tcp or bool(self.command)


class Pilot(Struct, frozen=True, forbid_unknown_fields=True):
    """The pilot that services of several hosts share: where its equals listen, and the file with the token that lets
    this sidecar register over TCP.

    `advertise` is the host under which others reach this one; without it an instance whose address is the loopback's
    or a socket's is not registered. `grpc` is where the pilots serve gRPC: then the app's own gRPC clients find
    services as `xds:///orders`, without a hop. `follow` names the services that are subscribed to, `*` is all; others
    follow when they are asked for on `api.sock`.
    """

    addresses: Annotated[list[Address], Meta(min_length=1, max_length=16)]
    token_file: Annotated[str, Meta(min_length=1)] | None = None
    advertise: (
        Annotated[str, Meta(pattern=r"^[0-9A-Za-z.:_-]{1,255}$(?!\n)", description="a host or IP address")] | None
    ) = None
    grpc: Address | None = None
    follow: Annotated[list[FollowedName], Meta(max_length=1000)] = field(default_factory=lambda: [EVERY])

    def __post_init__(self) -> None:
        if self.advertise is not None and ":" in self.advertise:
            IPv6Address(self.advertise)  # raises ValueError: a host has no port


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a profile that configures this sidecar.

    `services`, `app` (the own app's address) and `stage` are filled in by the supervisor from the profile and the
    command line.
    So is `vouches`: this runs beside a Central, which speaks for other instances as well.
    `register` = false: the own instance is not announced; others may still register here.
    """

    needs: ClassVar[Needs] = Needs(writes=("endpoints",), reads=("base", "hot"), publishes=(SERVICES,))

    services: dict[str, tuple[StaticEndpoint, ...]] = {}
    file: Annotated[str, Meta(min_length=1)] | None = None
    register: bool = True
    instance: Instance = field(default_factory=Instance)
    app: Address | None = None
    health: HealthChecks = field(default_factory=HealthChecks)
    lease_ttl: Duration = "10s"
    stage: str = ""
    vouches: bool = False
    pilot: Pilot | None = None
