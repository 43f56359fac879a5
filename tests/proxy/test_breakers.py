"""Breakers of endpoints and of services: with which request one opens, who is refused then, and which request tries."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Converse, Origin, held
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Message, Wire, answer, request

StartOrigin = Callable[..., Origin]
OPEN = 1
FAR_MS = 60_000
CIRCUIT = (100, 1)
ERROR = answer(b"broken", status="500 Internal Server Error")


def govern(proxy: Proxy, **service: Any) -> None:
    """Puts in force what holds for calls to `up`; none of them is tried again unless `retry` says so."""
    once = {"retry": resilience.Retry(attempts=0)}
    proxy.publish_limits(resilience.Config(services={"up": resilience.Service(**once | service)}))


def serve(proxy: Proxy, *origins: Origin) -> None:
    """Makes these the endpoints of `up`, in the slots from 0."""
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in origins])


def word(proxy: Proxy, slot: int = 0, incarnation: int = 1) -> _native.HotWord:
    return _native.HotWords(proxy.fds["hot"]).read(slot, incarnation)


def take_out(proxy: Proxy, slot: int = 0, milliseconds: int = FAR_MS) -> None:
    """Opens a breaker for so long; for 0 it waits for the request that tries."""
    assert _native.HotWords(proxy.fds["hot"]).open(slot, 1, _native.monotonic_ms() + milliseconds)


def call(proxy: Proxy, **rest: Any) -> Message:
    """The answer to one call; returns when the call has had its effect, which is after its answer."""
    before = proxy.requests_counted()
    got = proxy.fetch(host="up", outbound=True, **rest)
    proxy.wait_counted(before + 1)
    return got


def statuses(proxy: Proxy, count: int) -> list[int]:
    return [call(proxy).status for _ in range(count)]


def assert_open(got: Message) -> None:
    assert (got.status, got.get("x-pannier-reason")) == (503, "UO")


def fail(_: Message) -> bytes:
    return ERROR


def work(_: Message) -> bytes:
    return answer()


@pytest.fixture
def guarded(proxy: Proxy, origin: Origin) -> Proxy:
    """A proxy that calls the origin as `up`, with a breaker that stays open for longer than any test takes."""
    serve(proxy, origin)
    govern(proxy, breaker=resilience.Breaker(penalty_min="60s"))
    return proxy


# --- opening -------------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Failures in a row open an endpoint's breaker",
    "services.*.failure_policy",
    "services.*.breaker.consecutive_failures",
)
def test_the_seventh_failure_in_a_row_opens_it(guarded: Proxy, origin: Origin) -> None:
    origin.answer = fail
    assert statuses(guarded, 6) == [500] * 6
    assert (word(guarded).state, word(guarded).failures) == ("closed", 6)
    assert statuses(guarded, 1) == [500], "it is its own answer that the caller gets"
    assert (word(guarded).state, word(guarded).times) == ("open", 1)
    assert_open(call(guarded))
    assert len(origin.requests) == 7
    assert guarded.totals("breakers_opened") == 1


def test_at_first_it_opens_for_a_second_or_half_as_much_again(proxy: Proxy, origin: Origin) -> None:
    serve(proxy, origin)
    proxy.publish_limits(resilience.Config())
    origin.answer = fail
    statuses(proxy, 6)
    before = _native.monotonic_ms()
    statuses(proxy, 1)
    assert before + 1_000 <= word(proxy).until_ms <= _native.monotonic_ms() + 1_500


def test_a_success_in_between_begins_anew(guarded: Proxy, origin: Origin) -> None:
    for _ in range(2):
        origin.answer = fail
        assert statuses(guarded, 6) == [500] * 6
        origin.answer = work
        assert statuses(guarded, 1) == [200]
    assert (word(guarded).state, word(guarded).failures) == ("closed", 0)


def silent(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())
    wire.read_to_end()


def saying(last_words: bytes) -> Converse:
    """Reads a request, says something and ends."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(last_words)

    return converse


def resetting(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())
    wire.reset()


@pytest.mark.parametrize(
    ("converse", "status"),
    [
        (saying(answer(status="500 Internal Server Error")), 500),
        (saying(answer(status="503 Service Unavailable")), 503),
        (saying(answer(status="599 Odd")), 599),
        (saying(b""), 502),
        (resetting, 502),
        (saying(b"HTTP/1.1 200 OK\r\nContent-"), 502),
        (saying(b"nonsense\r\n\r\n"), 502),
        (silent, 504),
    ],
    ids=["500", "503", "599", "closes", "resets", "half a head", "nonsense", "too slow"],
)
def test_what_counts_as_a_failure(start_proxy: StartProxy, origin: Origin, converse: Converse, status: int) -> None:
    proxy = start_proxy(timeouts={"request_ms": 50})
    serve(proxy, origin)
    govern(proxy, breaker=resilience.Breaker(consecutive_failures=2, penalty_min="60s"))
    origin.converse = converse
    assert statuses(proxy, 2) == [status] * 2
    assert_open(call(proxy))


def test_a_refused_connection_counts_as_a_failure(guarded: Proxy, origin: Origin) -> None:
    origin.refuse()
    assert {call(guarded).get("x-pannier-reason") for _ in range(7)} == {"UF"}
    assert_open(call(guarded))


def test_an_answer_that_breaks_off_counts_as_a_failure(guarded: Proxy, origin: Origin) -> None:
    origin.converse = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    with guarded.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert caller.read_head().status == 200
        with pytest.raises(ConnectionError):
            caller.read_to_end()
    guarded.wait_counted(1)
    assert word(guarded).failures == 1


@pytest.mark.parametrize("status", ["200 OK", "301 Moved Permanently", "404 Not Found", "429 Too Many Requests"])
def test_what_counts_as_a_success(guarded: Proxy, origin: Origin, status: str) -> None:
    origin.answer = fail
    statuses(guarded, 6)
    origin.answer = lambda _: answer(status=status)
    call(guarded)
    assert (word(guarded).state, word(guarded).failures) == ("closed", 0)


@pytest.mark.semantics(
    "resilience", "A caller's short deadline does not count against an endpoint, nor a caller that leaves"
)
def test_a_callers_short_deadline_does_not_count(guarded: Proxy, origin: Origin) -> None:
    guarded.publish_routes(traffic.Config())
    origin.converse = silent
    with guarded.call(outbound=True) as caller:
        for _ in range(8):
            caller.send(request("/", "x-pannier-deadline: 1", host="up"))
            got = caller.read_answer()
            assert (got.status, got.get("x-pannier-reason")) == (504, "UT")
    guarded.wait_counted(8)
    assert (word(guarded).state, word(guarded).failures) == ("closed", 0)


@pytest.mark.semantics(
    "resilience", "A caller's short deadline does not count against an endpoint, nor a caller that leaves"
)
def test_a_caller_that_leaves_does_not_count(guarded: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.read_to_end()

    origin.converse = converse
    for done in range(7):
        with guarded.call(outbound=True) as caller:
            caller.send(request("/", "Content-Length: 10", method="POST", host="up") + b"half")
            origin.wait_requests(done + 1)
        origin.wait(lambda done=done: origin.ended > done)  # type: ignore[misc]
    guarded.wait_counted(7)
    assert (word(guarded).state, word(guarded).failures) == ("closed", 0)


@pytest.mark.semantics("resilience", "Our own refusals never count against an endpoint")
def test_our_own_rejections_do_not_count(guarded: Proxy, origin: Origin) -> None:
    statuses(guarded, 1)
    fault = traffic.Injected(abort=503)
    guarded.publish_routes(traffic.Config(allow=["fault"], services={"up": traffic.Service(fault=fault)}))
    assert statuses(guarded, 8) == [503] * 8
    guarded.withdraw("routes")
    govern(guarded, rate_limit=resilience.RateLimit(max=1, fill=1, interval="1h"))
    statuses(guarded, 1)
    assert statuses(guarded, 8) == [429] * 8
    with held(origin), guarded.call(outbound=True) as busy:
        govern(guarded)
        before = len(origin.requests)
        busy.send(request(host="up"))
        origin.wait_requests(before + 1)
        govern(guarded, bulkhead=resilience.Bulkhead(concurrent=1), resources=resilience.Resources(requests=1))
        assert statuses(guarded, 8) == [503] * 8
        govern(guarded, resources=resilience.Resources(connections=1, pending=0))
        assert statuses(guarded, 8) == [503] * 8
        assert (word(guarded).state, word(guarded).failures) == ("closed", 0)


def test_failures_are_counted_on_when_another_table_comes_into_force(guarded: Proxy, origin: Origin) -> None:
    origin.answer = fail
    statuses(guarded, 6)
    govern(guarded, resources=resilience.Resources(requests=7))
    statuses(guarded, 1)
    assert word(guarded).times == 1


def test_zero_failures_is_off(guarded: Proxy, origin: Origin) -> None:
    govern(guarded, breaker=resilience.Breaker(consecutive_failures=0))
    origin.answer = fail
    assert statuses(guarded, 20) == [500] * 20


def test_without_a_failure_policy_nobody_is_out(guarded: Proxy, origin: Origin) -> None:
    govern(guarded, failure_policy="none")
    take_out(guarded)
    origin.answer = fail
    assert statuses(guarded, 20) == [500] * 20


# --- who is refused ------------------------------------------------------------------------------------------------


def test_others_serve_while_one_is_open(guarded: Proxy, origin: Origin, start_origin: StartOrigin) -> None:
    other = start_origin()
    serve(guarded, origin, other)
    take_out(guarded, 0)
    assert statuses(guarded, 10) == [200] * 10
    assert (len(origin.requests), len(other.requests)) == (0, 10)


@pytest.mark.semantics("resilience", "With every endpoint's breaker open the caller gets 503 `UO` at once")
def test_with_all_open_the_caller_is_told_at_once(guarded: Proxy, origin: Origin, start_origin: StartOrigin) -> None:
    other = start_origin()
    serve(guarded, origin, other)
    take_out(guarded, 0)
    take_out(guarded, 1)
    got = call(guarded)
    assert_open(got)
    assert b"the breaker of every endpoint of up is open" in got.body
    assert origin.connections == other.connections == 0


@pytest.mark.semantics("resilience", "An open breaker is not disregarded, however many are open")
def test_an_open_breaker_is_not_panicked_away(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    """Three of four are out: with ejections all four would be used (ADR 12)."""
    proxy, four = start_proxy(), [start_origin() for _ in range(4)]
    serve(proxy, *four)
    govern(proxy)
    for slot in range(3):
        take_out(proxy, slot)
    assert statuses(proxy, 10) == [200] * 10
    assert [len(origin.requests) for origin in four] == [0, 0, 0, 10]


@pytest.mark.semantics("resilience", "Without resilience nobody is out: who was out serves at once")
def test_nobody_is_out_without_resilience(guarded: Proxy) -> None:
    take_out(guarded)
    assert_open(call(guarded))
    guarded.withdraw("limits")
    assert statuses(guarded, 3) == [200] * 3


def test_another_holder_of_the_slot_begins_anew(guarded: Proxy, origin: Origin) -> None:
    take_out(guarded)
    guarded.publish_endpoints(up=[{"address": origin.address, "incarnation": 2}])
    assert statuses(guarded, 3) == [200] * 3


@pytest.mark.semantics("resilience", "Failures and open breakers outlive the proxy")
def test_neither_failures_nor_an_open_breaker_die_with_the_proxy(guarded: Proxy, origin: Origin) -> None:
    origin.answer = fail
    assert statuses(guarded, 6) == [500] * 6
    guarded.kill()
    guarded.start()
    assert statuses(guarded, 1) == [500]
    guarded.kill()
    guarded.start()
    assert_open(call(guarded))


def test_workers_share_it(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(workers=2)
    serve(proxy, origin)
    govern(proxy, breaker=resilience.Breaker(consecutive_failures=20, penalty_min="60s"))
    origin.answer = fail
    assert statuses(proxy, 20) == [500] * 20
    wait_until(lambda: word(proxy).state == "open")
    assert [call(proxy).get("x-pannier-reason") for _ in range(20)] == ["UO"] * 20
    assert len(origin.requests) == 20


# --- the request that tries ----------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Then one real request tries the endpoint, whatever the number of callers: success closes, failure opens again",
)
@pytest.mark.parametrize("workers", [1, 2])
def test_of_many_callers_one_tries(start_proxy: StartProxy, origin: Origin, workers: int) -> None:
    proxy = start_proxy(workers=workers)
    serve(proxy, origin)
    govern(proxy)
    take_out(proxy, milliseconds=0)
    with ExitStack() as stack, held(origin) as release:
        callers = [stack.enter_context(proxy.call(outbound=True)) for _ in range(20)]
        for caller in callers:
            caller.send(request(host="up"))
        proxy.wait_counted(19)
        assert word(proxy).state == "half_open"
        release.set()
        got = Counter((a.status, a.get("x-pannier-reason")) for a in (caller.read_answer() for caller in callers))
    assert got == {(503, "UO"): 19, (200, None): 1}
    assert len(origin.requests) == 1
    assert proxy.totals("probes") == 1


@pytest.mark.semantics(
    "resilience",
    "Then one real request tries the endpoint, whatever the number of callers: success closes, failure opens again",
)
def test_a_success_closes_it(guarded: Proxy) -> None:
    take_out(guarded, milliseconds=0)
    assert statuses(guarded, 1) == [200]
    closed = word(guarded)
    assert (closed.state, closed.until_ms, closed.failures, closed.times) == ("closed", 0, 0, 0)
    assert statuses(guarded, 3) == [200] * 3


@pytest.mark.semantics(
    "resilience",
    "It stays open for a penalty that doubles from the least to the most",
    "services.*.breaker.penalty_min",
    "services.*.breaker.penalty_max",
)
def test_a_failure_opens_it_for_longer_each_time(guarded: Proxy, origin: Origin) -> None:
    breaker = resilience.Breaker(consecutive_failures=1, penalty_min="10s", penalty_max="35s", jitter=0.0)
    govern(guarded, breaker=breaker)
    origin.answer = fail
    for times, seconds in ((1, 10), (2, 20), (3, 35), (4, 35)):
        before = _native.monotonic_ms()
        assert statuses(guarded, 1) == [500]
        assert_open(call(guarded))
        opened = word(guarded)
        assert (opened.state, opened.times) == ("open", times)
        assert before <= opened.until_ms - seconds * 1_000 <= _native.monotonic_ms()
        guarded.set_hot_word(0, OPEN, 1, _native.monotonic_ms())


@pytest.mark.semantics("resilience", "The penalty is longer by a random part of itself", "services.*.breaker.jitter")
def test_the_penalty_has_jitter(guarded: Proxy, origin: Origin) -> None:
    govern(guarded, breaker=resilience.Breaker(consecutive_failures=1, penalty_min="60s"))
    origin.answer = fail
    longer = []
    for _ in range(20):
        guarded.set_hot_word(0, OPEN, 1, _native.monotonic_ms())
        before = _native.monotonic_ms()
        assert statuses(guarded, 1) == [500]
        longer.append(word(guarded).until_ms - before - 60_000)
    assert all(0 <= more <= 31_000 for more in longer), longer
    assert max(longer) - min(longer) > 5_000, longer


def test_once_closed_the_penalty_is_the_shortest_again(guarded: Proxy, origin: Origin) -> None:
    govern(guarded, breaker=resilience.Breaker(consecutive_failures=1, penalty_min="10s", jitter=0.0))
    for _ in range(2):
        origin.answer = fail
        before = _native.monotonic_ms()
        statuses(guarded, 1)
        assert before <= word(guarded).until_ms - 10_000 <= _native.monotonic_ms()
        guarded.set_hot_word(0, OPEN, 1, _native.monotonic_ms())
        origin.answer = work
        assert statuses(guarded, 1) == [200]


def test_once_closed_it_takes_seven_failures_again(guarded: Proxy, origin: Origin) -> None:
    origin.answer = fail
    statuses(guarded, 7)
    guarded.set_hot_word(0, OPEN, 1, _native.monotonic_ms())
    origin.answer = work
    assert statuses(guarded, 1) == [200]
    origin.answer = fail
    assert statuses(guarded, 7) == [500] * 7
    assert_open(call(guarded))


def test_one_that_waits_for_a_try_gets_it_though_others_work(
    guarded: Proxy, origin: Origin, start_origin: StartOrigin
) -> None:
    other = start_origin()
    serve(guarded, other, origin)
    take_out(guarded, 1, milliseconds=0)
    assert statuses(guarded, 1) == [200]
    assert (len(other.requests), len(origin.requests)) == (0, 1)


def test_a_caller_that_leaves_gives_the_try_back(guarded: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.read_to_end()

    origin.converse = converse
    take_out(guarded, milliseconds=0)
    with guarded.call(outbound=True) as caller:
        caller.send(request("/", "Content-Length: 10", method="POST", host="up") + b"half")
        origin.wait_requests()
        assert word(guarded).state == "half_open"
    wait_until(lambda: word(guarded).state == "open")
    assert word(guarded).until_ms <= _native.monotonic_ms()
    origin.converse = answering
    assert statuses(guarded, 1) == [200]
    assert word(guarded).state == "closed"


def answering(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())
    wire.send(answer())


def test_a_callers_short_deadline_gives_the_try_back(guarded: Proxy, origin: Origin) -> None:
    guarded.publish_routes(traffic.Config())
    take_out(guarded, milliseconds=0)
    with held(origin):
        with guarded.call(outbound=True) as caller:
            caller.send(request("/", "x-pannier-deadline: 1", host="up"))
            assert caller.read_answer().status == 504
        guarded.wait_counted(1)
        assert (word(guarded).state, word(guarded).until_ms <= _native.monotonic_ms()) == ("open", True)
    assert statuses(guarded, 1) == [200]


def test_a_limit_of_ours_gives_the_try_back(guarded: Proxy, origin: Origin) -> None:
    govern(guarded, resources=resilience.Resources(connections=1, pending=0))
    with held(origin) as release, guarded.call(outbound=True) as busy:
        busy.send(request(host="up"))
        origin.wait_requests()
        take_out(guarded, milliseconds=0)
        assert b"no connection" in call(guarded).body
        assert (word(guarded).state, word(guarded).until_ms <= _native.monotonic_ms()) == ("open", True)
        release.set()
        assert busy.read_answer().status == 200
    assert statuses(guarded, 1) == [200]
    assert word(guarded).state == "closed"


@pytest.mark.parametrize(
    "healthy",
    [False, True],
)
def test_an_endpoint_that_is_unhealthy_as_well_is_not_tried(
    guarded: Proxy, origin: Origin, start_origin: StartOrigin, healthy: bool
) -> None:
    other = start_origin()
    guarded.publish_endpoints(up=[{"address": origin.address, "healthy": healthy}, {"address": other.address}])
    take_out(guarded, milliseconds=0)
    assert statuses(guarded, 3) == [200] * 3
    assert (len(origin.requests) > 0) is healthy


def test_an_answer_to_a_request_from_before_does_not_close_it(guarded: Proxy, origin: Origin) -> None:
    with held(origin) as release, guarded.call(outbound=True) as early:
        early.send(request(host="up"))
        origin.wait_requests()
        take_out(guarded)
        release.set()
        assert early.read_answer().status == 200
        guarded.wait_counted(1)
    assert word(guarded).state == "open"


# --- the breaker of a service --------------------------------------------------------------------------------------


def circuit(proxy: Proxy, until_ms: int, *, calls: int = 3, open_for: str = "60s") -> None:
    """A service breaker for `up`, in the state that an interval's rule has put it in."""
    breaker = resilience.ServiceBreaker(half_open_calls=calls, open=open_for)
    service = resilience.Service(service_breaker=breaker, retry=resilience.Retry(attempts=0))
    proxy.publish_limits(resilience.Config(services={"up": service}), {"up": CIRCUIT})
    assert _native.HotWords(proxy.fds["hot"]).open(*CIRCUIT, _native.monotonic_ms() + until_ms)


@pytest.mark.semantics(
    "resilience",
    "An open service breaker refuses every call to the service",
    "services.*.service_breaker",
    "services.*.service_breaker.open",
)
def test_an_open_service_breaker_refuses_every_call_to_it(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(up=[{"address": origin.address}], other=[{"address": origin.address}])
    circuit(proxy, FAR_MS)
    got = call(proxy)
    assert_open(got)
    assert b"the breaker of up is open" in got.body
    assert proxy.fetch(host="other", outbound=True).status == 200
    assert len(origin.requests) == 1
    assert proxy.totals("service_breaker_refused") == 1
    assert _native.HotWords(proxy.fds["hot"]).close(*CIRCUIT)
    assert statuses(proxy, 20) == [200] * 20


@pytest.mark.semantics(
    "resilience",
    "Half-open it lets so many calls through, which are judged by the same rates",
    "services.*.service_breaker.half_open_calls",
)
@pytest.mark.parametrize("workers", [1, 2])
def test_half_open_it_lets_so_many_calls_through(start_proxy: StartProxy, origin: Origin, workers: int) -> None:
    proxy = start_proxy(workers=workers)
    serve(proxy, origin)
    circuit(proxy, 0, calls=10)
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call(outbound=True)) for _ in range(30)]
        for caller in callers:
            caller.send(request(host="up"))
        got = Counter(caller.read_answer().status for caller in callers)
    assert got == {200: 10, 503: 20}
    assert word(proxy, *CIRCUIT).state == "half_open"
    assert statuses(proxy, 3) == [503] * 3


def test_half_open_again_it_lets_as_many_through(proxy: Proxy, origin: Origin) -> None:
    serve(proxy, origin)
    for _ in range(2):
        circuit(proxy, 0)
        assert statuses(proxy, 5) == [200] * 3 + [503] * 2


def test_a_service_breaker_that_nobody_judges_closes_in_the_end(proxy: Proxy, origin: Origin) -> None:
    serve(proxy, origin)
    circuit(proxy, 0, calls=1, open_for="200ms")
    assert statuses(proxy, 2) == [200, 503]
    wait_until(lambda: call(proxy).status == 200)
    assert statuses(proxy, 3) == [200] * 3


# --- what is counted -----------------------------------------------------------------------------------------------


def test_calls_are_counted_by_endpoint(start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin) -> None:
    proxy, other = start_proxy(timeouts={"request_ms": 500}), start_origin()
    breaker = resilience.ServiceBreaker(slow="200ms")
    service = resilience.Service(service_breaker=breaker, retry=resilience.Retry(attempts=0))
    proxy.publish_limits(resilience.Config(services={"up": service}), {"up": CIRCUIT})
    serve(proxy, origin, other)
    take_out(proxy, 1)
    late = threading.Event()

    def answer_late(_: Message) -> bytes:
        assert not late.wait(0.25)
        return answer()

    for behaviour, times in (
        (work, 4),
        (fail, 3),
        (lambda _: answer(status="429 Too Many Requests"), 2),
        (answer_late, 1),
    ):
        origin.answer = behaviour
        statuses(proxy, times)
    origin.cut()
    origin.converse = silent
    assert statuses(proxy, 1) == [504]
    counted, untouched, former = proxy.counters.endpoints([(0, 1), (1, 1), (0, 2)])
    assert (counted.calls, counted.failures, counted.local, counted.refused, counted.slow) == (11, 4, 1, 2, 1)
    assert 0.25 <= counted.sum_seconds < 5
    assert untouched.calls == former.calls == 0


@pytest.mark.parametrize("broken", ["503 Service Unavailable", None])
def test_an_endpoint_that_fails_fast_is_taken_out_under_the_default_balancer(
    start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin, broken: str | None
) -> None:
    """The balancer leaves failures to the breaker: it would avoid the endpoint, and seven would never come together."""
    proxy, other = start_proxy(), start_origin()
    if broken is None:
        other.refuse()
    else:
        other.answer = lambda _: answer(b"", status=broken)
    serve(proxy, origin, other)
    govern(proxy)
    for _ in range(200):
        call(proxy)
        if word(proxy, 1).state == "open":
            return
    pytest.fail(f"after 200 calls it has failed {word(proxy, 1).failures} times")
