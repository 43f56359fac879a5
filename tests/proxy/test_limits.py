"""How much is under way at the same time, and how often: what is over a limit is refused, or waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin, held
from tests.proxy.process import Proxy, wait_until
from tests.proxy.test_timeouts import takes_at_least
from tests.proxy.wire import Message, Wire, request

StartOrigin = Callable[..., Origin]


def govern(proxy: Proxy, **service: Any) -> None:
    """Puts in force what holds for calls to `up`; none of them is tried again."""
    once = {"retry": resilience.Retry(attempts=0)}
    proxy.publish_limits(resilience.Config(services={"up": resilience.Service(**once | service)}))


def connections(most: int, pending: int = 1024) -> resilience.Resources:
    return resilience.Resources(connections=most, pending=pending)


def serve(proxy: Proxy, *origins: Origin) -> None:
    """Makes these the endpoints of `up`."""
    proxy.publish_endpoints(up=[{"address": origin.address} for origin in origins])


def call(proxy: Proxy, **rest: Any) -> Message:
    return proxy.fetch(host="up", outbound=True, **rest)


def statuses(proxy: Proxy, count: int) -> list[int]:
    return [call(proxy).status for _ in range(count)]


def gauge(proxy: Proxy, limit: str) -> tuple[int, int] | None:
    """How much of a limit of `up` is in use, and how much there is."""
    found = [g for g in proxy.counters.gauges() if (g.service, g.limit) == ("up", limit)]
    return (found[0].used, found[0].most) if found else None


def assert_overflow(got: Message, words: str) -> None:
    assert (got.status, got.get("x-pannier-reason")) == (503, "UO")
    assert words.encode() in got.body


@contextmanager
def calling(proxy: Proxy, count: int = 1, *, outbound: bool = True) -> Iterator[list[Wire]]:
    """So many calls that were sent, and whose answers were not read yet."""
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call(outbound=outbound)) for _ in range(count)]
        for caller in callers:
            caller.send(request(host="up" if outbound else "svc"))
        yield callers


def read_all(callers: list[Wire]) -> Counter[int]:
    return Counter(caller.read_answer().status for caller in callers)


@pytest.fixture
def up(proxy: Proxy, origin: Origin) -> Proxy:
    """A proxy with the origin as the only endpoint of `up`."""
    serve(proxy, origin)
    return proxy


# --- connections ---------------------------------------------------------------------------------------------------


def test_a_call_waits_while_all_connections_are_in_use(up: Proxy, origin: Origin) -> None:
    govern(up, resources=connections(1))
    with held(origin) as release, calling(up) as first:
        origin.wait_requests()
        with calling(up, 3) as waiting:
            wait_until(lambda: gauge(up, "pending") == (3, 1024))
            assert gauge(up, "connections") == (1, 1)
            assert len(origin.requests) == 1
            release.set()
            assert read_all(first + waiting) == {200: 4}
    assert origin.connections == 1


@pytest.mark.semantics("resilience", "So many calls wait for a connection", "services.*.resources.pending")
def test_only_so_many_wait(up: Proxy, origin: Origin) -> None:
    govern(up, resources=connections(1, pending=2))
    with held(origin) as release, calling(up) as first:
        origin.wait_requests()
        with calling(up, 2) as waiting:
            wait_until(lambda: gauge(up, "pending") == (2, 2))
            assert_overflow(call(up), "no connection")
            assert up.totals("resources_exhausted") == 1
            release.set()
            assert read_all(first + waiting) == {200: 3}


def test_nobody_waits_where_none_may(up: Proxy, origin: Origin) -> None:
    govern(up, resources=connections(1, pending=0))
    with held(origin) as release, calling(up) as first:
        origin.wait_requests()
        assert_overflow(call(up), "no connection")
        release.set()
        assert read_all(first) == {200: 1}
    assert statuses(up, 3) == [200] * 3


def test_a_wait_ends_with_the_patience_for_an_answer(up: Proxy, origin: Origin) -> None:
    impatient = traffic.Route(
        name="impatient",
        hosts=["up"],
        matches=[traffic.Match(path="/impatient")],
        timeouts=traffic.RouteTimeouts(backend_request="100ms"),
    )
    up.publish_routes(traffic.Config(routes=[impatient]))
    govern(up, resources=connections(1))
    with held(origin), calling(up):
        origin.wait_requests()
        with takes_at_least(0.1):
            assert_overflow(up.fetch("/impatient", host="up", outbound=True), "no connection")


@pytest.mark.parametrize("pending", [1024, 0])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_idle_connection_to_another_endpoint_makes_room(
    start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin, pending: int, method: str
) -> None:
    """The limit is on what is in use: an idle connection is closed for one that is needed."""
    proxy, other = start_proxy(balance="round_robin"), start_origin()
    serve(proxy, origin, other)
    govern(proxy, resources=connections(1, pending))
    got = [call(proxy, method=method, body=b"").status for _ in range(6)]
    assert got == [200] * 6
    assert (len(origin.requests), len(other.requests)) == (3, 3)


def test_room_is_made_at_once(start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin) -> None:
    """Forty in a row, each of which closes the connection of the one before it: by ticks it would be 1 s."""
    proxy, other = start_proxy(balance="round_robin"), start_origin()
    serve(proxy, origin, other)
    govern(proxy, resources=connections(1))
    began = monotonic()
    assert statuses(proxy, 40) == [200] * 40
    assert monotonic() - began < 0.6


def test_who_waits_gets_a_connection_that_another_endpoint_no_longer_needs(
    start_proxy: StartProxy, origin: Origin, start_origin: StartOrigin
) -> None:
    proxy, other = start_proxy(balance="round_robin"), start_origin()
    serve(proxy, origin, other)
    govern(proxy, resources=connections(1))
    with held(origin) as release, calling(proxy) as first:
        origin.wait_requests()
        with calling(proxy) as waiting:
            wait_until(lambda: gauge(proxy, "pending") == (1, 1024))
            assert other.connections == 0
            release.set()
            assert read_all(first + waiting) == {200: 2}
    assert len(other.requests) == 1


def test_an_idle_connection_of_another_worker_makes_room(start_proxy: StartProxy, origin: Origin) -> None:
    """Two workers, one connection: whoever asks gets it, as nobody else uses it."""
    proxy = start_proxy(workers=2, timeouts={"request_ms": 100})
    serve(proxy, origin)
    govern(proxy, resources=connections(1))
    assert statuses(proxy, 12) == [200] * 12


def test_a_connection_that_ends_makes_room(up: Proxy, origin: Origin) -> None:
    govern(up, resources=connections(1, pending=0))
    for _ in range(3):
        assert call(up).status == 200
        ended = origin.ended
        origin.cut()
        origin.wait(lambda ended=ended: origin.ended > ended)  # type: ignore[misc]
    origin.refuse()
    assert statuses(up, 3) == [503] * 3
    wait_until(lambda: gauge(up, "connections") == (0, 1))


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "So many requests to a service are under way, over so many connections; beyond them 503 `UO`",
    "services.*.resources.requests",
    "services.*.resources.connections",
)
def test_only_so_many_requests_are_under_way(up: Proxy, origin: Origin) -> None:
    govern(up, resources=resilience.Resources(requests=2))
    with held(origin) as release, calling(up, 2) as callers:
        origin.wait_requests(2)
        assert_overflow(call(up), "2 requests to up are under way")
        assert up.totals("resources_exhausted") == 1
        release.set()
        assert read_all(callers) == {200: 2}
    assert statuses(up, 3) == [200] * 3


def test_gauges_are_of_the_limits_in_force(up: Proxy) -> None:
    def shown() -> set[str]:
        return {g.limit for g in up.counters.gauges()}

    govern(up, bulkhead=resilience.Bulkhead())
    wait_until(lambda: shown() == {"connections", "pending", "requests", "retries", "bulkhead"})
    govern(up)
    began = monotonic()
    while "bulkhead" in shown():
        assert monotonic() - began < 2, "it is twice a second that they are written"


def test_a_call_that_waits_for_a_connection_is_under_way(up: Proxy, origin: Origin) -> None:
    govern(up, resources=resilience.Resources(requests=2, connections=1))
    with held(origin) as release, calling(up, 2) as callers:
        wait_until(lambda: gauge(up, "pending") == (1, 1024))
        assert_overflow(call(up), "2 requests to up are under way")
        release.set()
        assert read_all(callers) == {200: 2}


def test_a_request_that_got_no_connection_leaves_its_place(up: Proxy, origin: Origin) -> None:
    govern(up, failure_policy="none", resources=resilience.Resources(requests=1))
    origin.refuse()
    assert [call(up).get("x-pannier-reason") for _ in range(3)] == ["UF"] * 3


def test_a_request_whose_connection_ended_leaves_its_place(up: Proxy, origin: Origin) -> None:
    govern(up, resources=resilience.Resources(requests=1))
    with held(origin):
        for done in range(3):
            with calling(up) as callers:
                origin.wait_requests(done + 1)
                origin.cut()
                assert read_all(callers) == {502: 1}


def test_a_request_whose_caller_left_leaves_its_place(up: Proxy, origin: Origin) -> None:
    govern(up, resources=resilience.Resources(requests=1))
    with held(origin) as release:
        with calling(up):
            origin.wait_requests()
        assert_overflow(call(up), "1 requests to up")
        release.set()
        up.wait_counted(2)
    assert statuses(up, 3) == [200] * 3


def test_workers_share_a_limit(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(workers=2)
    serve(proxy, origin)
    govern(proxy, resources=resilience.Resources(requests=5))
    with held(origin) as release, calling(proxy, 30) as callers:
        proxy.wait_counted(25)
        origin.wait_requests(5)
        release.set()
        assert read_all(callers) == {200: 5, 503: 25}
    assert len(origin.requests) == 5


def test_each_service_has_its_own_use_of_what_holds_for_every_one(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(up=[{"address": origin.address}], other=[{"address": origin.address}])
    every = resilience.Service(resources=resilience.Resources(requests=1), retry=resilience.Retry(attempts=0))
    own = resilience.Service(resources=resilience.Resources(requests=2), retry=resilience.Retry(attempts=0))
    proxy.publish_limits(resilience.Config(services={"*": every}))
    with held(origin), calling(proxy):
        origin.wait_requests()
        assert_overflow(call(proxy), "1 requests to up")
        with proxy.call(outbound=True) as caller:
            caller.send(request(host="other"))
            origin.wait_requests(2)
        proxy.publish_limits(resilience.Config(services={"*": every, "up": own}))
        with calling(proxy):
            origin.wait_requests(3)
            assert_overflow(call(proxy), "2 requests to up")


def test_without_resilience_nothing_is_limited(up: Proxy, origin: Origin) -> None:
    govern(up, resources=resilience.Resources(requests=1))
    with held(origin) as release, calling(up) as callers:
        origin.wait_requests()
        up.withdraw("limits")
        with calling(up, 5) as more:
            origin.wait_requests(6)
            release.set()
            assert read_all(callers + more) == {200: 6}


def test_gauges_show_what_is_in_use_and_how_much_there_is(up: Proxy, origin: Origin) -> None:
    up.publish_limits(
        resilience.Config(
            services={
                "up": resilience.Service(
                    resources=resilience.Resources(connections=2, pending=7, requests=8, retries=4),
                    bulkhead=resilience.Bulkhead(concurrent=9),
                )
            },
            inbound=resilience.Inbound(
                bulkhead=resilience.Bulkhead(concurrent=3), shedding=resilience.Shedding(requests=20)
            ),
        )
    )

    def shown() -> dict[tuple[str, str], tuple[int, int]]:
        return {(g.service, g.limit): (g.used, g.most) for g in up.counters.gauges()}

    in_use = {
        ("up", "connections"): (2, 2),
        ("up", "pending"): (1, 7),
        ("up", "requests"): (3, 8),
        ("up", "retries"): (0, 4),
        ("up", "bulkhead"): (3, 9),
        ("", "bulkhead"): (1, 3),
        ("", "shedding"): (1, 20),
    }
    with held(origin) as release, calling(up, 3) as callers, calling(up, outbound=False) as others:
        wait_until(lambda: shown() == in_use)
        release.set()
        assert read_all(callers + others) == {200: 4}
    origin.cut()
    wait_until(lambda: shown() == {limit: (0, most) for limit, (_, most) in in_use.items()})


# --- bulkheads -----------------------------------------------------------------------------------------------------


def enclose(proxy: Proxy, bulkhead: resilience.Bulkhead, *, outbound: bool) -> None:
    """Puts a bulkhead around calls to `up`, or around what others ask."""
    if outbound:
        govern(proxy, bulkhead=bulkhead)
    else:
        proxy.publish_limits(resilience.Config(inbound=resilience.Inbound(bulkhead=bulkhead)))


@pytest.mark.semantics(
    "resilience", "A bulkhead refuses one too many at the same time: 503 `UO`", "services.*.bulkhead.concurrent"
)
@pytest.mark.parametrize("outbound", [True, False])
def test_a_bulkhead_refuses_one_too_many(up: Proxy, origin: Origin, outbound: bool) -> None:
    enclose(up, resilience.Bulkhead(concurrent=2), outbound=outbound)
    with held(origin) as release:
        with calling(up, 2, outbound=outbound) as callers:
            origin.wait_requests(2)
            with calling(up, outbound=outbound) as more:
                assert_overflow(more[0].read_answer(), "2 requests to")
            assert up.totals("bulkhead_full") == 1
            release.set()
            assert read_all(callers) == {200: 2}
        with calling(up, outbound=outbound) as more:
            assert read_all(more) == {200: 1}


@pytest.mark.semantics("resilience", "A bulkhead may let callers wait", "services.*.bulkhead.wait")
@pytest.mark.parametrize("outbound", [True, False])
def test_a_bulkhead_may_have_a_wait(up: Proxy, origin: Origin, outbound: bool) -> None:
    enclose(up, resilience.Bulkhead(concurrent=1, wait="10s"), outbound=outbound)
    with held(origin) as release, calling(up, 4, outbound=outbound) as callers:
        origin.wait_requests()
        release.set()
        assert read_all(callers) == {200: 4}
    assert up.totals("bulkhead_full") == 0


def test_a_wait_for_a_bulkhead_ends(up: Proxy, origin: Origin) -> None:
    govern(up, bulkhead=resilience.Bulkhead(concurrent=1, wait="200ms"))
    with held(origin), calling(up):
        origin.wait_requests()
        with takes_at_least(0.2):
            assert_overflow(call(up), "1 requests to up")
        assert up.totals("bulkhead_full") == 1


@pytest.mark.parametrize("gave_up", [0, 100])
def test_who_waits_for_a_bulkhead_gets_a_place_at_once(up: Proxy, origin: Origin, gave_up: int) -> None:
    """Fifty in a row, each of which waits for the one before it: a tick of 25 ms for each would be 1.25 s.

    So it is after others have waited in vain.
    """
    govern(up, bulkhead=resilience.Bulkhead(concurrent=1, wait="100ms"))
    with held(origin) as release, calling(up) as first:
        origin.wait_requests()
        with calling(up, gave_up) as others:
            assert read_all(others)[503] == gave_up
        govern(up, bulkhead=resilience.Bulkhead(concurrent=1, wait="10s"))
        with calling(up, 50) as callers:
            wait_until(lambda: up.totals("connections_accepted") == 1 + gave_up + 50)
            began = monotonic()
            release.set()
            assert read_all(first + callers) == {200: 51}
            assert monotonic() - began < 0.6


def test_waiting_in_vain_leaves_nothing_behind(up: Proxy, origin: Origin) -> None:
    govern(up, bulkhead=resilience.Bulkhead(concurrent=1, wait="50ms"))
    with held(origin), calling(up):
        origin.wait_requests()
        for count in (300, 600):
            before = up.rss_bytes()
            for _ in range(count // 100):
                with calling(up, 100) as callers:
                    assert read_all(callers) == {503: 100}
        assert up.rss_bytes() - before < 512 << 10


# --- rate limits ---------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "resilience",
    "Over the rate 429 `RL` says when to come back (`RateLimit-*`, `Retry-After`)",
    "services.*.rate_limit.interval",
)
def test_calls_over_the_rate_are_refused_and_told_when_to_come_back(up: Proxy, origin: Origin) -> None:
    govern(up, rate_limit=resilience.RateLimit(max=3, fill=1, interval="1h"))
    got = [call(up) for _ in range(5)]
    assert [g.status for g in got] == [200] * 3 + [429] * 2
    refused = got[-1]
    assert refused.get("x-pannier-reason") == "RL"
    assert (refused.get("ratelimit-limit"), refused.get("ratelimit-remaining")) == ("3", "0")
    assert 1 <= int(refused.get("ratelimit-reset") or "") <= 3_600
    assert refused.get("retry-after") == refused.get("ratelimit-reset")
    assert len(origin.requests) == 3
    assert up.totals("rate_limited") == 2


def test_requests_of_others_over_the_rate_are_refused(proxy: Proxy, origin: Origin) -> None:
    rate_limit = resilience.RateLimit(max=2, fill=1, interval="1h")
    proxy.publish_limits(resilience.Config(inbound=resilience.Inbound(rate_limit=rate_limit)))
    with proxy.call() as caller:
        got = []
        for _ in range(4):
            caller.send(request())
            got.append(caller.read_answer())
    assert [(g.status, g.get("x-pannier-reason")) for g in got] == [(200, None)] * 2 + [(429, "RL")] * 2
    assert proxy.fetch(host="up", outbound=True).status == 200


def test_each_interval_brings_tokens_up_to_the_most(up: Proxy) -> None:
    govern(up, rate_limit=resilience.RateLimit(max=3, fill=2, interval="300ms"))
    wait_until(lambda: call(up).status == 429)
    before = up.totals("rate_limited")
    wait_until(lambda: call(up).status == 200)
    assert up.totals("rate_limited") > before
    assert statuses(up, 2) == [200, 429]


def test_a_rate_holds_over_a_second(up: Proxy, origin: Origin) -> None:
    govern(up, rate_limit=resilience.RateLimit(max=5, fill=5, interval="100ms"))
    began = monotonic()
    with up.call(outbound=True) as caller:
        while monotonic() - began < 1:
            caller.send(request(host="up"))
            caller.read_answer()
    lasted = monotonic() - began
    assert 30 <= len(origin.requests) <= 5 + (lasted * 10 + 1) * 5


def test_a_longer_interval_begins_at_once(up: Proxy) -> None:
    """The tokens of the table before are kept, and those of the new one come as it says."""
    govern(up, rate_limit=resilience.RateLimit(max=1, fill=1, interval="50ms"))
    assert call(up).status == 200
    govern(up, rate_limit=resilience.RateLimit(max=1, fill=1, interval="100ms"))
    wait_until(lambda: call(up).status == 429)
    began = monotonic()
    while call(up).status == 429:
        assert monotonic() - began < 1, "no token for ten intervals"


@pytest.mark.semantics(
    "resilience",
    "With `enforced = 0` (shadow mode) a limit counts whom it would have refused, and refuses nobody",
    "services.*.rate_limit.enforced",
    "inbound.shedding.enforced",
)
def test_a_rate_in_shadow_refuses_nobody_and_counts(up: Proxy) -> None:
    govern(up, rate_limit=resilience.RateLimit(max=2, fill=1, interval="1h", enforced=0))
    assert statuses(up, 5) == [200] * 5
    assert (up.totals("rate_limited_in_shadow"), up.totals("rate_limited")) == (3, 0)


@pytest.mark.parametrize("enabled", [0, 50])
def test_only_a_share_of_the_requests_takes_a_token(start_proxy: StartProxy, origin: Origin, enabled: int) -> None:
    proxy = start_proxy(seed=7)
    serve(proxy, origin)
    govern(proxy, rate_limit=resilience.RateLimit(max=1, fill=1, interval="1h", enabled=enabled))
    got = Counter(statuses(proxy, 100))
    assert sum(got.values()) == got[200] + got[429]
    assert (got[429] == 0) if enabled == 0 else (25 < got[429] < 75), got


def test_a_share_is_enforced(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(seed=7)
    serve(proxy, origin)
    govern(proxy, rate_limit=resilience.RateLimit(max=1, fill=1, interval="1h", enforced=50))
    got = Counter(statuses(proxy, 101))
    assert 25 < got[429] < 75, got
    assert proxy.totals("rate_limited") == got[429]
    assert proxy.totals("rate_limited_in_shadow") == 100 - got[429]


def test_workers_share_a_rate(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(workers=2)
    serve(proxy, origin)
    govern(proxy, rate_limit=resilience.RateLimit(max=10, fill=1, interval="1h"))
    assert Counter(statuses(proxy, 30)) == {200: 10, 429: 20}


def test_a_table_that_changes_something_else_gives_no_new_tokens(up: Proxy) -> None:
    rate = resilience.RateLimit(max=2, fill=1, interval="1h")
    govern(up, rate_limit=rate)
    assert statuses(up, 3) == [200, 200, 429]
    govern(up, rate_limit=rate, bulkhead=resilience.Bulkhead())
    assert statuses(up, 1) == [429]


def test_what_the_rate_refuses_takes_no_place(up: Proxy, origin: Origin) -> None:
    govern(up, rate_limit=resilience.RateLimit(max=1, fill=1, interval="1h"), bulkhead=resilience.Bulkhead())
    with held(origin), calling(up):
        origin.wait_requests()
        assert statuses(up, 30) == [429] * 30


# --- death ---------------------------------------------------------------------------------------------------------


def test_a_proxy_that_is_killed_leaves_no_use_behind(up: Proxy, origin: Origin) -> None:
    one = resilience.Resources(connections=1, requests=1, pending=0)
    govern(up, resources=one, bulkhead=resilience.Bulkhead(concurrent=1))
    with held(origin) as release, calling(up):
        origin.wait_requests()
        wait_until(lambda: gauge(up, "requests") == (1, 1))
        up.kill()
        up.start()
        release.set()
        assert statuses(up, 3) == [200] * 3
    for limit in ("requests", "bulkhead", "pending", "retries"):
        wait_until(lambda limit=limit: (gauge(up, limit) or (1, 0))[0] == 0)  # type: ignore[misc]
