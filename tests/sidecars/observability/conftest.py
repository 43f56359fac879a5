"""Stand-ins for what `pannier._native` hands out, a writer of real rings, and a collector that decodes OTLP."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from pannier import _native

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
FINE = [0.001 * 2**octave for octave in range(12)]


def spread(bounds: Sequence[float], seconds: Sequence[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for one in seconds:
        counts[next((i for i, bound in enumerate(bounds) if one <= bound), len(bounds))] += 1
    return counts


@dataclass
class Series:
    """A series that observed `seconds`."""

    direction: str = "inbound"
    service: str = "orders"
    route: str = ""
    method: str = "GET"
    status: int = 200
    flag: str = ""
    protocol: str = "1.1"
    seconds: list[float] = field(default_factory=lambda: [0.003])

    @property
    def count(self) -> int:
        return len(self.seconds)

    @property
    def sum_seconds(self) -> float:
        return sum(self.seconds)

    @property
    def buckets(self) -> list[int]:
        return spread(BOUNDS, self.seconds)

    @property
    def fine(self) -> list[int]:
        return spread(FINE, self.seconds)


@dataclass
class Enrolment:
    in_force: dict[str, int]
    alive: bool = True
    rejected_tables: int = 0


@dataclass
class Gauge:
    service: str
    limit: str
    used: int
    most: int


@dataclass
class Counters:
    all: list[Series] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)
    processes: list[Enrolment] = field(default_factory=list)
    limits: list[Gauge] = field(default_factory=list)
    bulletins: list[bytes] = field(default_factory=list)

    def central(self) -> list[bytes]:
        return self.bulletins

    def series(self) -> list[Series]:
        return self.all

    def totals(self) -> dict[str, int]:
        return self.cells

    def enrolled(self) -> list[Enrolment]:
        return self.processes

    def gauges(self) -> list[Gauge]:
        return self.limits


@dataclass
class Table:
    published: int = 0
    heartbeat_ms: int = 0

    def generation(self) -> int:
        return self.published

    def writer(self) -> tuple[int, int]:
        return 1, self.heartbeat_ms


@dataclass
class Span:
    trace_id: int = 0x0102030405060708090A0B0C0D0E0F10
    span_id: int = 0x0102030405060708
    parent_id: int | None = None
    trace_state: str = ""
    sampled: bool = True
    direction: str = "inbound"
    method: str = "GET"
    route: str = "/orders/{id}"
    path: str = "/orders/7?token=secret"
    status: int = 200
    service: str = "orders"
    upstream: str = "127.0.0.1:8080"
    start_ns: int = 1_700_000_000_000_000_000
    end_ns: int = 1_700_000_000_002_000_000
    flag: str = ""
    protocol: str = "1.1"
    request_id: str = "r-1"
    authority: str = "orders:18080"
    client: str = "192.0.2.7"


@dataclass
class Drained:
    records: int = 0
    log_errors: int = 0
    spans: list[Span] = field(default_factory=list)


class Fakes:
    """The classes above, for tests: `fakes.Series(status=503)`."""

    Series = Series
    Enrolment = Enrolment
    Gauge = Gauge
    Counters = Counters
    Table = Table
    Span = Span
    Drained = Drained
    BOUNDS = BOUNDS
    FINE = FINE


@pytest.fixture
def fakes() -> type[Fakes]:
    return Fakes


HEADER = 512 * 8
HEAD, TAIL, LINES = HEADER, HEADER + 8 * 8, 2 * HEADER
LINE_BYTES = 64
SEGMENTS = ("table.telemetry", "table.base", "table.endpoints", "counters", "rings")


class Worker:
    """The first worker of the first enrolled process, over real segments.

    Knows the layout of counters, rings and records (`shared/core/table/src/{counters,ring,record}.rs`).
    """

    def __init__(self) -> None:
        self.fds = {name: os.memfd_create(name) for name in SEGMENTS}
        self.maps = {}
        for name, descriptor in self.fds.items():
            os.truncate(descriptor, _native.SEGMENTS[name])
            _native.initialise(name, descriptor)
            self.maps[name] = mmap.mmap(descriptor, 2 << 20)
        struct.pack_into("<QQ", self.maps["counters"], HEADER, 1, 1)
        self._head = 0

    def close(self) -> None:
        for name, descriptor in self.fds.items():
            self.maps[name].close()
            os.close(descriptor)

    def rings(self) -> _native.Rings:
        return _native.Rings(self.fds["rings"], self.fds["counters"])

    def request(
        self, path: str = "/orders/7", *, status: int = 200, flag: int = 0, outbound: bool = False, sampled: bool = True
    ) -> None:
        """Publishes the record of one finished request."""
        texts = ["GET", path, "orders:80", "orders", "/orders/{id}", "127.0.0.1:8080", "r-1", "a=1", "192.0.2.7"]
        encoded = [text.encode() for text in texts]
        body = b"".join(encoded)
        lines = -(-(12 * 8 + len(body)) // LINE_BYTES)
        first = lines | 2 << 8 | (outbound | sampled << 1) << 16 | flag << 24 | status << 32 | 1 << 48
        lengths = [
            sum(len(text) << 16 * i for i, text in enumerate(four)) for four in (encoded[:4], encoded[4:8], encoded[8:])
        ]
        record = struct.pack("<12Q", first, 1_700_000_000_123_000_000, 2_500_000, 10, 20, 5, 6, 7, 8, *lengths) + body
        at = LINES + self._head * LINE_BYTES
        self.maps["rings"][at : at + len(record)] = record
        self._head += lines
        struct.pack_into("<Q", self.maps["rings"], HEAD, self._head)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[OtlpSpan]:
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200:
            self.server.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)
