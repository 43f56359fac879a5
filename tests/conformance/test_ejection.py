"""Who is taken out of the balance, when, for how long, and what happens when too many are."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from pannier.sidecars.resilience.config import Config, Outlier, Resources, Retry, Service
from pannier.sidecars.traffic import config as traffic

from tests.conformance.bootstrap import Envoy, circuit_breakers
from tests.conformance.conftest import Compare
from tests.conformance.conversations import hang, hang_up, held
from tests.conformance.sides import CALLEE, Instance, Side
from tests.proxy.origin import Origin
from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S, Wire, answer

INTERVAL_S, BASE_S = 0.4, 0.5
#: What a busy machine adds, and what clocks of milliseconds take away.
SLACK_S, TICK_S = 0.3, 0.02
LONG_S = 60.0
IN_TURN = traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")})


def ours(base_s: float, most: float) -> Config:
    """Ejection for five failures in a row, and no retries."""
    outlier = Outlier(
        interval=f"{INTERVAL_S * 1000:.0f}ms", base_ejection=f"{base_s * 1000:.0f}ms", max_ejected_percent=most
    )
    return Config(services={CALLEE: Service(failure_policy="outlier", outlier=outlier, retry=Retry(attempts=0))})


def envoys(base_s: float, most: float) -> Envoy:
    """The same for Envoy."""
    outlier = {
        "interval": f"{INTERVAL_S}s",
        "base_ejection_time": f"{base_s}s",
        "max_ejection_percent": round(most),
        "always_eject_one_host": True,
    }
    return Envoy(clusters={CALLEE: {"outlier_detection": outlier}})


def fail(side: Side, *numbers: int) -> None:
    """From now on these endpoints answer 503, and the others 200."""
    for number, origin in enumerate(side.origins[CALLEE]):
        status = "503 Service Unavailable" if number in numbers else "200 OK"
        origin.answer = lambda _, status=status: answer(status=status)


def ask_until_seen(side: Side, number: int, more: int) -> float:
    """Asks until an endpoint has had so many more requests; returns when."""
    origin = side.origins[CALLEE][number]
    wanted, deadline = len(origin.requests) + more, time.monotonic() + PATIENCE_S
    while len(origin.requests) < wanted:
        side.ask()
        assert time.monotonic() < deadline
    return time.monotonic()


def ask_until_out(side: Side, number: int, threshold: int) -> tuple[int, float]:
    """Asks until an endpoint is left out for some turns; returns how many requests it had, and when the last.

    Fails if that is more than an interval after so many: Envoy's worker hears of an ejection some time after it.
    """
    origin = side.origins[CALLEE][number]
    first, reached, passed_over = len(origin.requests), 0.0, 0
    last = time.monotonic()
    while passed_over < 8:
        before = len(origin.requests)
        side.ask()
        if len(origin.requests) == before:
            passed_over += 1
            continue
        passed_over, last = 0, time.monotonic()
        if before + 1 - first == threshold:
            reached = last
        assert before + 1 - first <= threshold or last - reached <= INTERVAL_S
    return len(origin.requests) - first, last


def test_an_endpoint_is_out_after_five_failures_and_comes_back(compare: Compare) -> None:
    both = compare([Instance()] * 2, routes=IN_TURN, limits=ours(BASE_S, 50), envoy=envoys(BASE_S, 50))

    def observe(side: Side) -> tuple[list[int], list[float]]:
        fail(side, 0)
        failures, first = ask_until_out(side, 0, threshold=5)
        back = ask_until_seen(side, 0, more=1)
        failures_again, second = ask_until_out(side, 0, threshold=4)
        back_again = ask_until_seen(side, 0, more=1)
        return [failures, 1 + failures_again], [back - first, back_again - second]

    pannier, envoy = both.each(observe)
    assert pannier[0] == [5, 5]
    assert min(envoy[0]) >= 5
    for times, seconds in enumerate(zip(pannier[1], envoy[1], strict=True), start=1):
        for seen in seconds:
            assert times * BASE_S - TICK_S <= seen <= times * BASE_S + INTERVAL_S + SLACK_S
        assert abs(seconds[0] - seconds[1]) <= INTERVAL_S + SLACK_S


@pytest.mark.parametrize("failure", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_failures_of_gateways_have_a_threshold_of_their_own(compare: Compare, failure: str) -> None:
    outlier = Outlier(consecutive_5xx=100, consecutive_gateway_failure=3, enforcing_consecutive_gateway_failure=100)
    thresholds = {
        "consecutive_5xx": 100,
        "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 100,
        "always_eject_one_host": True,
    }
    both = compare(
        [Instance()] * 2,
        routes=IN_TURN,
        limits=Config(services={CALLEE: Service(failure_policy="outlier", outlier=outlier, retry=Retry(attempts=0))}),
        envoy=Envoy(clusters={CALLEE: {"outlier_detection": thresholds}}),
    )

    def observe(side: Side) -> int:
        bad, _ = side.origins[CALLEE]
        bad.answer = lambda _: answer(status="500 Internal Server Error")
        ask_until_seen(side, 0, more=6)
        bad.answer = lambda _: answer(status=failure)
        return ask_until_out(side, 0, threshold=3)[0]

    pannier, envoy = both.each(observe)
    assert pannier == 3 <= envoy


@pytest.mark.parametrize("converse", [hang_up, hang])
def test_an_endpoint_that_does_not_answer_is_ejected(
    compare: Compare, converse: Callable[[Origin, Wire], None]
) -> None:
    """With a timeout of 200 ms."""
    timeouts = traffic.RouteTimeouts(request="200ms")
    route = traffic.Route(name="bounded", to={CALLEE: 1}, timeouts=timeouts)
    clusters = envoys(LONG_S, 50).clusters
    both = compare(
        [Instance()] * 2,
        routes=traffic.Config(services=IN_TURN.services, routes=[route]),
        limits=ours(LONG_S, 50),
        envoy=Envoy([{"match": {"prefix": "/"}, "route": {"cluster": CALLEE, "timeout": "0.2s"}}], clusters),
    )

    def observe(side: Side) -> int:
        side.origins[CALLEE][0].converse = converse
        return ask_until_out(side, 0, threshold=5)[0]

    pannier, envoy = both.each(observe)
    assert pannier == 5 <= envoy


def test_refusals_of_our_own_eject_nobody(compare: Compare) -> None:
    envoy = envoys(LONG_S, 50)
    envoy.clusters[CALLEE].update(circuit_breakers(max_requests=1))
    limits = ours(LONG_S, 50)
    both = compare(
        [Instance()] * 2,
        routes=IN_TURN,
        limits=Config(services={CALLEE: replace(limits.services[CALLEE], resources=Resources(requests=1))}),
        envoy=envoy,
    )

    def observe(side: Side) -> tuple[set[tuple[int, str | None]], bool]:
        first = side.origins[CALLEE]
        with held(*first):
            wire = side.start()
            wait_until(lambda: sum(side.attempts()) == 1)
            refused = {side.verdict(side.ask()) for _ in range(20)}
        assert wire.read_answer().status == 200
        wire.close()
        before = side.attempts()
        for _ in range(10):
            assert side.ask().status == 200
        return refused, all(now > then for now, then in zip(side.attempts(), before, strict=True))

    assert both.agree(observe) == ({(503, "UO")}, True)


def test_one_success_forgets_the_failures(compare: Compare) -> None:
    both = compare([Instance()] * 2, routes=IN_TURN, limits=ours(LONG_S, 50), envoy=envoys(LONG_S, 50))

    def observe(side: Side) -> int:
        for _ in range(3):
            fail(side, 0)
            ask_until_seen(side, 0, more=4)
            fail(side)
            ask_until_seen(side, 0, more=1)
        fail(side, 0)
        return ask_until_out(side, 0, threshold=5)[0]

    pannier, envoy = both.each(observe)
    assert pannier == 5 <= envoy


@pytest.mark.parametrize(
    ("endpoints", "failing", "most", "out"),
    [(4, 3, 50, 2), (5, 3, 40, 2), (3, 2, 10, 1), (4, 2, 100, 2)],
)
def test_no_more_are_out_than_allowed(compare: Compare, endpoints: int, failing: int, most: float, out: int) -> None:
    both = compare([Instance()] * endpoints, routes=IN_TURN, limits=ours(LONG_S, most), envoy=envoys(LONG_S, most))

    def observe(side: Side) -> int:
        fail(side, *range(failing))
        for _ in range(20 * endpoints):
            side.ask()
        before = side.attempts()
        for _ in range(5 * endpoints):
            side.ask()
        return sum(now == then for now, then in zip(side.attempts(), before, strict=True))

    assert both.agree(observe) == out


@pytest.mark.parametrize(("failing", "panics"), [(1, False), (2, False), (3, True)])
def test_all_are_used_when_fewer_than_half_are_left(compare: Compare, failing: int, panics: bool) -> None:
    both = compare([Instance()] * 4, routes=IN_TURN, limits=ours(LONG_S, 100), envoy=envoys(LONG_S, 100))

    def observe(side: Side) -> list[bool]:
        fail(side, *range(failing))
        for _ in range(40):
            side.ask()
        before = side.attempts()
        for _ in range(40):
            side.ask()
        return [now > then for now, then in zip(side.attempts(), before, strict=True)]

    assert both.agree(observe) == [panics] * failing + [True] * (4 - failing)


def test_a_service_without_endpoints(compare: Compare) -> None:
    assert compare([]).agree(lambda side: side.verdict(side.ask())) == (503, "UH")
