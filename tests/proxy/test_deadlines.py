"""How long a request may take: a route's timeouts, and what is left of its caller's patience."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Injected, Route, RouteTimeouts

from tests.proxy.census import call, failures, refusal
from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.test_timeouts import takes_at_least
from tests.proxy.wire import Message, Wire, answer, request

LATE = (504, "UT")


@contextmanager
def takes_less_than(seconds: float) -> Iterator[None]:
    """For what would take longer by far, if it did not end when it should."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def publish(proxy: Proxy, request: str | None = None, backend_request: str | None = None, **what: Any) -> None:
    """One outbound route with these timeouts."""
    route = Route(name="it", timeouts=RouteTimeouts(request, backend_request), **what)
    proxy.publish_routes(Config(routes=[route]))


@pytest.fixture
def silent(origin: Origin) -> Origin:
    """An origin that reads a request on each connection and never answers."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.read_to_end()

    origin.converse = converse
    return origin


def answer_after(origin: Origin, seconds: float) -> None:
    """Lets the origin take its time."""
    pause = threading.Event()

    def slowly(_: Message) -> bytes:
        assert not pause.wait(seconds)
        return answer()

    origin.answer = slowly


def deadline(message: Message) -> int | None:
    """What a message says is left, in milliseconds."""
    value = message.get("x-pannier-deadline")
    return None if value is None else int(value)


# --- a route's timeouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["request", "backend_request"])
def test_a_request_that_takes_too_long_is_answered_504(proxy: Proxy, silent: Origin, which: str) -> None:
    publish(proxy, **{which: "100ms"})
    with proxy.call(outbound=True) as caller:
        for _ in range(2):
            with takes_at_least(0.1):
                caller.send(request(host="up"))
                assert refusal(caller.read_answer()) == LATE
    silent.wait(lambda: silent.ended == 2)


@pytest.mark.semantics(
    "traffic", "`request` bounds everything including retries, `backend_request` each attempt; `0s` is off"
)
@pytest.mark.parametrize("which", ["request", "backend_request"])
@pytest.mark.parametrize("timeout", ["0s", "60s"])
def test_a_routes_timeout_stands_in_place_of_the_floor_and_0_is_off(
    start_proxy: StartProxy, origin: Origin, which: str, timeout: str
) -> None:
    proxy = start_proxy(timeouts={"request_ms": 50})
    answer_after(origin, 0.2)
    assert refusal(call(proxy)) == LATE
    publish(proxy, **{which: timeout})
    assert call(proxy).status == 200


def test_the_floor_holds_where_a_route_says_nothing(start_proxy: StartProxy, silent: Origin) -> None:
    proxy = start_proxy(timeouts={"request_ms": 50})
    publish(proxy)
    assert refusal(call(proxy)) == LATE


def test_a_route_gives_time_to_what_matches_it_alone(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"request_ms": 50})
    answer_after(origin, 0.2)
    publish(proxy, request="60s", hosts=["other"])
    assert refusal(call(proxy)) == LATE


def publish_retries(proxy: Proxy, **changes: Any) -> None:
    retry = resilience.Retry(on=["timeout", "gateway-error", "reset"], backoff_min="1ms", backoff_max="1ms", **changes)
    service = resilience.Service(failure_policy="none", retry=retry)
    proxy.publish_limits(resilience.Config(services={"*": service}))


@pytest.mark.semantics(
    "traffic", "`request` bounds everything including retries, `backend_request` each attempt; `0s` is off"
)
def test_backend_request_bounds_each_attempt(proxy: Proxy, silent: Origin) -> None:
    publish_retries(proxy, attempts=2)
    publish(proxy, backend_request="100ms")
    with takes_at_least(0.3):
        assert refusal(call(proxy)) == LATE
    assert len(silent.requests) == 3


def test_an_attempt_that_takes_too_long_is_made_again(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        if len(origin.requests) > 1:
            wire.send(answer(b"second"))
        wire.read_to_end()

    origin.converse = converse
    publish_retries(proxy)
    publish(proxy, request="60s", backend_request="100ms")
    assert call(proxy).body == b"second"


@pytest.mark.semantics(
    "traffic",
    "`request` bounds everything including retries, `backend_request` each attempt; `0s` is off",
    "routes[].timeouts.request",
    "routes[].timeouts.backend_request",
)
def test_request_bounds_everything_including_retries(proxy: Proxy, silent: Origin) -> None:
    publish_retries(proxy, attempts=10)
    publish(proxy, request="250ms", backend_request="100ms")
    with takes_at_least(0.25):
        assert refusal(call(proxy)) == LATE
    assert 1 < len(silent.requests) < 5


def test_a_timeout_of_the_route_counts_against_the_endpoint(proxy: Proxy, silent: Origin) -> None:
    proxy.publish_limits(resilience.Config(services={"*": resilience.Service(retry=resilience.Retry(attempts=0))}))
    proxy.publish_endpoints(up=[{"address": silent.address}])
    publish(proxy, request="50ms")
    assert refusal(call(proxy)) == LATE
    proxy.wait_counted(1)
    assert failures(proxy, 0) == 1


# --- the caller's deadline -----------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "traffic", "Nobody waits longer than the caller, who says so in `x-pannier-deadline` or `grpc-timeout`"
)
@pytest.mark.parametrize(
    "fields",
    [
        ["X-Pannier-Deadline: 100"],
        ["Grpc-Timeout: 100m"],
        ["Grpc-Timeout: 100000u"],
        ["Grpc-Timeout: 1S", "X-Pannier-Deadline: 100"],
        ["Grpc-Timeout: 100m", "X-Pannier-Deadline: 60000"],
    ],
)
@pytest.mark.parametrize("outbound", [True, False])
def test_nobody_waits_longer_than_the_caller_does(
    proxy: Proxy, silent: Origin, fields: list[str], outbound: bool
) -> None:
    proxy.publish_routes(Config())
    with takes_at_least(0.1), takes_less_than(5):
        assert refusal(proxy.fetch("/", *fields, host="up" if outbound else "svc", outbound=outbound)) == LATE
    assert proxy.totals("deadlines_exceeded") == 1


@pytest.mark.parametrize("timeout", ["50ms", "60s", "0s"])
def test_the_shorter_of_the_routes_time_and_the_callers_holds(proxy: Proxy, silent: Origin, timeout: str) -> None:
    publish(proxy, request=timeout)
    with takes_less_than(5):
        assert refusal(call(proxy, "/", "X-Pannier-Deadline: 100")) == LATE
    left = deadline(silent.only)
    assert left is not None
    assert left <= (50 if timeout == "50ms" else 100)


@pytest.mark.semantics("traffic", "A deadline that has passed asks nobody: 504 `UT`")
def test_a_deadline_that_has_passed_asks_nobody(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_routes(Config())
    for field in ("X-Pannier-Deadline: 0", "Grpc-Timeout: 0S"):
        assert refusal(call(proxy, "/", field)) == LATE
    assert origin.connections == 0


def test_what_cannot_be_read_says_nothing(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_routes(Config())
    for value in ("", "-1", "1.5", "1e3", "123456789", "soon", "0x10"):
        assert call(proxy, "/", f"X-Pannier-Deadline: {value}", f"Grpc-Timeout: {value}").status == 200


@pytest.mark.semantics("traffic", "What is left of the time is passed on, never more")
def test_what_is_left_is_passed_on_and_never_more(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request="2s", hosts=["up"])
    for fields, most in (
        ([], 2_000),
        (["X-Pannier-Deadline: 60000"], 2_000),
        (["X-Pannier-Deadline: 1500"], 1_500),
        (["Grpc-Timeout: 1S"], 1_000),
        (["Grpc-Timeout: 1S", "X-Pannier-Deadline: 900"], 900),
    ):
        assert call(proxy, "/", *fields).status == 200
        left = deadline(origin.requests[-1])
        assert left is not None
        assert most - 1_000 < left <= most


def test_a_deadline_from_outside_is_passed_on_to_the_app(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_routes(Config(routes=[Route(name="it", side="inbound", timeouts=RouteTimeouts(request="2s"))]))
    proxy.fetch("/", "X-Pannier-Deadline: 900")
    proxy.fetch("/", "X-Pannier-Deadline: 9000")
    proxy.fetch("/")
    assert [(deadline(r) or 9_999) <= most for r, most in zip(origin.requests, (900, 2_000, 2_000), strict=True)]


def test_nothing_is_passed_on_where_time_is_not_bounded(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request="0s")
    call(proxy)
    assert deadline(origin.only) is None


def test_without_traffic_a_deadline_is_a_field_like_others(proxy: Proxy, origin: Origin) -> None:
    answer_after(origin, 0.1)
    assert call(proxy, "/", "X-Pannier-Deadline: 1", "Grpc-Timeout: 1m").status == 200
    assert (deadline(origin.only), origin.only.get("grpc-timeout")) == (1, "1m")


def test_the_next_attempt_passes_on_less(proxy: Proxy, silent: Origin) -> None:
    publish_retries(proxy)
    publish(proxy, request="60s", backend_request="100ms")
    assert refusal(call(proxy)) == LATE
    first, second = (deadline(r) for r in silent.requests)
    assert first is not None
    assert second is not None
    assert second <= first - 100


def test_what_was_spent_before_is_not_passed_on(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request="60s", fault=Injected(delay="100ms"))
    assert call(proxy, "/", "X-Pannier-Deadline: 5000").status == 200
    left = deadline(origin.only)
    assert left is not None
    assert left <= 4_900


def test_grpcs_own_field_says_no_more_than_what_is_left(proxy: Proxy, origin: Origin) -> None:
    """A callee that knows no other field waits by this one."""
    publish(proxy, request="1s")
    call(proxy, "/", "Grpc-Timeout: 60S")
    value = origin.only.get("grpc-timeout")
    assert value is not None and value.endswith("m") and len(value) <= 9
    assert 0 < int(value.removesuffix("m")) <= 1000


# --- whose fault it is ---------------------------------------------------------------------------------------------


def test_a_short_deadline_of_the_caller_does_not_count_against_the_endpoint(proxy: Proxy, silent: Origin) -> None:
    breaker = resilience.Breaker(consecutive_failures=1, penalty_min="60s", jitter=0.0)
    retry = resilience.Retry(attempts=0)
    proxy.publish_endpoints(up=[{"address": silent.address}])
    proxy.publish_routes(Config())
    proxy.publish_limits(resilience.Config(services={"*": resilience.Service(breaker=breaker, retry=retry)}))
    for _ in range(3):
        assert refusal(call(proxy, "/", "X-Pannier-Deadline: 30")) == LATE
    proxy.wait_counted(3)
    assert (failures(proxy, 0), proxy.totals("breakers_opened"), proxy.totals("deadlines_exceeded")) == (0, 0, 3)


# --- everything that may wait --------------------------------------------------------------------------------------


def test_a_delay_that_is_injected_does_not_outlast_the_deadline(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request="100ms", fault=Injected(delay="1s", abort=418))
    assert refusal(call(proxy)) == LATE


def test_connecting_does_not_outlast_the_deadline(start_proxy: StartProxy) -> None:
    """A listener with a full backlog: the kernel drops what asks further."""
    proxy = start_proxy(timeouts={"connect_ms": 1_000})
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        proxy.publish_endpoints(up=[{"address": f"127.0.0.1:{full.getsockname()[1]}"}])
        publish(proxy, request="100ms")
        assert refusal(call(proxy)) == LATE


def test_an_upload_does_not_outlast_the_callers_deadline(start_proxy: StartProxy) -> None:
    proxy = start_proxy(timeouts={"idle_ms": 1_000})
    publish(proxy)
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", "X-Pannier-Deadline: 100", "Content-Length: 10", method="POST", host="up") + b"half")
        assert refusal(caller.read_answer()) == LATE


def test_waiting_for_a_bulkhead_does_not_outlast_the_deadline(proxy: Proxy, silent: Origin) -> None:
    bulkhead = resilience.Bulkhead(concurrent=1, wait="1s")
    proxy.publish_limits(resilience.Config(services={"*": resilience.Service(bulkhead=bulkhead)}))
    publish(proxy)
    with proxy.call(outbound=True) as first:
        first.send(request(host="up"))
        silent.wait_requests()
        assert refusal(call(proxy, "/", "X-Pannier-Deadline: 100")) == LATE


@pytest.mark.parametrize("which", ["request", "backend_request"])
def test_an_answer_does_not_outlast_the_timeout(proxy: Proxy, origin: Origin, which: str) -> None:
    """Both run until the full answer has been received (GEP-1742)."""
    publish(proxy, **{which: "100ms"})

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        wire.socket.settimeout(1)
        with suppress(TimeoutError):
            assert wire.has_ended()
        wire.send(b"half")

    origin.converse = converse
    with proxy.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert caller.read_head().status == 200
        assert caller.read(4) == b"half"
        assert caller.has_ended()


def test_a_body_that_looks_like_a_deadline_stays_as_it_is(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request="1s")
    body = b"\r\ngrpc-timeout: 12345678m\r\nx-pannier-deadline: 12345678\r\n"
    assert proxy.fetch(host="up", outbound=True, method="PUT", body=body).status == 200
    assert origin.only.body == body
