"""The Central Mesh in `/metrics`: what has left this host and why, and on a Central what it has taken on.

Read from what the proxy in force says of itself; a service without a Central Mesh has none of these. What the proxy
says as a rate is a gauge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pannier.shared.central import CentralState, GatewayState
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

STATES: Final = ("local", "shifted", "returning")
_PRESSURES: Final = {"host": "host_pressure", "cgroup": "cgroup_pressure", "throttled": "throttled"}


def families(state: CentralState) -> Iterator[Metric]:
    """The metrics of one process of the proxy."""
    if state.gateway is not None:
        yield from _of_a_central(state.gateway)
        return
    yield _gauge("pannier_central_weight_ratio", "The part of what could leave that has left.", state.weight / 100)
    yield _gauge("pannier_central_limit_ratio", "The part that the tokens of Centrals allow.", state.limit / 100)
    where = GaugeMetricFamily("pannier_central_state", "1 for where the work is, or is going.", labels=["state"])
    for name in STATES:
        where.add_metric([name], float(name == state.state))
    yield where
    yield _gauge("pannier_central_forced", "1 while somebody asks for a weight by hand.", float(state.forced))
    yield _gauge("pannier_central_shedding", "1 while requests are refused for want of a Central.", state.shedding)
    yield _gauge("pannier_central_moved_requests", "Requests a second that are served elsewhere.", state.moved_rps)
    yield _gauge("pannier_central_tokens", "Requests a second that Centrals have granted.", state.granted_rps)
    yield _gauge("pannier_central_saved_cores", "Cores that this host is spared.", state.saved_cores)
    yield CounterMetricFamily(
        "pannier_central_reversals", "How often work has turned round since the proxy started.", value=state.reversals
    )
    yield from _inputs(state)
    up = GaugeMetricFamily("pannier_central_up", "Whether a Central answers.", labels=["address"])
    rtt = GaugeMetricFamily("pannier_central_rtt", "To a Central and back.", labels=["address"], unit="seconds")
    for central in state.centrals:
        up.add_metric([central.address], float(central.up))
        if central.up and central.rtt_ms:
            rtt.add_metric([central.address], central.rtt_ms / 1000)
    yield up
    yield rtt


def _inputs(state: CentralState) -> Iterator[Metric]:
    """What can be measured here."""
    pressure = GaugeMetricFamily(
        "pannier_central_pressure_ratio", "The part of time, or of quota periods, without a CPU.", labels=["source"]
    )
    for source, field in _PRESSURES.items():
        value: float | None = getattr(state.inputs, field)
        if value is not None:
            pressure.add_metric([source], value / 100)
    yield pressure
    for name, text, wait in (
        ("pannier_central_queue_wait", "How long work waits in the proxy.", state.inputs.queue_wait_ms),
        ("pannier_central_run_delay", "How long the proxy's threads wait for a CPU.", state.inputs.run_delay_ms),
    ):
        if wait is not None:
            yield GaugeMetricFamily(name, text, value=wait / 1000, unit="seconds")


def _of_a_central(gateway: GatewayState) -> Iterator[Metric]:
    yield _gauge("pannier_central_hosts", "Hosts that are enrolled.", gateway.hosts)
    yield _gauge("pannier_central_capacity", "Requests a second that can be granted.", gateway.capacity)
    yield _gauge("pannier_central_granted", "Requests a second that are granted.", gateway.granted_rps)
    yield CounterMetricFamily(
        "pannier_central_served_requests", "Requests that were served for hosts.", value=gateway.served
    )
    yield CounterMetricFamily(
        "pannier_central_strangers", "Connections of whoever is no host of this Central.", value=gateway.strangers
    )
    yield _gauge("pannier_central_pressed", "1 while it is itself under pressure.", float(gateway.pressed))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
