"""What a profile may say under `sidecars.observability`; each struct belongs to the part that it is named after."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct
from pannier.shared.duration import Duration
from pannier.shared.rights import Needs

MIB = 1 << 20


class Traces(Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests are traced, and where their spans go.

    Without `otlp_endpoint`, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT of the environment hold;
    without these no spans are made. As in OpenTelemetry, the endpoint is a base URL to which `/v1/traces` is added.
    """

    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    otlp_endpoint: Annotated[str, Meta(pattern=r"^https?://[^/\s]")] | None = None
    queue: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    batch: Annotated[int, Meta(ge=1, le=1 << 16)] = 512
    timeout: Duration = "5s"


class AccessLog(Struct, frozen=True, forbid_unknown_fields=True):
    """One JSON object a request. At `max_bytes` the file is renamed to `<path>.1`, once; 0 = never."""

    enabled: bool = True
    path: Annotated[str, Meta(min_length=1)] | None = None
    max_bytes: Annotated[int, Meta(ge=0)] = 64 * MIB


class Resource(Struct, frozen=True, forbid_unknown_fields=True):
    """Who the telemetry is about. `service` and `stage` are filled in by the supervisor: the run's name and profile."""

    service: str = ""
    stage: str = ""
    namespace: str = ""
    version: str = ""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a profile that configures this sidecar.

    `routes` are path templates (`/orders/{id}`) that label requests, the first match wins; `max_series` caps what
    `/metrics` exposes.
    """

    needs: ClassVar[Needs] = Needs(
        writes=("telemetry",),
        reads=("endpoints", "base", "routes", "limits", "central", "counters", "rings"),
        listeners=("metrics",),
    )

    traces: Traces = Traces()
    access_log: AccessLog = AccessLog()
    routes: list[Annotated[str, Meta(pattern=r"^/")]] = []
    max_series: Annotated[int, Meta(ge=1)] = 10_000
    resource: Resource = Resource()
