"""The pilot's `/metrics`: what its status says, as Prometheus and OpenMetrics have it.

- Import it when the first scrape comes: prometheus-client brings 40 ms and `http.server` with it.
- One collector that reads at scrape time, over a registry of its own: nothing is counted twice.
- No label is a service or an instance: what one scrape weighs does not depend on who registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pannier.shared.instances import State
from pannier.sidecars.pilot.status import Account, Status
from pannier.sidecars.pilot.stream import StreamStatus
from pannier.sidecars.pilot.tally import ASKED
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


class Exposition:
    """The text of `/metrics`."""

    def __init__(self, account: Account) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(account))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, as the `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Collector(Collector):
    def __init__(self, account: Account) -> None:
        self._account = account

    def collect(self) -> Iterable[Metric]:
        status = self._account.status()
        yield from self._registered(status)
        yield from self._store(status)
        yield from self._pilots(status)
        if isinstance(stream := status.parts.get("stream"), StreamStatus):
            yield from _stream(stream)

    def _registered(self, status: Status) -> Iterator[Metric]:
        instances = GaugeMetricFamily(
            "pannier_pilot_instances", "Instances that are registered, by state.", labels=["state"]
        )
        for state in State:
            instances.add_metric([state], status.states.get(state, 0))
        yield instances
        yield _gauge("services", "Services that have instances.", status.services)
        yield _gauge("suspects", "Instances that miss renewals with this pilot and are kept.", status.suspects)
        yield _gauge("preserving", "1 while nobody is given up, as too many miss renewals.", status.preserving)
        asked = CounterMetricFamily(
            "pannier_pilot_registrations",
            "Registrations, changes of state and ends, by what came of them.",
            labels=["action", "verdict"],
        )
        for action, verdicts in ASKED.items():
            for verdict in verdicts:
                asked.add_metric([action, verdict], self._account.registry.tally.decisions[action, verdict])
        yield asked
        yield _total("evictions", "Instances that were given up, since they did not renew.", status.evicted)
        yield _total("takeovers", "Instances that were taken over from a pilot that has gone.", status.taken_over)
        yield _total("restored", "Instances that the store had lost, and that were written again.", status.restored)

    def _store(self, status: Status) -> Iterator[Metric]:
        tally = self._account.registry.tally
        yield _gauge("store_up", "1 unless the store failed when it was asked last.", not status.trouble)
        errors = CounterMetricFamily(
            "pannier_pilot_store_errors", "Times that the store could not be asked.", labels=["operation"]
        )
        errors.add_metric(["watch"], tally.watch_errors)
        errors.add_metric(["write"], tally.failed())
        yield errors
        yield _gauge("revision", "The store's revision that this pilot has come to.", status.revision)
        yield _gauge("untold", "Time that an own write has waited for the store's watch.", status.lag_s, unit="seconds")
        yield _gauge("watchers", "Requests that wait at /v1/watch.", status.watches)

    def _pilots(self, status: Status) -> Iterator[Metric]:
        peers = GaugeMetricFamily(
            "pannier_pilot_peers", "Pilots of the same store that are heard of, this one as well.", labels=["state"]
        )
        gone = sum(peer.gone for peer in status.peers)
        peers.add_metric(["live"], len(status.peers) - gone)
        peers.add_metric(["gone"], gone)
        yield peers
        yield _gauge("blind", "1 while this pilot does not hear itself, and takes no renewals.", status.blind)


def _stream(status: StreamStatus) -> Iterator[Metric]:
    yield _gauge("stream_connections", "Sidecars that are connected.", status.connected)
    yield _gauge("stream_followed", "Services that they follow, each of theirs counted.", status.following)
    yield _gauge("stream_behind", "Sidecars that read slowly, and will be told all anew.", status.behind)
    yield _total("stream_messages", "Messages that were written to them.", status.told)
    yield _total("stream_resyncs", "Times that all was told anew to one who reads slowly.", status.resynchronised)
    yield _total("stream_dropped", "Connections ended as they did not read, or made no sense.", status.dropped)


def _gauge(name: str, documentation: str, value: float, *, unit: str = "") -> Metric:
    return GaugeMetricFamily(f"pannier_pilot_{name}", documentation, value=float(value), unit=unit)


def _total(name: str, documentation: str, value: int) -> Metric:
    return CounterMetricFamily(f"pannier_pilot_{name}", documentation, value=value)
