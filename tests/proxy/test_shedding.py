"""Load shedding: which requests are refused first when many are under way, and who may say which ones those are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pannier.sidecars.resilience import config as resilience

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin, held
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Message, Wire, request

StartOrigin = Callable[..., Origin]


def shed(proxy: Proxy, **shedding: Any) -> None:
    """Puts shedding in force: of 10 requests 5 for sheddable ones and 9 for default ones."""
    inbound = resilience.Inbound(shedding=resilience.Shedding(**{"requests": 10} | shedding))
    proxy.publish_limits(resilience.Config(inbound=inbound))


def importance(criticality: str | None) -> list[str]:
    return [] if criticality is None else [f"x-pannier-criticality: {criticality}"]


@contextmanager
def under_way(proxy: Proxy, origin: Origin, *criticalities: str | None) -> Iterator[list[Wire]]:
    """Requests of these criticalities that have arrived at the origin, one after the other."""
    with ExitStack() as stack:
        callers = []
        for criticality in criticalities:
            before = len(origin.requests)
            callers.append(stack.enter_context(proxy.call()))
            callers[-1].send(request("/", *importance(criticality)))
            origin.wait_requests(before + 1)
        yield callers


def ask(proxy: Proxy, criticality: str | None = None) -> Message:
    return proxy.fetch("/", *importance(criticality))


def assert_shed(got: Message) -> None:
    assert (got.status, got.get("x-pannier-reason")) == (503, "SH")
    assert got.get("retry-after") == "1"
    assert json.loads(got.body)["reason"] == "SH"


@pytest.mark.semantics(
    "resilience",
    "Each criticality may use its share of what is under way, the least critical are refused first: 503 `SH`",
    "inbound.shedding.requests",
    "inbound.shedding.sheddable",
    "inbound.shedding.default",
)
@pytest.mark.parametrize(("criticality", "share"), [("sheddable", 5), (None, 9), ("default", 9), ("critical", 10)])
def test_each_criticality_has_its_share(proxy: Proxy, origin: Origin, criticality: str | None, share: int) -> None:
    shed(proxy, trust=True)
    with held(origin) as release, under_way(proxy, origin, *[criticality] * share) as callers:
        assert_shed(ask(proxy, criticality))
        assert proxy.totals("shed") == 1
        release.set()
        assert [caller.read_answer().status for caller in callers] == [200] * share
        assert ask(proxy, criticality).status == 200
    assert len(origin.requests) == share + 1


@pytest.mark.semantics(
    "resilience",
    "Each criticality may use its share of what is under way, the least critical are refused first: 503 `SH`",
)
def test_the_least_critical_are_refused_first(proxy: Proxy, origin: Origin) -> None:
    shed(proxy, trust=True)
    with held(origin), under_way(proxy, origin, *["critical"] * 5):
        assert_shed(ask(proxy, "sheddable"))
        with under_way(proxy, origin, *[None] * 4):
            assert_shed(ask(proxy, "sheddable"))
            assert_shed(ask(proxy))
            with under_way(proxy, origin, "critical"):
                assert_shed(ask(proxy, "critical"))


@pytest.mark.semantics("resilience", "From outside, only `sheddable` is believed", "inbound.shedding.trust")
@pytest.mark.parametrize("claim", ["critical", "Critical", "sheddable ,critical", "nonsense", ""])
def test_from_outside_only_less_is_believed(proxy: Proxy, origin: Origin, claim: str) -> None:
    shed(proxy)
    with held(origin), under_way(proxy, origin, *[None] * 5):
        assert_shed(ask(proxy, "sheddable"))
        with under_way(proxy, origin, *[claim] * 4):
            assert_shed(ask(proxy, claim))


def test_what_is_not_believed_does_not_reach_the_app(proxy: Proxy, origin: Origin) -> None:
    shed(proxy)
    ask(proxy, "critical")
    assert origin.only.get("x-pannier-criticality") is None


@pytest.mark.semantics(
    "resilience", "With `enforced = 0` (shadow mode) a limit counts whom it would have refused, and refuses nobody"
)
@pytest.mark.parametrize(("criticality", "share"), [("sheddable", 1), (None, 2), ("critical", 2)])
def test_in_shadow_nobody_is_refused(proxy: Proxy, origin: Origin, criticality: str | None, share: int) -> None:
    shed(proxy, requests=2, default=1.0, enforced=0)
    with held(origin), under_way(proxy, origin, *[criticality] * 6):
        assert (proxy.totals("shed"), proxy.totals("shed_in_shadow")) == (0, 6 - share)


def test_what_shadow_lets_through_is_under_way(proxy: Proxy, origin: Origin) -> None:
    shed(proxy, requests=2, enforced=0)
    with held(origin), under_way(proxy, origin, *[None] * 6):
        wait_until(lambda: use(proxy) == (6, 2))
    wait_until(lambda: use(proxy) == (0, 2))


def use(proxy: Proxy) -> tuple[int, int] | None:
    found = [g for g in proxy.counters.gauges() if (g.service, g.limit) == ("", "shedding")]
    return (found[0].used, found[0].most) if found else None


def test_a_share_is_enforced(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(seed=7)
    shed(proxy, requests=1, sheddable=0, enforced=50)
    refused = sum(ask(proxy, "sheddable").status == 503 for _ in range(60))
    assert 15 < refused < 45
    assert (proxy.totals("shed"), proxy.totals("shed_in_shadow")) == (refused, 60 - refused)


@pytest.mark.parametrize(("sheddable", "most"), [(0.0, 0), (0.1, 10), (0.29, 29), (0.5, 50), (1.0, 100)])
def test_a_share_is_that_share(proxy: Proxy, origin: Origin, sheddable: float, most: int) -> None:
    shed(proxy, requests=100, sheddable=sheddable, default=1.0)
    with held(origin), ExitStack() as stack:
        callers = [stack.enter_context(proxy.call()) for _ in range(100)]
        for caller in callers:
            caller.send(request("/", *importance("sheddable")))
        wait_until(lambda: len(origin.requests) + proxy.totals("shed") == 100)
        assert (len(origin.requests), proxy.totals("shed")) == (most, 100 - most)


def test_calls_to_others_are_not_shed(proxy: Proxy, origin: Origin) -> None:
    shed(proxy, requests=1, sheddable=0, default=0)
    assert_shed(ask(proxy))
    assert proxy.fetch("/", *importance("sheddable"), host="up", outbound=True).status == 200


def test_what_the_rate_refuses_is_not_under_way(proxy: Proxy, origin: Origin) -> None:
    inbound = resilience.Inbound(
        shedding=resilience.Shedding(requests=2, default=1.0),
        rate_limit=resilience.RateLimit(max=2, fill=1, interval="1h"),
    )
    proxy.publish_limits(resilience.Config(inbound=inbound))
    with held(origin), under_way(proxy, origin, None):
        with under_way(proxy, origin, None):
            assert [ask(proxy).get("x-pannier-reason") for _ in range(3)] == ["RL"] * 3
        assert proxy.totals("shed") == 0


def test_without_resilience_nobody_is_shed(proxy: Proxy, origin: Origin) -> None:
    shed(proxy, requests=1, sheddable=0, default=0)
    assert_shed(ask(proxy))
    proxy.withdraw("limits")
    assert ask(proxy, "sheddable").status == 200


def test_a_proxy_that_is_killed_leaves_no_use_behind(proxy: Proxy, origin: Origin) -> None:
    shed(proxy, requests=1, default=1.0)
    with held(origin) as release, under_way(proxy, origin, None):
        assert_shed(ask(proxy))
        proxy.kill()
        proxy.start()
        release.set()
        assert [ask(proxy).status for _ in range(3)] == [200] * 3


@pytest.mark.semantics(
    "resilience",
    "Half of what is not shed may be waiting for its body: slow uploads leave the other half to others",
    "inbound.shedding.requests",
)
def test_slow_uploads_take_no_more_than_half(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy()
    shed(proxy, default=1.0)
    head = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslowly"
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call()) for _ in range(5)]
        for number, caller in enumerate(callers):
            caller.send(head)
            wait_until(lambda wanted=number + 1: origin.connections == wanted)  # type: ignore[misc]
        with proxy.call() as sixth:
            sixth.send(head)
            assert_shed(sixth.read_answer())
        assert ask(proxy).status == 200, "who has said everything has the other half"
        callers[0].send(b"x" * 994)
        assert callers[0].read_answer().status == 200
        with proxy.call() as another:
            another.send(head)
            wait_until(lambda: origin.connections == 6)


def test_an_upload_that_was_sent_on_is_none_any_more(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy()
    shed(proxy, default=1.0)
    with held(origin), ExitStack() as stack:
        for number in range(9):
            caller = stack.enter_context(proxy.call())
            caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
            caller.send(b"body")
            origin.wait_requests(number + 1)


def test_where_one_may_be_under_way_it_may_be_an_upload(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy()
    shed(proxy, requests=1, default=1.0)
    with proxy.call() as caller:
        caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
        wait_until(lambda: origin.connections == 1)
        caller.send(b"body")
        assert caller.read_answer().status == 200
