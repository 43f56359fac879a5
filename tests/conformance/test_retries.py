"""What is tried again, how often, and where."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock

import pytest
from pannier.sidecars.resilience.config import Budget, Config, Resources, Retry, Service
from pannier.sidecars.traffic import config as traffic

from tests.conformance.bootstrap import Envoy, Json, circuit_breakers
from tests.conformance.conftest import Compare
from tests.conformance.conversations import hang, hang_up
from tests.conformance.sides import CALLEE, Instance, Side
from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S, Message, answer

UNAVAILABLE = "503 Service Unavailable"
#: As Pannier does always: another endpoint than before, after 25 ms … 250 ms.
ELSEWHERE: Json = {
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 10,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
}


def only(retry: Retry, **others: Resources) -> Config:
    """Retries, and nothing of resilience that takes an endpoint out."""
    return Config(services={CALLEE: Service(failure_policy="none", retry=retry, **others)})


def retry_policy(on: str, count: int) -> Json:
    """Envoy's, with the rest of what we always do."""
    return {"retry_on": on, "num_retries": count, **ELSEWHERE}


def retrying(on: str, count: int = 1, *, cluster: Json | None = None, **route: object) -> Envoy:
    """Envoy retries so often; what may not be repeated takes a route without retries, which Envoy has to be told."""
    policy = retry_policy(on, count)
    idempotent = {"string_match": {"safe_regex": {"regex": "GET|HEAD|PUT|DELETE|OPTIONS|TRACE"}}}
    return Envoy(
        routes=[
            {
                "match": {"prefix": "/", "headers": [{"name": ":method", **idempotent}]},
                "route": {"cluster": CALLEE, "retry_policy": policy, **route},
            },
            {"match": {"prefix": "/"}, "route": {"cluster": CALLEE, **route}},
        ],
        clusters={CALLEE: cluster or {}},
    )


def script(*statuses: str) -> Callable[[Message], bytes]:
    """An origin's answers in this order; the last one for ever."""
    left = list(statuses)
    return lambda _: answer(status=left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize(
    ("method", "retries", "statuses", "expected"),
    [
        ("GET", 1, [UNAVAILABLE], (503, 2)),
        ("GET", 1, [UNAVAILABLE, "200 OK"], (200, 2)),
        ("GET", 3, [UNAVAILABLE], (503, 4)),
        ("GET", 3, [UNAVAILABLE, "502 Bad Gateway", "504 Gateway Timeout", "200 OK"], (200, 4)),
        ("GET", 1, ["502 Bad Gateway", "504 Gateway Timeout"], (504, 2)),
        ("GET", 1, ["500 Internal Server Error"], (500, 1)),
        ("GET", 1, ["429 Too Many Requests"], (429, 1)),
        ("GET", 1, ["404 Not Found"], (404, 1)),
        ("PUT", 1, [UNAVAILABLE, "200 OK"], (200, 2)),
        ("DELETE", 1, [UNAVAILABLE, "200 OK"], (200, 2)),
        ("HEAD", 1, [UNAVAILABLE, "200 OK"], (200, 2)),
        ("POST", 1, [UNAVAILABLE, "200 OK"], (503, 1)),
        ("PATCH", 1, [UNAVAILABLE, "200 OK"], (503, 1)),
    ],
)
def test_gateway_errors(
    compare: Compare, method: str, retries: int, statuses: list[str], expected: tuple[int, int]
) -> None:
    both = compare(limits=only(Retry(attempts=retries)), envoy=retrying("gateway-error,reset", retries))

    def observe(side: Side) -> tuple[int, int]:
        (origin,) = side.origins[CALLEE]
        origin.answer = script(*statuses)
        return side.ask(
            "/", method=method, body=None if method in ("GET", "HEAD") else b"hello"
        ).status, *side.attempts()

    assert both.agree(observe) == expected


@pytest.mark.parametrize(
    ("on", "status"),
    [("5xx", "500 Internal Server Error"), ("429", "429 Too Many Requests"), ("gateway-error", "502 Bad Gateway")],
)
def test_what_is_said_to_be_retried(compare: Compare, on: str, status: str) -> None:
    """Envoy's word for a single status is `retriable-status-codes`."""
    told = retrying("retriable-status-codes" if on == "429" else on)
    if on == "429":
        told.routes[0]["route"]["retry_policy"]["retriable_status_codes"] = [429]
    both = compare(limits=only(Retry(on=[on])), envoy=told)

    def observe(side: Side) -> tuple[int, int]:
        (origin,) = side.origins[CALLEE]
        origin.answer = script(status, "200 OK")
        return side.ask().status, *side.attempts()

    assert both.agree(observe) == (200, 2)


def test_a_route_has_retries_of_its_own(compare: Compare) -> None:
    retries = {"/none": 0, "/three": 3}
    both = compare(
        routes=traffic.Config(
            routes=[
                traffic.Route(name=path[1:], matches=[traffic.Match(path=path)], to={CALLEE: 1}, retries=count)
                for path, count in retries.items()
            ]
        ),
        limits=only(Retry(attempts=1)),
        envoy=Envoy(
            [
                {"match": match, "route": {"cluster": CALLEE, "retry_policy": retry_policy("gateway-error", count)}}
                for match, count in (({"path": "/none"}, 0), ({"path": "/three"}, 3), ({"prefix": "/"}, 1))
            ]
        ),
    )

    def observe(side: Side) -> list[int]:
        (origin,) = side.origins[CALLEE]
        origin.answer = script(UNAVAILABLE)
        attempts = []
        for path in ("/none", "/three", "/other"):
            before = len(origin.requests)
            assert side.ask(path).status == 503
            attempts.append(len(origin.requests) - before)
        return attempts

    assert both.agree(observe) == [1, 4, 2]


def test_a_bad_endpoint_is_retried_at_another(compare: Compare) -> None:
    both = compare(
        [Instance()] * 2,
        routes=traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")}),
        limits=only(Retry(budget=None)),
        envoy=retrying("gateway-error"),
    )

    def observe(side: Side) -> tuple[set[int], bool, int]:
        side.origins[CALLEE][0].answer = script(UNAVAILABLE)
        statuses = {side.ask().status for _ in range(20)}
        failed, answered = side.attempts()
        return statuses, 0 < failed <= 20, answered

    assert both.agree(observe) == ({200}, True, 20)


def test_more_retries_than_endpoints(compare: Compare) -> None:
    both = compare([Instance()] * 2, limits=only(Retry(attempts=3)), envoy=retrying("gateway-error", 3))

    def observe(side: Side) -> tuple[int, int, bool]:
        for origin in side.origins[CALLEE]:
            origin.answer = script(UNAVAILABLE)
        return side.ask().status, sum(side.attempts()), min(side.attempts()) > 0

    assert both.agree(observe) == (503, 4, True)


def test_a_refused_connection_is_tried_at_another(compare: Compare) -> None:
    both = compare(
        [Instance(refuses=True), Instance()],
        routes=traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")}),
        limits=only(Retry(budget=None)),
        envoy=retrying("connect-failure"),
    )
    assert both.agree(lambda side: Counter(side.ask().body for _ in range(20))) == {b"orders-1": 20}


def test_nobody_accepts_a_connection(compare: Compare) -> None:
    both = compare([Instance(refuses=True)] * 2, limits=only(Retry()), envoy=retrying("connect-failure"))
    assert both.agree(lambda side: side.verdict(side.ask())) == (503, "UF")


def test_an_origin_that_hangs_up_is_retried_at_another(compare: Compare) -> None:
    both = compare(
        [Instance()] * 2,
        routes=traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")}),
        limits=only(Retry(budget=None)),
        envoy=retrying("reset"),
    )

    def observe(side: Side) -> tuple[set[int], bool, int]:
        side.origins[CALLEE][0].converse = hang_up
        statuses = {side.ask().status for _ in range(10)}
        failed, answered = side.attempts()
        return statuses, 0 < failed <= 10, answered

    assert both.agree(observe) == ({200}, True, 10)


def test_an_attempt_that_takes_too_long_is_retried(compare: Compare) -> None:
    """Envoy's `reset` holds a timeout too; ours has a word of its own."""
    route = traffic.Route(
        name="bounded",
        to={CALLEE: 1},
        timeouts=traffic.RouteTimeouts(request="5s", backend_request="150ms"),
    )
    told = retrying("reset", timeout="5s")
    told.routes[0]["route"]["retry_policy"]["per_try_timeout"] = "0.15s"
    both = compare(
        [Instance()] * 2,
        routes=traffic.Config(
            services={CALLEE: traffic.Service(balance="round_robin")},
            routes=[route],
        ),
        limits=only(Retry(on=["timeout"], budget=None)),
        envoy=told,
    )

    def observe(side: Side) -> tuple[set[int], bool, int]:
        side.origins[CALLEE][0].converse = hang
        statuses = {side.ask().status for _ in range(4)}
        timed_out, answered = side.attempts()
        return statuses, 0 < timed_out <= 4, answered

    assert both.agree(observe) == ({200}, True, 4)


def test_every_attempt_takes_too_long(compare: Compare) -> None:
    route = traffic.Route(
        name="bounded",
        to={CALLEE: 1},
        timeouts=traffic.RouteTimeouts(request="5s", backend_request="150ms"),
    )
    told = retrying("reset", timeout="5s")
    told.routes[0]["route"]["retry_policy"]["per_try_timeout"] = "0.15s"
    both = compare(
        routes=traffic.Config(routes=[route]),
        limits=only(Retry(on=["timeout"], budget=None)),
        envoy=told,
    )

    def observe(side: Side) -> tuple[tuple[int, str | None], list[int], bool]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang
        began = time.monotonic()
        verdict = side.verdict(side.ask())
        return verdict, side.attempts(), 0.29 <= time.monotonic() - began < 3

    assert both.agree(observe) == ((504, "UT"), [2], True)


def test_a_request_has_a_deadline_over_all_attempts(compare: Compare) -> None:
    route = traffic.Route(name="bounded", to={CALLEE: 1}, timeouts=traffic.RouteTimeouts(request="300ms"))
    both = compare(
        routes=traffic.Config(routes=[route]),
        limits=only(Retry(attempts=5, budget=None)),
        envoy=retrying("gateway-error", 5, timeout="0.3s"),
    )

    def observe(side: Side) -> tuple[tuple[int, str | None], bool]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang
        began = time.monotonic()
        verdict = side.verdict(side.ask())
        return verdict, 0.29 <= time.monotonic() - began < 3

    assert both.agree(observe) == ((504, "UT"), True)
    assert both.agree(Side.attempts) == [1]


def test_a_caller_sets_the_deadline(compare: Compare) -> None:
    """In the field that each knows, in milliseconds."""

    def observe(side: Side) -> tuple[tuple[int, str | None], bool]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang
        began = time.monotonic()
        verdict = side.verdict(side.ask("/", "x-pannier-deadline: 200", "x-envoy-upstream-rq-timeout-ms: 200"))
        return verdict, 0.19 <= time.monotonic() - began < 3

    assert compare(routes=traffic.Config()).agree(observe) == ((504, "UT"), True)


def test_a_second_attempt_is_told_what_is_left(compare: Compare) -> None:
    """In the field that each has, in milliseconds."""
    route = traffic.Route(name="bounded", to={CALLEE: 1}, timeouts=traffic.RouteTimeouts(request="2s"))
    both = compare(
        routes=traffic.Config(routes=[route]), limits=only(Retry()), envoy=retrying("gateway-error", timeout="2s")
    )

    def observe(side: Side) -> list[bool]:
        (origin,) = side.origins[CALLEE]

        def work(_: Message) -> bytes:
            time.sleep(0.3)
            return answer(status=UNAVAILABLE)

        origin.answer = work
        side.ask()
        fields = ("x-pannier-deadline", "x-envoy-expected-rq-timeout-ms")
        first, second = (
            next(int(value) for name in fields if (value := attempt.get(name))) for attempt in origin.requests
        )
        return [1900 <= first <= 2000, 1000 <= second <= 1700]

    assert both.agree(observe) == [True, True]


def storm(side: Side, callers: int) -> int:
    """So many requests at once, every attempt answered 503 but none before all have arrived; how many were retried.

    Retries are held at the origin, so that none makes room for another.
    """
    (origin,) = side.origins[CALLEE]
    first, second, lock, seen = Event(), Event(), Lock(), Counter[str | None]()

    def refuse(request: Message) -> bytes:
        caller = request.get("x-caller")
        with lock:
            seen[caller] += 1
            gate = first if seen[caller] == 1 else second
        gate.wait(PATIENCE_S)
        return answer(status=UNAVAILABLE)

    origin.answer = refuse
    wires = [side.start("/", f"x-caller: {number}") for number in range(callers)]
    origin.wait_requests(callers)
    first.set()

    def answered() -> int:
        return len(select.select([wire.socket for wire in wires], [], [], 0)[0])

    wait_until(lambda: answered() + len(origin.requests) == 2 * callers)
    retried = len(origin.requests) - callers
    second.set()
    for wire in wires:
        assert wire.read_answer().status == 503
        wire.close()
    assert len(origin.requests) == callers + retried
    return retried


def test_a_budget_bounds_retries_in_a_storm(compare: Compare) -> None:
    both = compare(
        limits=only(Retry(budget=Budget(percent=20, min_per_second=0))),
        envoy=retrying(
            "gateway-error",
            cluster=circuit_breakers(retry_budget={"budget_percent": {"value": 20}, "min_retry_concurrency": 1}),
        ),
    )

    def observe(side: Side) -> None:
        assert 10 <= storm(side, 100) <= 20

    both.each(observe)


def test_without_a_budget_a_number_bounds_retries_under_way(compare: Compare) -> None:
    both = compare(
        limits=only(Retry(budget=None), resources=Resources(retries=3)),
        envoy=retrying("gateway-error", cluster=circuit_breakers(max_retries=3)),
    )
    assert both.agree(lambda side: storm(side, 20)) == 3
