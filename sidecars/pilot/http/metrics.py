"""The pilot's `/metrics`: what its status says, as Prometheus and OpenMetrics have it.

- Import it when the first scrape comes: prometheus-client brings 40 ms and `http.server` with it.
- One collector that reads at scrape time, over a registry of its own: nothing is counted twice.
- No label is a service or an instance: what one scrape weighs does not depend on who registers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pannier.shared.instances import State
from pannier.sidecars.pilot.documents.documents import Statistics as DocumentStatus
from pannier.sidecars.pilot.http.status import Account, Status
from pannier.sidecars.pilot.registry.tally import ASKED
from pannier.sidecars.pilot.stream.stream import StreamStatus
from pannier.sidecars.pilot.xds.service import XdsStatus
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from pannier.sidecars.pilot.bridges.opening import Status as BridgeStatus
    from pannier.sidecars.pilot.dns.server import Statistics as DnsStatus

BRIDGE: Final = "bridge "
DNS: Final = "dns "


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
        for part in status.parts.values():
            match part:
                case StreamStatus():
                    yield from _stream(part)
                case XdsStatus():
                    yield from _xds(part)
                case DocumentStatus():
                    yield from _documents(part)
        # By their names: their modules bring what a pilot without them does not need.
        yield from _bridges(
            {name.removeprefix(BRIDGE): part for name, part in status.parts.items() if name.startswith(BRIDGE)}
        )
        yield from _dns([part for name, part in status.parts.items() if name.startswith(DNS)])

    def _registered(self, status: Status) -> Iterator[Metric]:
        instances = GaugeMetricFamily(
            "pannier_pilot_instances", "Instances that are registered, by state.", labels=["state"]
        )
        for state in State:
            instances.add_metric([state], status.states.get(state, 0))
        yield instances
        yield _gauge("services", "Services that have instances.", status.services)
        yield _gauge("suspects", "Instances that miss renewals with this pilot and are kept.", status.suspects)
        yield _gauge("detours", "Instances by way of a Central, which are not among the others.", status.detours)
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


def _xds(status: XdsStatus) -> Iterator[Metric]:
    clients = GaugeMetricFamily(
        "pannier_pilot_xds_clients", "Clients that are connected, by the form of xDS that they speak.", labels=["form"]
    )
    for form, count in sorted(Counter(client.form for client in status.clients).items()):
        clients.add_metric([form], count)
    yield clients
    yield _total("xds_streams", "Streams that clients have begun.", status.streams)
    yield _total("xds_responses", "Responses that were sent.", status.sent)
    answers = CounterMetricFamily(
        "pannier_pilot_xds_answers", "Responses that clients accepted or rejected.", labels=["type", "verdict"]
    )
    for kind, counted in status.answers.items():
        answers.add_metric([kind, "accepted"], counted.accepted)
        answers.add_metric([kind, "rejected"], counted.rejected)
    yield answers
    rejecting = GaugeMetricFamily(
        "pannier_pilot_xds_rejecting", "Clients that rejected what they were told last.", labels=["type"]
    )
    waiting = GaugeMetricFamily(
        "pannier_pilot_xds_unanswered",
        "Time for which the slowest client has not answered a response.",
        labels=["type"],
        unit="seconds",
    )
    for kind in status.answers:
        topics = [topic for client in status.clients for topic in client.types if topic.type == kind]
        rejecting.add_metric([kind], sum(bool(topic.error) for topic in topics))
        waiting.add_metric([kind], max((topic.waiting_s for topic in topics), default=0.0))
    yield rejecting
    yield waiting
    refused = CounterMetricFamily("pannier_pilot_xds_refused", "Streams that were ended, and why.", labels=["reason"])
    for reason, count in sorted(status.refused.items()):
        refused.add_metric([reason], count)
    yield refused
    yield _gauge("xds_left_out", "Services with addresses that some client could not call.", len(status.left_out))


def _documents(status: DocumentStatus) -> Iterator[Metric]:
    documents = GaugeMetricFamily(
        "pannier_pilot_documents", "Configurations of services and policies that are in force.", labels=["kind"]
    )
    documents.add_metric(["config"], status.configurations)
    documents.add_metric(["policy"], status.policies)
    yield documents
    changes = CounterMetricFamily(
        "pannier_pilot_document_changes", "Changes of documents that were asked for.", labels=["verdict"]
    )
    changes.add_metric(["accepted"], status.changes)
    changes.add_metric(["refused"], status.refused)
    yield changes


def _bridges(bridges: Mapping[str, BridgeStatus]) -> Iterator[Metric]:
    """One label is a bridge: whoever starts the pilot says how many there are."""
    up = GaugeMetricFamily("pannier_pilot_bridge_up", "1 while the other registry answers.", labels=["bridge"])
    instances = GaugeMetricFamily(
        "pannier_pilot_bridge_instances",
        "Instances that a bridge has brought in, and told the other side of.",
        labels=["bridge", "direction"],
    )
    events = CounterMetricFamily(
        "pannier_pilot_bridge_events", "What a bridge could not take over, and why.", labels=["bridge", "reason"]
    )
    for name, bridge in bridges.items():
        up.add_metric([name], bridge.reachable)
        instances.add_metric([name, "in"], bridge.instances)
        instances.add_metric([name, "out"], bridge.written)
        for reason in ("refused", "doubted", "stale", "taken"):
            events.add_metric([name, reason], getattr(bridge, reason))
    if bridges:
        yield from (up, instances, events)


def _dns(servers: Sequence[DnsStatus]) -> Iterator[Metric]:
    if servers:
        questions = CounterMetricFamily(
            "pannier_pilot_dns_questions", "Questions over DNS, by what came of them.", labels=["verdict"]
        )
        for verdict in ("answered", "refused", "malformed", "dropped", "cut"):
            questions.add_metric([verdict], sum(getattr(server, verdict) for server in servers))
        yield questions


def _gauge(name: str, documentation: str, value: float, *, unit: str = "") -> Metric:
    return GaugeMetricFamily(f"pannier_pilot_{name}", documentation, value=float(value), unit=unit)


def _total(name: str, documentation: str, value: int) -> Metric:
    return CounterMetricFamily(f"pannier_pilot_{name}", documentation, value=value)
