"""What a profile may say under `sidecars.discovery`; each struct belongs to the component that it is named after."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field
from pannier.shared.duration import Duration
from pannier.shared.instances import InstanceId
from pannier.shared.messages import SERVICES
from pannier.shared.profile import Address, CheckPath, Metadata
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.rights import Needs

Count = Annotated[int, Meta(ge=1, le=100)]


class Instance(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance that this sidecar runs beside, as others reach it; filled in by the supervisor.

    Without `id` it is `<hostname>-<port of address>`; without `address` nothing is announced to other services.
    """

    id: InstanceId | None = None
    address: Address | None = None
    metadata: Metadata = {}


class HealthChecks(Struct, frozen=True, forbid_unknown_fields=True):
    """Active checks. `path` is that of the own app; without it the app is healthy while the supervisor says it is."""

    path: CheckPath | None = None
    interval: Duration = "10s"
    timeout: Duration = "1s"
    failures: Count = 3
    successes: Count = 1


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a profile that configures this sidecar.

    `services` and `app` (the own app's address) are filled in by the supervisor from the profile and the command line.
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
