"""Spans against a real HTTP server that decodes OTLP, not against a stand-in for the exporter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pannier.sidecars.observability.otlp import OtlpExporter


@pytest.fixture
def exporter(collector: Any) -> Iterator[OtlpExporter]:
    exporter = OtlpExporter(collector.url, 2.0, {"service.name": "orders", "deployment.environment.name": "dev"})
    yield exporter
    exporter.shutdown()


def attributes(of: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(one) for one in found.values] if kind == "array_value" else found

    return {pair.key: plain(pair.value) for pair in of.attributes}


def test_a_server_span_arrives_as_the_conventions_have_it(collector: Any, exporter: OtlpExporter, fakes: Any) -> None:
    assert exporter.export([fakes.Span(parent_id=0x11, trace_state="a=1,b=2")])
    [(path, request)] = collector.requests
    assert path == "/v1/traces"
    [of_resource] = request.resource_spans
    resource = attributes(of_resource.resource)
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("orders", "dev")
    [span] = collector.spans()
    assert span.name == "GET /orders/{id}"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == "0102030405060708090a0b0c0d0e0f10"
    assert span.span_id.hex() == "0102030405060708"
    assert span.parent_span_id.hex() == "0000000000000011"
    assert span.trace_state == "a=1,b=2"
    assert span.end_time_unix_nano - span.start_time_unix_nano == 2_000_000
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/orders/{id}",
        "http.response.status_code": 200,
        "http.request.header.x-request-id": ["r-1"],
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "server.address": "orders",
        "server.port": 18080,
        "client.address": "192.0.2.7",
        "url.path": "/orders/7",
        "url.scheme": "http",
    }


def test_a_client_span_names_the_peer(collector: Any, exporter: OtlpExporter, fakes: Any) -> None:
    outbound = fakes.Span(direction="outbound", route="", service="payments", authority="payments", method="POST")
    assert exporter.export([outbound])
    [span] = collector.spans()
    assert span.name == "POST"
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert span.parent_span_id == b""
    found = attributes(span)
    assert found["url.full"] == "http://payments/orders/7"
    assert (found["peer.service"], found["server.address"]) == ("payments", "payments")
    assert (found["network.peer.address"], found["network.peer.port"]) == ("127.0.0.1", 8080)
    assert "url.path" not in found


@pytest.mark.parametrize(
    ("direction", "status", "flag", "failed", "error"),
    [
        ("inbound", 404, "", False, None),
        ("outbound", 404, "", True, "404"),
        ("inbound", 503, "UF", True, "UF"),
        ("outbound", 500, "", True, "500"),
        ("inbound", 0, "DC", True, "DC"),
    ],
)
def test_a_span_failed_when_the_conventions_say_so(
    collector: Any,
    exporter: OtlpExporter,
    fakes: Any,
    *,
    direction: str,
    status: int,
    flag: str,
    failed: bool,
    error: str | None,
) -> None:
    assert exporter.export([fakes.Span(direction=direction, status=status, flag=flag)])
    [span] = collector.spans()
    assert (span.status.code == Status.STATUS_CODE_ERROR) is failed
    found = attributes(span)
    assert found.get("error.type") == error
    assert found.get("http.response.status_code") == (status or None)
    assert found.get("pannier.response_flag") == (flag or None)


def test_odd_methods_and_trace_states_do_not_break_a_span(collector: Any, exporter: OtlpExporter, fakes: Any) -> None:
    assert exporter.export([fakes.Span(method="BREW", route="", trace_state="not a state,,=")])
    [span] = collector.spans()
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "BREW"


def test_a_refusal_and_a_missing_collector_are_false(collector: Any, exporter: OtlpExporter, fakes: Any) -> None:
    collector.status = 400
    assert not exporter.export([fakes.Span()])
    nobody = OtlpExporter("http://127.0.0.1:1/v1/traces", 0.2, {})
    assert not nobody.export([fakes.Span()])
    nobody.shutdown()


def test_the_service_starts_without_opentelemetry_and_prometheus() -> None:
    code = (
        "import sys, pannier.sidecars.observability.service as _; "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('opentelemetry', 'prometheus_client', 'requests', 'google', 'grpc')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout == "[]\n"
