"""What is tried again, where and when; what a budget leaves of a storm; and what of a request is kept for that."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Converse, Origin, held
from tests.proxy.process import Proxy, wait_until
from tests.proxy.test_timeouts import takes_at_least
from tests.proxy.wire import Message, Wire, answer, chunk, request

StartOrigin = Callable[..., Origin]
KIB = 1024
UNAVAILABLE = "503 Service Unavailable"


def govern(proxy: Proxy, *, resources: resilience.Resources | None = None, **retry: Any) -> None:
    """Puts retries in force for calls to `up`; they wait for next to nothing unless told to, and no breaker opens."""
    service = resilience.Service(
        failure_policy="none",
        resources=resources or resilience.Resources(),
        retry=resilience.Retry(**{"backoff_min": "1ms", "backoff_max": "1ms"} | retry),
    )
    proxy.publish_limits(resilience.Config(services={"up": service}))


def route(proxy: Proxy, **rest: Any) -> None:
    """Puts one route in force, for every call to `up`."""
    proxy.publish_routes(traffic.Config(routes=[traffic.Route(name="up", hosts=["up"], **rest)]))


def call(proxy: Proxy, *fields: str, **rest: Any) -> Message:
    return proxy.fetch("/", *fields, host="up", outbound=True, **rest)


def unavailable(_: Message) -> bytes:
    return answer(b"not now", status=UNAVAILABLE)


@pytest.fixture
def good(start_origin: StartOrigin) -> Origin:
    return start_origin()


@pytest.fixture
def bad(origin: Origin) -> Origin:
    origin.answer = unavailable
    return origin


@pytest.fixture
def proxy(start_proxy: StartProxy, bad: Origin, good: Origin) -> Proxy:
    """A proxy that calls `up` first at the bad origin, then at the good one, and so on by turns."""
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=[{"address": bad.address}, {"address": good.address}])
    govern(proxy)
    return proxy


@pytest.fixture
def alone(start_proxy: StartProxy, bad: Origin) -> Proxy:
    """A proxy whose only endpoint of `up` is the bad origin."""
    proxy = start_proxy()
    proxy.publish_endpoints(up=[{"address": bad.address}])
    govern(proxy)
    return proxy


# --- what is tried again -------------------------------------------------------------------------------------------


def test_a_failed_request_is_tried_once_more_on_another_endpoint(proxy: Proxy, bad: Origin, good: Origin) -> None:
    assert call(proxy, "X-Mine: 1").status == 200
    assert bad.only == good.only, "it is the same request, its id included"
    assert proxy.totals("retries") == 1
    assert [(s.status, s.flag, s.count) for s in proxy.wait_counted(1)] == [(200, "", 1)]


def test_its_record_tells_of_the_endpoint_that_answered(proxy: Proxy, good: Origin) -> None:
    proxy.publish_telemetry(sample_ratio=0.0)
    call(proxy)
    (line,), _ = proxy.drain(1)
    assert (line["status"], line["upstream"], line["flags"]) == (200, good.address, "-")


@pytest.mark.semantics(
    "resilience", "Only idempotent methods are tried again, and only for what is named", "services.*.retry.on"
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_an_idempotent_request_is_tried_again(proxy: Proxy, good: Origin, method: str) -> None:
    assert call(proxy, method=method).status == 200
    assert good.only.method == method


@pytest.mark.semantics("resilience", "Only idempotent methods are tried again, and only for what is named")
@pytest.mark.parametrize("method", ["POST", "PATCH", "BREW"])
def test_any_other_is_not(proxy: Proxy, good: Origin, method: str) -> None:
    got = call(proxy, method=method, body=b"x")
    assert (got.status, got.body) == (503, b"not now")
    assert good.requests == []
    assert proxy.totals("retries") == 0


@pytest.mark.semantics("resilience", "Only idempotent methods are tried again, and only for what is named")
@pytest.mark.parametrize(
    ("on", "retried", "not_retried"),
    [
        (None, {502, 503, 504}, {500, 501, 429, 404}),
        (["5xx"], {500, 502, 503, 599}, {429, 404}),
        (["429"], {429}, {500, 503}),
        (["gateway-error"], {502, 503, 504}, {500, 429}),
        (["reset", "timeout"], set(), {500, 503, 429}),
        ([], set(), {500, 503, 429}),
    ],
)
def test_only_what_is_named_is_tried_again(
    alone: Proxy, bad: Origin, on: list[str] | None, retried: set[int], not_retried: set[int]
) -> None:
    named: dict[str, Any] = {} if on is None else {"on": on}
    govern(alone, **named)
    for status in retried | not_retried:
        bad.answer = lambda _, status=status: answer(status=f"{status} Whatever")  # type: ignore[misc]
        before = len(bad.requests)
        assert call(alone).status == status
        assert len(bad.requests) - before == 1 + (status in retried), status


def ending(last_words: bytes) -> Converse:
    """Reads a request, says something and ends."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(last_words)

    return converse


def resetting(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())
    wire.reset()


@pytest.mark.parametrize("converse", [ending(b""), resetting, ending(b"HTTP/1.1 200 OK\r\nX-")])
@pytest.mark.parametrize("named", [True, False])
def test_a_connection_that_ends_without_an_answer(
    proxy: Proxy, bad: Origin, good: Origin, converse: Converse, named: bool
) -> None:
    if not named:
        govern(proxy, on=["5xx", "timeout", "429"])
    bad.converse = converse
    got = call(proxy)
    assert (got.status, got.get("x-pannier-reason")) == ((200, None) if named else (502, "UC"))
    assert (len(bad.requests), len(good.requests)) == (1, named)


@pytest.mark.parametrize("named", [True, False])
def test_an_attempt_that_takes_too_long(proxy: Proxy, bad: Origin, good: Origin, named: bool) -> None:
    proxy.publish_base(timeouts={"request_ms": 100})
    if named:
        govern(proxy, on=["timeout"])
    with held(bad), takes_at_least(0.1):
        got = call(proxy)
    assert (got.status, got.get("x-pannier-reason")) == ((200, None) if named else (504, "UT"))
    assert len(good.requests) == named


@pytest.mark.semantics("resilience", "A refused connection is tried elsewhere, whatever the method")
def test_a_refused_connection_is_always_tried_elsewhere(proxy: Proxy, bad: Origin, good: Origin) -> None:
    govern(proxy, attempts=0)
    bad.refuse()
    for _ in range(4):
        assert call(proxy, method="POST", body=b"x").status == 200
    assert len(good.requests) == 4
    assert proxy.totals("retries") == 0, "nothing was sent, so nothing was repeated"


@pytest.mark.semantics("resilience", "Nothing is tried again once an answer has begun")
@pytest.mark.parametrize("sent", [b"", b"half"])
def test_nothing_is_tried_again_once_the_answer_began(proxy: Proxy, bad: Origin, good: Origin, sent: bytes) -> None:
    bad.converse = ending(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + sent)
    with proxy.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert caller.read_head().status == 200
        with pytest.raises(ConnectionError):
            caller.read_to_end()
    assert good.requests == []


def test_an_answer_that_is_passed_on_is_not_tried_again_when_it_breaks_off(
    proxy: Proxy, bad: Origin, good: Origin
) -> None:
    govern(proxy, attempts=0)
    bad.converse = ending(b"HTTP/1.1 503 Not Now\r\nContent-Length: 10\r\n\r\nhalf")
    with proxy.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert caller.read_head().status == 503
    assert good.requests == []


# --- how often and when --------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "A request that failed is tried again so often, on endpoints that were not tried",
    "services.*.retry.attempts",
)
@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_it_is_tried_so_often_and_its_last_failure_returned(alone: Proxy, bad: Origin, attempts: int) -> None:
    govern(alone, attempts=attempts)
    bad.answer = lambda _: answer(b"%d" % len(bad.requests), status=UNAVAILABLE)
    got = call(alone)
    assert (got.status, got.body) == (503, b"%d" % (attempts + 1))
    assert len(bad.requests) == attempts + 1


@pytest.mark.semantics("resilience", "A request that failed is tried again so often, on endpoints that were not tried")
def test_an_endpoint_that_was_tried_is_avoided(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    proxy, four = start_proxy(), [start_origin() for _ in range(4)]
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in four])
    govern(proxy, attempts=3)
    for origin in four:
        origin.answer = unavailable
    for round_ in range(1, 6):
        assert call(proxy).status == 503
        assert [len(origin.requests) for origin in four] == [round_] * 4


def test_a_routes_own_number_of_retries_holds(alone: Proxy, bad: Origin) -> None:
    for retries in (0, 2):
        route(alone, retries=retries)
        before = len(bad.requests)
        assert call(alone).status == 503
        assert len(bad.requests) - before == retries + 1
    alone.withdraw("routes")
    assert call(alone).status == 503
    assert len(bad.requests) == 4 + 2


def test_a_route_makes_no_retries_without_resilience(alone: Proxy, bad: Origin) -> None:
    route(alone, retries=2)
    alone.withdraw("limits")
    assert call(alone).status == 503
    assert len(bad.requests) == 1


@pytest.mark.semantics(
    "resilience",
    "The pause before a retry is drawn up to a bound that doubles",
    "services.*.retry.backoff_min",
    "services.*.retry.backoff_max",
)
def test_the_back_off_has_full_jitter_and_doubles_to_its_bound(alone: Proxy, bad: Origin) -> None:
    """Ten pauses below 20 ms and twenty below 40 ms."""
    govern(alone, attempts=3, backoff_min="20ms", backoff_max="40ms")
    arrivals: list[float] = []

    def note(got: Message) -> bytes:
        arrivals.append(monotonic())
        return unavailable(got)

    bad.answer = note
    for _ in range(10):
        call(alone)
    pauses = [b - a for i, (a, b) in enumerate(pairwise(arrivals)) if i % 4 != 3]
    assert len(pauses) == 30
    assert min(pauses) < 0.015
    assert max(pauses) > 0.02


@pytest.mark.semantics("resilience", "`Retry-After` is obeyed; one that cannot be read forbids a retry")
def test_retry_after_is_obeyed(proxy: Proxy, bad: Origin) -> None:
    bad.answer = lambda _: answer(b"", "Retry-After: 1", status=UNAVAILABLE)
    with takes_at_least(1):
        assert call(proxy).status == 200


def test_more_time_than_the_request_has_is_not_waited_for(proxy: Proxy, bad: Origin, good: Origin) -> None:
    route(proxy, timeouts=traffic.RouteTimeouts(request="5s"))
    bad.answer = lambda _: answer(b"in a minute", "Retry-After: 60", status=UNAVAILABLE)
    began = monotonic()
    got = call(proxy)
    assert (got.status, got.body, got.get("retry-after")) == (503, b"in a minute", "60")
    assert monotonic() - began < 5
    assert good.requests == []


@pytest.mark.semantics("resilience", "`Retry-After` is obeyed; one that cannot be read forbids a retry")
@pytest.mark.parametrize("value", ["-1", "soon", "1.5", "", "Wed, 21 Oct 2099 07:28:00 GMT", "9999999999"])
def test_a_retry_after_that_cannot_be_read_forbids_a_retry(proxy: Proxy, bad: Origin, good: Origin, value: str) -> None:
    bad.answer = lambda _: answer(b"not now", f"Retry-After: {value}", status=UNAVAILABLE)
    got = call(proxy)
    assert (got.status, got.body) == (503, b"not now")
    assert good.requests == []


def test_the_requests_time_bounds_all_attempts(proxy: Proxy, bad: Origin, good: Origin) -> None:
    timeouts = traffic.RouteTimeouts(request="250ms", backend_request="100ms")
    route(proxy, timeouts=timeouts)
    govern(proxy, attempts=10, on=["timeout"])
    with held(bad, good), takes_at_least(0.25):
        got = call(proxy)
    assert (got.status, got.get("x-pannier-reason")) == (504, "UT")
    assert 2 <= len(bad.requests) + len(good.requests) <= 3


# --- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Retries within 10 s are at most a share of the requests and so many a second; then the failure is returned",
    "services.*.retry.budget.percent",
    "services.*.retry.budget.min_per_second",
)
def test_a_storm_is_bounded_by_the_budget(alone: Proxy, bad: Origin) -> None:
    """Within ten seconds: 20 % of 50 requests, and one a second."""
    alone.publish_telemetry(sample_ratio=0.0)
    govern(alone, budget=resilience.Budget(percent=20, min_per_second=1))
    got = Counter((a.status, a.body) for a in (call(alone) for _ in range(50)))
    assert got == {(503, b"not now"): 50}
    assert len(bad.requests) == 50 + 20
    assert (alone.totals("retries"), alone.totals("retries_over_budget")) == (20, 30)
    lines, _ = alone.drain(50)
    assert {(line["status"], line["flags"]) for line in lines} == {(503, "URX")}


@pytest.mark.semantics(
    "resilience",
    "Retries within 10 s are at most a share of the requests and so many a second; then the failure is returned",
)
def test_an_empty_budget_returns_the_first_failure(alone: Proxy, bad: Origin) -> None:
    govern(alone, budget=resilience.Budget(percent=0, min_per_second=0))
    bad.answer = lambda _: answer(b"%d" % len(bad.requests), status=UNAVAILABLE)
    assert call(alone).body == b"1"
    bad.converse = ending(b"")
    bad.cut()
    got = call(alone)
    assert (got.status, got.get("x-pannier-reason")) == (502, "UC")
    assert len(bad.requests) == 2


def test_what_is_not_tried_again_for_another_reason_is_no_exhausted_retry(alone: Proxy, bad: Origin) -> None:
    alone.publish_telemetry(sample_ratio=0.0)
    call(alone, method="POST", body=b"")
    bad.answer = lambda _: answer(status="500 Internal Server Error")
    call(alone)
    lines, _ = alone.drain(2)
    assert [(line["status"], line["flags"]) for line in lines] == [(503, "-"), (500, "-")]


def test_each_service_has_a_budget_of_its_own(alone: Proxy, bad: Origin) -> None:
    alone.publish_endpoints(up=[{"address": bad.address}], other=[{"address": bad.address}])
    retry = resilience.Retry(budget=resilience.Budget(percent=0, min_per_second=1), backoff_min="0s", backoff_max="0s")
    alone.publish_limits(resilience.Config(services={"*": resilience.Service(retry=retry, failure_policy="none")}))
    for _ in range(15):
        call(alone)
    assert alone.totals("retries") == 10
    assert alone.fetch(host="other", outbound=True).status == 503
    assert alone.totals("retries") == 11


def test_a_budget_is_shared_by_the_workers(start_proxy: StartProxy, bad: Origin) -> None:
    proxy = start_proxy(workers=2)
    proxy.publish_endpoints(up=[{"address": bad.address}])
    govern(proxy, budget=resilience.Budget(percent=0, min_per_second=1))
    for _ in range(40):
        call(proxy)
    assert len(bad.requests) == 40 + 10


def test_without_a_budget_the_retries_under_way_are_bounded(alone: Proxy, bad: Origin) -> None:
    govern(alone, budget=None, resources=resilience.Resources(retries=2))
    seen: set[str | None] = set()
    release = threading.Event()

    def fail_first(got: Message) -> bytes:
        if got.get("x-request-id") not in seen:
            seen.add(got.get("x-request-id"))
            return unavailable(got)
        assert release.wait(10)
        return answer()

    bad.answer = fail_first
    with ExitStack() as stack:
        stack.callback(release.set)
        callers = [stack.enter_context(alone.call(outbound=True)) for _ in range(2)]
        for caller in callers:
            caller.send(request(host="up"))
        bad.wait_requests(4)
        assert call(alone).status == 503
        wait_until(lambda: gauge(alone, "retries") == (2, 2))
        release.set()
        assert [caller.read_answer().status for caller in callers] == [200, 200]
    assert alone.totals("retries_over_budget") == 1
    assert call(alone).status == 200, "there is room again"
    wait_until(lambda: gauge(alone, "retries") == (0, 2))


def gauge(proxy: Proxy, limit: str) -> tuple[int, int] | None:
    found = [g for g in proxy.counters.gauges() if (g.service, g.limit) == ("up", limit)]
    return (found[0].used, found[0].most) if found else None


# --- bodies --------------------------------------------------------------------------------------------------------


def upload(caller: Wire, origin: Origin, body: bytes, *, chunked: bool = False) -> Message:
    """The answer to a PUT whose body is sent once its head has arrived at the origin."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    before = origin.connections
    caller.send(request("/", framing, method="PUT", host="up"))
    origin.wait(lambda: origin.connections > before)
    caller.send(chunk(body) + chunk(b"") + b"\r\n" if chunked else body)
    return caller.read_answer()


BODY = bytes(range(256)) * 160


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_within_the_limit_is_sent_again_whole(proxy: Proxy, bad: Origin, good: Origin, chunked: bool) -> None:
    with proxy.call(outbound=True) as caller:
        assert upload(caller, bad, BODY, chunked=chunked).status == 200
        caller.send(request("/next", host="up"))
        assert caller.read_answer().status == 200, "the connection is as good as before"
    assert (bad.requests[0].method, bad.requests[0].body) == ("PUT", BODY)
    assert (good.requests[0].method, good.requests[0].body) == ("PUT", BODY)
    assert proxy.totals("bodies_not_replayable") == 0


@pytest.mark.semantics(
    "resilience", "A body is kept for a retry up to a limit; a larger one is sent once", "services.*.retry.body_limit"
)
def test_a_body_beyond_the_limit_is_sent_once(proxy: Proxy, bad: Origin, good: Origin) -> None:
    govern(proxy, body_limit=16 * KIB)
    with proxy.call(outbound=True) as caller:
        got = upload(caller, bad, BODY)
    assert (got.status, got.body) == (503, b"not now")
    assert bad.only.body == BODY
    assert good.requests == []
    assert proxy.totals("bodies_not_replayable") == 1
    assert proxy.totals("retries") == 0


@pytest.mark.parametrize(("size", "status"), [(16 * KIB, 200), (16 * KIB + 1, 503)])
def test_the_limit_is_exact(proxy: Proxy, bad: Origin, size: int, status: int) -> None:
    govern(proxy, body_limit=16 * KIB)
    with proxy.call(outbound=True) as caller:
        assert upload(caller, bad, BODY[:size]).status == status


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 503)])
def test_the_limit_holds_for_a_body_that_comes_with_its_head(proxy: Proxy, size: int, status: int) -> None:
    govern(proxy, body_limit=100)
    assert call(proxy, method="PUT", body=BODY[:size]).status == status


def test_what_came_with_the_head_counts_for_the_limit(proxy: Proxy, bad: Origin) -> None:
    govern(proxy, body_limit=KIB)
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", "Content-Length: 1400", method="PUT", host="up") + BODY[:700])
        bad.wait(lambda: bad.connections == 1)
        caller.send(BODY[700:1400])
        assert caller.read_answer().status == 503


def test_a_body_whose_end_never_came_is_not_sent_again(proxy: Proxy, bad: Origin, good: Origin) -> None:
    """The answer comes before the body's end: there is nothing whole to send."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(unavailable(origin.requests[-1]))
        wire.read_to_end()

    bad.converse = converse
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", "Content-Length: 10", method="PUT", host="up") + b"half")
        got = caller.read_answer()
    assert (got.status, got.get("connection")) == (503, "close")
    assert good.requests == []


@pytest.mark.parametrize("failure", [None, ending(b""), ending(b"HTTP/1.1 2")])
def test_a_following_request_survives_a_retry(
    proxy: Proxy, bad: Origin, good: Origin, failure: Converse | None
) -> None:
    if failure is not None:
        bad.converse = failure
    following = request("/following", host="up", method="DELETE")
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", f"Content-Length: {len(BODY)}", method="PUT", host="up"))
        bad.wait(lambda: bad.connections == 1)
        caller.send(BODY + following)
        assert [caller.read_answer().status for _ in range(2)] == [200, 200]
    assert [(r.method, r.target, len(r.body)) for r in good.requests] == [
        ("PUT", "/", len(BODY)),
        ("DELETE", "/following", 0),
    ]


def test_the_limit_on_kept_bodies_is_given_back(proxy: Proxy, bad: Origin, good: Origin) -> None:
    """300 of them are more than the 8 MiB that may be kept at the same time."""
    bad.answer = lambda _: answer()
    with proxy.call(outbound=True) as caller:
        for _ in range(300):
            caller.send(request("/", f"Content-Length: {len(BODY)}", method="PUT", host="up"))
            caller.send(BODY)
            assert caller.read_answer().status == 200
    bad.answer = good.answer = unavailable
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", f"Content-Length: {len(BODY)}", method="PUT", host="up"))
        caller.send(BODY)
        assert caller.read_answer().status == 503
    assert proxy.totals("bodies_not_replayable") == 0
    assert proxy.totals("retries") == 1


# --- connections ---------------------------------------------------------------------------------------------------


def test_the_connection_of_an_answer_that_is_not_passed_on_is_used_again(alone: Proxy, bad: Origin) -> None:
    for _ in range(3):
        assert call(alone).status == 503
    assert (len(bad.requests), bad.connections) == (6, 1)


def test_an_answer_that_is_not_passed_on_is_not_waited_for(proxy: Proxy, bad: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 503 Not Now\r\nContent-Length: 1000000\r\n\r\nnot yet")
        wire.read_to_end()

    bad.converse = converse
    with proxy.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert caller.read_answer().status == 200
    bad.wait(lambda: bad.ended == 1)
