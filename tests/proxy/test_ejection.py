"""Outlier ejection on failures in a row: what ejects an endpoint, for how long, and how many may be out at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin, held
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Message, Wire, answer, request

StartOrigin = Callable[..., Origin]
FAR_MS = 60_000
ONCE = resilience.Retry(attempts=0)


def eject(proxy: Proxy, **outlier: Any) -> None:
    """Puts ejection in force for calls to `up`, none of which is tried again."""
    policy = resilience.Service(failure_policy="outlier", outlier=resilience.Outlier(**outlier), retry=ONCE)
    proxy.publish_limits(resilience.Config(services={"up": policy}))


def call(proxy: Proxy, **rest: Any) -> Message:
    """The answer to one call; returns when the call has had its effect, which is after its answer."""
    before = proxy.requests_counted()
    got = proxy.fetch(host="up", outbound=True, **rest)
    proxy.wait_counted(before + 1)
    return got


def statuses(proxy: Proxy, count: int) -> list[int]:
    return [call(proxy).status for _ in range(count)]


def word(proxy: Proxy, slot: int = 0) -> _native.HotWord:
    return _native.HotWords(proxy.fds["hot"]).read(slot, 1)


def out(proxy: Proxy, slots: int) -> list[int]:
    """Which of the slots are ejected."""
    now = _native.monotonic_ms()
    return [slot for slot in range(slots) if word(proxy, slot).state == "open" and word(proxy, slot).until_ms > now]


def take_out(proxy: Proxy, *slots: int) -> None:
    for slot in slots:
        assert _native.HotWords(proxy.fds["hot"]).open(slot, 1, _native.monotonic_ms() + FAR_MS)


def fail(_: Message) -> bytes:
    return answer(status="500 Internal Server Error")


def fail_as_gateway(_: Message) -> bytes:
    return answer(status="503 Service Unavailable")


def work(_: Message) -> bytes:
    return answer()


@pytest.fixture
def pair(proxy: Proxy, origin: Origin, start_origin: StartOrigin) -> Proxy:
    """A proxy that calls the origin as `up`; in slot 1, a second endpoint that discovery holds to be unhealthy."""
    spare = {"address": start_origin().address, "healthy": False}
    proxy.publish_endpoints(up=[{"address": origin.address}, spare])
    return proxy


# --- what ejects ---------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    'With `failure_policy = "outlier"`: 5xx in a row eject an endpoint',
    "services.*.outlier.consecutive_5xx",
)
def test_five_failures_in_a_row_eject(pair: Proxy, origin: Origin) -> None:
    eject(pair)
    origin.answer = fail
    assert statuses(pair, 4) == [500] * 4
    assert (word(pair).state, word(pair).failures) == ("closed", 4)
    before = _native.monotonic_ms()
    assert statuses(pair, 1) == [500]
    assert (word(pair).state, word(pair).times) == ("open", 1)
    assert before <= word(pair).until_ms - 30_000 <= _native.monotonic_ms()
    assert pair.totals("endpoints_ejected") == 1


def test_a_success_in_between_begins_anew(pair: Proxy, origin: Origin) -> None:
    eject(pair)
    for _ in range(2):
        origin.answer = fail
        statuses(pair, 4)
        origin.answer = work
        statuses(pair, 1)
    assert (word(pair).state, word(pair).failures) == ("closed", 0)


def test_who_is_ejected_is_left_out(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    proxy, three = start_proxy(balance="round_robin"), [start_origin() for _ in range(3)]
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in three])
    eject(proxy)
    three[1].answer = fail
    got = Counter(statuses(proxy, 60))
    assert got == {200: 55, 500: 5}
    assert len(three[1].requests) == 5


OFF = {"consecutive_5xx": 0, "consecutive_gateway_failure": 0, "consecutive_local_origin_failure": 0}
KINDS: dict[str, Callable[[Message], bytes]] = {"500": fail, "503": fail_as_gateway, "nothing": lambda _: b""}


@pytest.mark.parametrize(
    ("detection", "ejecting"),
    [
        ("consecutive_5xx", {"500", "503", "nothing"}),
        ("consecutive_gateway_failure", {"503", "nothing"}),
        ("consecutive_local_origin_failure", {"nothing"}),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_detection_sees_its_failures(
    pair: Proxy, origin: Origin, detection: str, ejecting: set[str], kind: str
) -> None:
    eject(pair, **OFF | {detection: 3, f"enforcing_{detection}": 100})
    origin.converse = saying(KINDS[kind])
    statuses(pair, 2)
    assert out(pair, 2) == []
    statuses(pair, 1)
    assert out(pair, 2) == ([0] if kind in ejecting else [])


def saying(say: Callable[[Message], bytes]) -> Callable[[Origin, Wire], None]:
    """One answer a connection, which may be none at all."""

    def converse(origin: Origin, wire: Wire) -> None:
        wire.send(say(origin.take(wire.read_request())).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    return converse


@pytest.mark.semantics(
    "resilience",
    "Gateway failures in a row eject only if told to",
    "services.*.outlier.consecutive_gateway_failure",
    "services.*.outlier.enforcing_consecutive_gateway_failure",
)
def test_gateway_failures_eject_only_if_told_to(pair: Proxy, origin: Origin) -> None:
    eject(pair, consecutive_gateway_failure=1)
    origin.answer = fail_as_gateway
    statuses(pair, 4)
    assert out(pair, 2) == [], "by default they are detected and nothing follows"
    eject(pair, consecutive_gateway_failure=1, enforcing_consecutive_gateway_failure=100)
    statuses(pair, 1)
    assert out(pair, 2) == [0]


@pytest.mark.parametrize("enforcing", [0, 100])
def test_a_percentage_decides_whether_a_detection_has_a_consequence(
    pair: Proxy, origin: Origin, enforcing: int
) -> None:
    eject(pair, enforcing_consecutive_5xx=enforcing)
    origin.answer = fail
    statuses(pair, 30)
    assert out(pair, 2) == ([0] if enforcing else [])


def test_a_detection_that_had_no_consequence_begins_anew(pair: Proxy, origin: Origin) -> None:
    """As in Envoy: the percentage is of every fifth failure, not of each one from the fifth on."""
    eject(pair, enforcing_consecutive_5xx=0)
    origin.answer = fail
    statuses(pair, 5)
    eject(pair, enforcing_consecutive_5xx=100)
    statuses(pair, 4)
    assert out(pair, 2) == []
    statuses(pair, 1)
    assert out(pair, 2) == [0]


def test_zero_failures_is_off(pair: Proxy, origin: Origin) -> None:
    eject(pair, **OFF)
    origin.answer = fail_as_gateway
    statuses(pair, 30)
    assert out(pair, 2) == []


def test_our_own_rejections_do_not_count(pair: Proxy, origin: Origin) -> None:
    origin.answer = fail
    eject(pair)
    statuses(pair, 4)
    outlier = resilience.Service(
        failure_policy="outlier", retry=ONCE, rate_limit=resilience.RateLimit(max=1, fill=1, interval="1h")
    )
    origin.answer = work
    pair.publish_limits(resilience.Config(services={"up": outlier}))
    assert statuses(pair, 6) == [200] + [429] * 5
    eject(pair)
    fault = traffic.Injected(abort=503)
    pair.publish_routes(traffic.Config(allow=["fault"], services={"up": traffic.Service(fault=fault)}))
    assert statuses(pair, 6) == [503] * 6
    assert (word(pair).failures, out(pair, 2)) == (0, [])


def test_a_callers_short_deadline_does_not_count(pair: Proxy, origin: Origin) -> None:
    pair.publish_routes(traffic.Config())
    eject(pair, consecutive_5xx=1)
    with held(origin), pair.call(outbound=True) as caller:
        caller.send(request("/", "x-pannier-deadline: 1", host="up"))
        assert caller.read_answer().status == 504
        pair.wait_counted(1)
    assert (word(pair).failures, out(pair, 2)) == (0, [])


# --- for how long --------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Each ejection is longer by the base time, up to the longest",
    "services.*.outlier.base_ejection",
    "services.*.outlier.max_ejection",
)
def test_each_ejection_is_longer_by_the_base_time_up_to_the_longest(pair: Proxy, origin: Origin) -> None:
    eject(pair, consecutive_5xx=1, base_ejection="60ms", max_ejection="150ms")
    origin.answer = fail
    for times, lasts in ((1, 60), (2, 120), (3, 150), (4, 150)):
        before = _native.monotonic_ms()
        assert statuses(pair, 1) == [500]
        ejected = word(pair)
        assert (ejected.state, ejected.times) == ("open", times)
        assert before <= ejected.until_ms - lasts <= _native.monotonic_ms()
        wait_until(lambda ejected=ejected: _native.monotonic_ms() > ejected.until_ms)  # type: ignore[misc]


def test_each_interval_without_an_ejection_takes_one_back(pair: Proxy, origin: Origin) -> None:
    short = {"consecutive_5xx": 1, "base_ejection": "30ms"}
    eject(pair, **short)
    origin.answer = fail
    for _ in range(3):
        statuses(pair, 1)
        wait_until(lambda: out(pair, 2) == [])
    assert word(pair).times == 3
    eject(pair, **short, interval="50ms")
    until_ms = word(pair).until_ms
    wait_until(lambda: _native.monotonic_ms() > until_ms + 3 * 50)
    statuses(pair, 1)
    assert word(pair).times == 1


def test_after_its_time_it_is_as_good_as_before(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    proxy, (one, other) = start_proxy(balance="round_robin"), [start_origin() for _ in range(2)]
    proxy.publish_endpoints(up=[{"address": one.address}, {"address": other.address}])
    eject(proxy, consecutive_5xx=2, base_ejection="100ms")
    one.answer = fail
    wait_until(lambda: call(proxy).status == 200 and out(proxy, 2) == [0])
    wait_until(lambda: out(proxy, 2) == [])
    before = len(one.requests)
    assert Counter(statuses(proxy, 2)) == {200: 1, 500: 1}
    assert (len(one.requests), out(proxy, 2)) == (before + 1, []), "it is not tried: it takes as many failures as ever"
    assert proxy.totals("probes") == 0
    statuses(proxy, 2)
    assert out(proxy, 2) == [0]


def test_who_is_taken_back_in_serves_at_once(pair: Proxy, origin: Origin) -> None:
    """A health check that succeeds does this, or an operator."""
    pair.publish_endpoints(up=[{"address": origin.address}, {"address": "127.0.0.1:9"}])
    eject(pair)
    take_out(pair, 0)
    assert call(pair).status == 503
    assert _native.HotWords(pair.fds["hot"]).close(0, 1)
    take_out(pair, 1)
    assert statuses(pair, 3) == [200] * 3
    assert (word(pair).failures, word(pair).times) == (0, 0)


# --- how many ------------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Only a share is ejected, but one in any case if there are more",
    "services.*.outlier.max_ejected_percent",
)
@pytest.mark.parametrize(("count", "percent", "most"), [(10, 10, 1), (10, 25, 2), (10, 0, 1), (2, 10, 1), (4, 100, 4)])
def test_only_a_share_is_ejected_but_one_if_more_than_one_remains(
    start_proxy: StartProxy, start_origin: StartOrigin, count: int, percent: int, most: int
) -> None:
    proxy, origins = start_proxy(balance="round_robin"), [start_origin() for _ in range(count)]
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in origins])
    eject(proxy, consecutive_5xx=1, max_ejected_percent=percent)
    for origin in origins:
        origin.answer = fail
    assert statuses(proxy, 3 * count) == [500] * (3 * count)
    assert len(out(proxy, count)) == most
    assert proxy.totals("endpoints_ejected") == most


def test_the_only_endpoint_is_never_ejected(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(up=[{"address": origin.address}])
    eject(proxy)
    origin.answer = fail
    assert statuses(proxy, 20) == [500] * 20
    assert out(proxy, 1) == []


def test_when_one_comes_back_there_is_room_for_another(pair: Proxy, origin: Origin, start_origin: StartOrigin) -> None:
    pair.publish_endpoints(up=[{"address": origin.address}, {"address": start_origin().address, "healthy": False}])
    eject(pair, consecutive_5xx=1)
    take_out(pair, 1)
    origin.answer = fail
    statuses(pair, 3)
    assert out(pair, 2) == [1]
    assert _native.HotWords(pair.fds["hot"]).close(1, 1)
    statuses(pair, 1)
    assert out(pair, 2) == [0]


@pytest.mark.semantics("resilience", "When fewer than half are left, ejections are disregarded")
@pytest.mark.parametrize(("ejected", "served"), [(2, {2, 3}), (3, {0, 1, 2, 3})])
def test_below_half_all_are_used(
    start_proxy: StartProxy, start_origin: StartOrigin, ejected: int, served: set[int]
) -> None:
    proxy, four = start_proxy(balance="round_robin"), [start_origin() for _ in range(4)]
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in four])
    eject(proxy)
    take_out(proxy, *range(ejected))
    assert statuses(proxy, 12) == [200] * 12
    assert {index for index, origin in enumerate(four) if origin.requests} == served


def test_workers_share_it(start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin) -> None:
    proxy, other = start_proxy(workers=2, balance="round_robin"), start_origin()
    proxy.publish_endpoints(up=[{"address": origin.address}, {"address": other.address}])
    eject(proxy)
    origin.answer = fail
    assert Counter(statuses(proxy, 60)) == {200: 55, 500: 5}
    assert len(origin.requests) == 5


def test_without_resilience_nobody_is_out(start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin) -> None:
    proxy, other = start_proxy(balance="round_robin"), start_origin()
    proxy.publish_endpoints(up=[{"address": origin.address}, {"address": other.address}])
    eject(proxy)
    take_out(proxy, 0)
    statuses(proxy, 6)
    assert len(origin.requests) == 0
    proxy.withdraw("limits")
    statuses(proxy, 6)
    assert len(origin.requests) == 3
    origin.answer = fail
    statuses(proxy, 20)
    assert word(proxy).failures == 0, "and nobody counts"
