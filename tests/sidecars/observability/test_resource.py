from __future__ import annotations

from pathlib import Path

import pytest
from pannier.sidecars.observability.config import Resource, Traces
from pannier.sidecars.observability.resource import resource_attributes, traces_endpoint

DIRECTORY = Path("/run/pannier/orders")


def test_the_profile_is_asked_first_then_the_environment_then_what_is_found() -> None:
    environ = {
        "OTEL_SERVICE_NAME": "from-name",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=from-list,service.version=1%2C2,team= a=b ,broken,=x",
    }
    attributes = resource_attributes(Resource(stage="dev", namespace="shop"), "orders", DIRECTORY, "h1", environ)
    assert {name: value for name, value in attributes.items() if name != "service.instance.id"} == {
        "deployment.environment.name": "dev",
        "host.name": "h1",
        "service.name": "from-name",
        "service.namespace": "shop",
        "service.version": "1,2",
        "team": "a=b",
    }


def test_an_instance_id_survives_a_restart_and_tells_services_apart() -> None:
    def instance(directory: Path) -> str:
        return resource_attributes(Resource(), "orders", directory, "h1", {})["service.instance.id"]

    assert instance(DIRECTORY) == instance(DIRECTORY) != instance(DIRECTORY / "other")


@pytest.mark.parametrize(
    ("configured", "environ", "url"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "y"}, "http://c/x"),
        ("http://d:1", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://d:1/v1/traces"),
        ("http://d:1/v1/traces", {}, "http://d:1/v1/traces"),
    ],
)
def test_where_spans_go(configured: str | None, environ: dict[str, str], url: str | None) -> None:
    assert traces_endpoint(Traces(otlp_endpoint=configured), environ) == url
