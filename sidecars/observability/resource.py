"""Who the telemetry is about, in OpenTelemetry's resource attributes: the same words for spans and for `target_info`.

Order of precedence: what the profile says, then OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, then what is found. The
instance id is a name-based UUID of host and service directory, so that it survives a restart of this sidecar and tells
two services of one host apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from uuid import UUID, uuid5

from pannier.sidecars.observability.config import Resource, Traces

_NAMESPACE: Final = UUID("6b0a4d3e-9a0c-5f0e-8d55-70616e6e6965")
_TRACES_PATH: Final = "/v1/traces"


def resource_attributes(
    resource: Resource, service: str, directory: Path, hostname: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """The attributes by name, empty ones left out, sorted. `service` stands in where the profile names none."""
    given = _environment(environ)
    attributes = {
        "host.name": hostname,
        "service.instance.id": str(uuid5(_NAMESPACE, f"{hostname}:{directory}")),
        "service.name": service,
        **given,
    }
    said = {
        "service.name": resource.service or environ.get("OTEL_SERVICE_NAME", ""),
        "service.namespace": resource.namespace,
        "service.version": resource.version,
        "deployment.environment.name": resource.stage,
    }
    attributes.update({name: value for name, value in said.items() if value})
    return {name: value for name, value in sorted(attributes.items()) if value}


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    return {name.strip(): unquote(value.strip()) for name, separator, value in pairs if separator and name.strip()}


def traces_endpoint(traces: Traces, environ: Mapping[str, str]) -> str | None:
    """The URL that spans are posted to; None = spans are not wanted.

    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it stands; the other two are bases, as OpenTelemetry has it.
    """
    base = traces.otlp_endpoint
    if base is None:
        exact = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
        if exact:
            return exact
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not base:
        return None
    return base if base.endswith(_TRACES_PATH) else base.rstrip("/") + _TRACES_PATH
