"""Native spans as OpenTelemetry has them, sent by OTLP over HTTP.

The only file that imports the OpenTelemetry SDK; import it when there is something to send, never at start-up. Spans
are built as finished `ReadableSpan`s: there is no tracer here, since what is described is over, and its ids are given.

The query is left out of `url.path` and `url.full`: it is where tokens and names of people are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from pannier.sidecars.observability.native import Span
from pannier.sidecars.observability.semconv import INBOUND, OTHER, SCHEMA_URL, authority_parts, error_type, known_method

_SCOPE = InstrumentationScope("pannier", schema_url=SCHEMA_URL)


class OtlpExporter:
    """Posts spans to `endpoint` (the full URL), within `timeout` seconds a batch, retries included."""

    def __init__(self, endpoint: str, timeout: float, resource: Mapping[str, str]) -> None:
        # Each failure is reported once, and counted, by the caller; the SDK would say it for every batch.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._resource = Resource({**resource, "telemetry.sdk.language": "python"}, SCHEMA_URL)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=timeout)

    def export(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them."""
        readable = [readable_span(span, self._resource) for span in spans]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Ends a wait for a retry; what is exported from now on fails."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def readable_span(span: Span, resource: Resource) -> ReadableSpan:
    """The span by the semantic conventions for HTTP: SERVER inbound, CLIENT outbound, an error where they say so."""
    inbound = span.direction == INBOUND
    error = error_type(span.direction, span.status, span.flag)
    method = known_method(span.method)
    verb = "HTTP" if method == OTHER else method
    state = TraceState.from_header([span.trace_state]) if span.trace_state else None
    flags = TraceFlags(TraceFlags.SAMPLED if span.sampled else TraceFlags.DEFAULT)
    parent = None
    if span.parent_id is not None:
        parent = SpanContext(span.trace_id, span.parent_id, True, flags, state)
    return ReadableSpan(
        name=f"{verb} {span.route}" if span.route else verb,
        context=SpanContext(span.trace_id, span.span_id, False, flags, state),
        parent=parent,
        resource=resource,
        attributes=_attributes(span, method, error),
        kind=SpanKind.SERVER if inbound else SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, span.flag or None) if error else Status(StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _attributes(span: Span, method: str, error: str) -> dict[str, str | int | Sequence[str]]:
    host, port = authority_parts(span.authority)
    path = span.path.partition("?")[0]
    attributes: dict[str, str | int | Sequence[str]] = {
        "http.request.method": method,
        "http.route": span.route,
        "network.protocol.name": "http",
        "network.protocol.version": span.protocol,
        "server.address": host,
        "error.type": error,
        "pannier.response_flag": span.flag,
    }
    if method == OTHER:
        attributes["http.request.method_original"] = span.method
    if span.status:
        attributes["http.response.status_code"] = span.status
    if port is not None:
        attributes["server.port"] = port
    if span.request_id:
        attributes["http.request.header.x-request-id"] = (span.request_id,)
    if span.direction == INBOUND:
        attributes |= {"url.path": path, "url.scheme": "http", "client.address": span.client}
    else:
        peer, peer_port = authority_parts(span.upstream)
        attributes |= {"url.full": f"http://{span.authority}{path}", "peer.service": span.service}
        attributes["network.peer.address"] = peer
        if peer_port is not None:
            attributes["network.peer.port"] = peer_port
    return {name: value for name, value in attributes.items() if value != ""}
