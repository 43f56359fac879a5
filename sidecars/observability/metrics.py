"""`/metrics`: the counters of the data path and our own, by OpenTelemetry's names under its rules for Prometheus.

Rules:
- Import it when the first scrape comes: prometheus-client brings `http.server`, `ssl` and 40 ms with it.
- A private registry and one collector that reads at scrape time; nothing is counted twice and nothing is kept.
- Dots become underscores, the unit is a suffix, counters end in `_total`, an absent attribute is an absent label.
- The histograms are the classic ones, on the buckets that the data path counted; both text formats come from
  prometheus-client, by the `Accept` header.

Refused: prometheus-client's own `Counter` and `Histogram` (they would hold a second copy of what shared memory holds)
and its process and platform collectors (they describe this sidecar, which nobody asked about).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest

from pannier.shared.central import newest, states_of
from pannier.shared.messages import Ejection
from pannier.sidecars.observability.cardinality import Cap, Labels, Point
from pannier.sidecars.observability.central import families
from pannier.sidecars.observability.exemplars import Example, Exemplars
from pannier.sidecars.observability.native import Counters, TableReader
from pannier.sidecars.observability.semconv import INBOUND
from pannier.sidecars.observability.tally import Tally
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a scrape reads. `restarts` is by sidecar, `ejections` are those that resilience told last, `now` is in
    seconds since the epoch."""

    counters: Counters
    bounds: Sequence[float]
    tables: Mapping[str, TableReader]
    cap: Cap
    exemplars: Exemplars
    tally: Tally
    resource: Mapping[str, str]
    now: Callable[[], float]
    restarts: Callable[[], Mapping[str, int]] = field(default=dict)
    ejections: Callable[[], Sequence[Ejection]] = field(default=tuple)


class Exposition:
    """The text of `/metrics`. `render` may be called in a thread, by one caller at a time."""

    def __init__(self, sources: Sources) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(sources))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, as the `Accept` header prefers: OpenMetrics or Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Collector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        sources = self._sources
        target = InfoMetricFamily("target", "The service that these metrics are about.")
        target.add_metric([], {_label(name): value for name, value in sources.resource.items()})
        yield target
        yield from self._requests()
        yield from self._tables()
        yield from self._limits()
        central = newest(states_of(sources.counters.central()))
        if central is not None:
            yield from families(central)
        yield from self._own()
        totals = dict(sources.counters.totals())
        yield _total(
            "pannier_ring_dropped", "Telemetry records that found their ring full.", totals.pop("ring_dropped", 0)
        )
        for name, value in sorted(totals.items()):
            yield _total(f"pannier_proxy_{_label(name)}", f"The proxy's cell {name}, over all its processes.", value)

    def _requests(self) -> Iterator[Metric]:
        server = HistogramMetricFamily(
            "http_server_request_duration_seconds", "Duration of HTTP server requests.", unit="seconds"
        )
        client = HistogramMetricFamily(
            "http_client_request_duration_seconds", "Duration of HTTP client requests.", unit="seconds"
        )
        edges = [*(repr(float(bound)) for bound in self._sources.bounds), "+Inf"]
        points = self._sources.cap.apply(self._sources.counters.series())
        for labels, point in sorted(points.items()):
            family = server if labels.direction == INBOUND else client
            _histogram(family, _attributes(labels), edges, point, self._sources.exemplars.find(labels))
        yield server
        yield client
        merged = GaugeMetricFamily(
            "pannier_series_merged", "Whether a dimension was given up to hold max_series.", labels=["dimension"]
        )
        for dimension in self._sources.cap.merged:
            merged.add_metric([dimension], 1)
        yield merged

    def _tables(self) -> Iterator[Metric]:
        generation = GaugeMetricFamily(
            "pannier_table_generation", "The last published generation of a table.", labels=["table"]
        )
        age = GaugeMetricFamily(
            "pannier_table_age", "Time since the table's writer gave a sign of life.", labels=["table"], unit="seconds"
        )
        in_force = GaugeMetricFamily(
            "pannier_table_generation_in_force",
            "The oldest generation of a table that a data path process still uses.",
            labels=["table"],
        )
        now = self._sources.now()
        for name, reader in sorted(self._sources.tables.items()):
            published = reader.generation()
            generation.add_metric([name], published)
            if published:
                _, heartbeat_ms = reader.writer()
                age.add_metric([name], max(now - heartbeat_ms / 1000, 0.0))
        oldest: dict[str, int] = {}
        rejected = 0
        for enrolment in self._sources.counters.enrolled():
            rejected += enrolment.rejected_tables
            for name, used in enrolment.in_force.items() if enrolment.alive else ():
                oldest[name] = min(used, oldest.get(name, used))
        for name, used in sorted(oldest.items()):
            in_force.add_metric([name], used)
        yield generation
        yield age
        yield in_force
        yield _total(
            "pannier_table_rejected", "Snapshots that were not put in force: damaged, or no valid table.", rejected
        )

    def _limits(self) -> Iterator[Metric]:
        ejected = GaugeMetricFamily(
            "pannier_endpoint_ejected", "1 while an endpoint, or without one the service, gets no calls or its one try."
        )
        for one in self._sources.ejections():
            _add(ejected, {"service": one.service, "endpoint": one.endpoint}, 1)
        used = GaugeMetricFamily(
            "pannier_limit_used", "How much of a limit is in use; no service: by inbound requests."
        )
        most = GaugeMetricFamily("pannier_limit_max", "How much of a limit can be in use.")
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for gauge in self._sources.counters.gauges():  # of each process, where two live at the same time
            before = sums.get((gauge.service, gauge.limit), (0, 0))
            sums[gauge.service, gauge.limit] = (before[0] + gauge.used, before[1] + gauge.most)
        for (service, limit), (in_use, at_most) in sorted(sums.items()):
            _add(used, {"service": service, "limit": limit}, in_use)
            _add(most, {"service": service, "limit": limit}, at_most)
        yield ejected
        yield used
        yield most

    def _own(self) -> Iterator[Metric]:
        tally = self._sources.tally
        yield _total("pannier_access_log_errors", "Requests whose log line could not be written.", tally.log_errors)
        yield _total("pannier_access_log_rotations", "Renames of the access log at max_bytes.", tally.log_rotations)
        yield _total("pannier_spans_exported", "Spans that the collector accepted.", tally.spans_exported)
        yield _total("pannier_spans_dropped", "Spans that found the export queue full.", tally.spans_dropped)
        yield _total("pannier_spans_failed", "Spans that the collector did not take in time.", tally.spans_failed)
        restarts = CounterMetricFamily(
            "pannier_sidecar_restarts", "Restarts of a sidecar by the supervisor.", labels=["sidecar"]
        )
        for name, count in sorted(self._sources.restarts().items()):
            restarts.add_metric([name], count)
        yield restarts


def _total(name: str, documentation: str, value: int) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _add(family: Metric, labels: Mapping[str, str], value: float) -> None:
    """An absent label is an empty one."""
    family.add_sample(family.name, {name: text for name, text in labels.items() if text}, value)


def _label(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)


def _attributes(labels: Labels) -> dict[str, str]:
    attributes = {
        "http_request_method": labels.method,
        "http_route": labels.route,
        "http_response_status_code": labels.status,
        "error_type": labels.error,
        "network_protocol_version": labels.protocol,
        "server_address": labels.service,
        "url_scheme": "http",
    }
    return {name: value for name, value in attributes.items() if value}


def _histogram(
    family: Metric, attributes: dict[str, str], edges: Sequence[str], point: Point, examples: Sequence[Example | None]
) -> None:
    cumulative = list(accumulate(point.buckets))
    for edge, count, example in zip_longest(edges, cumulative, examples):
        exemplar = example and Exemplar(
            {"trace_id": example.trace_id, "span_id": example.span_id}, example.seconds, round(example.at, 3)
        )
        family.add_sample(f"{family.name}_bucket", {**attributes, "le": edge}, count, exemplar=exemplar)
    family.add_sample(f"{family.name}_count", attributes, cumulative[-1])
    family.add_sample(f"{family.name}_sum", attributes, point.sum_seconds)
