"""How much is let through."""

from __future__ import annotations

import math
import select
import time
from typing import Any

from pannier.shared.duration import milliseconds
from pannier.sidecars.resilience.config import Config, RateLimit, Resources, Retry, Service

from tests.conformance.bootstrap import Envoy, circuit_breakers, http_filter, percent
from tests.conformance.conftest import Compare
from tests.conformance.conversations import held
from tests.conformance.sides import CALLEE, Side
from tests.proxy.process import wait_until
from tests.proxy.wire import Wire


def only(resources: Resources) -> Config:
    """Resource limits and nothing else of resilience."""
    return Config(services={CALLEE: Service(failure_policy="none", resources=resources, retry=Retry(attempts=0))})


def test_requests_under_way_are_bounded(compare: Compare) -> None:
    both = compare(limits=only(Resources(requests=2)), envoy=Envoy(clusters={CALLEE: circuit_breakers(max_requests=2)}))

    def observe(side: Side) -> list[tuple[int, str | None]]:
        (origin,) = side.origins[CALLEE]
        with held(origin):
            wires = [side.start(), side.start()]
            origin.wait_requests(2)
            verdicts = [side.verdict(side.ask()) for _ in range(3)]
        for wire in wires:
            verdicts.append(side.verdict(wire.read_answer()))
            wire.close()
        verdicts.append(side.verdict(side.ask()))
        assert side.attempts() == [3]
        return verdicts

    assert both.agree(observe) == [(503, "UO")] * 3 + [(200, None)] * 3


def test_requests_that_wait_for_a_connection_are_bounded(compare: Compare) -> None:
    both = compare(
        limits=only(Resources(connections=1, pending=1)),
        envoy=Envoy(clusters={CALLEE: circuit_breakers(max_connections=1, max_pending_requests=1)}),
    )

    def observe(side: Side) -> tuple[list[tuple[int, str | None]], int]:
        (origin,) = side.origins[CALLEE]
        with held(origin):
            wires = [side.start()]
            origin.wait_requests()
            wires += [side.start() for _ in range(3)]
            wait_until(lambda: len(answered(wires)) == 2)
            refused = answered(wires)
            verdicts = [side.verdict(wire.read_answer()) for wire in refused]
        verdicts += [side.verdict(wire.read_answer()) for wire in wires if wire not in refused]
        for wire in wires:
            wire.close()
        return verdicts, origin.connections

    assert both.agree(observe) == ([(503, "UO")] * 2 + [(200, None)] * 2, 1)


def answered(wires: list[Wire]) -> list[Wire]:
    """Those that have something to read."""
    readable, _, _ = select.select([wire.socket for wire in wires], [], [], 0)
    return [wire for wire in wires if wire.socket in readable]


def limited(limit: RateLimit) -> dict[str, Any]:
    """What both are told of a token bucket."""
    bucket = {
        "max_tokens": limit.max,
        "tokens_per_fill": limit.fill,
        "fill_interval": f"{milliseconds(limit.interval) / 1000}s",
    }
    shares = {
        "filter_enabled": {"default_value": percent(limit.enabled)},
        "filter_enforced": {"default_value": percent(limit.enforced)},
    }
    told = http_filter("local_ratelimit", "LocalRateLimit", stat_prefix="limit", token_bucket=bucket, **shares)
    return {
        "limits": Config(services={CALLEE: Service(failure_policy="none", rate_limit=limit)}),
        "envoy": Envoy(filters=[told]),
    }


def test_a_bucket_is_emptied(compare: Compare) -> None:
    both = compare(**limited(RateLimit(max=5, fill=5, interval="60s")))
    verdicts = both.agree(lambda side: [side.verdict(side.ask()) for _ in range(8)])
    assert verdicts == [(200, None)] * 5 + [(429, "RL")] * 3
    assert both.agree(Side.attempts) == [5]


def test_a_bucket_is_filled_again(compare: Compare) -> None:
    both = compare(**limited(RateLimit(max=2, fill=1, interval="100ms")))

    def observe(side: Side) -> float:
        began, accepted = time.monotonic(), 0
        while accepted < 8:
            accepted += side.ask().status == 200
        return time.monotonic() - began

    for seen in both.each(observe):
        assert 0.5 <= seen <= 3


def test_a_limit_in_shadow_mode_refuses_nobody(compare: Compare) -> None:
    both = compare(**limited(RateLimit(max=2, fill=1, interval="60s", enforced=0)))
    assert both.agree(lambda side: [side.verdict(side.ask()) for _ in range(6)]) == [(200, None)] * 6


def test_a_limit_for_a_share(compare: Compare) -> None:
    both = compare(**limited(RateLimit(max=1, fill=1, interval="60s", enabled=50)))

    def observe(side: Side) -> None:
        count = 400
        refused = sum(side.ask().status == 429 for _ in range(count))
        assert abs(refused + 1 - count / 2) <= 5 * math.sqrt(count / 4) + 1

    both.each(observe)
