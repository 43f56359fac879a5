"""Which share of the requests goes where: splits, mirrors, faults.

A share is compared with what was asked for, not the one side with the other: five standard deviations of a fair draw.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter

from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Injected, Match, Mirror, Route, Service

from tests.conformance.bootstrap import Envoy, Json, http_filter, percent
from tests.conformance.conftest import Compare
from tests.conformance.conversations import hang
from tests.conformance.sides import CALLEE, Instance, Side
from tests.proxy.process import wait_until
from tests.proxy.wire import answer

V1, V2 = Instance({"version": "v1"}), Instance({"version": "v2"})
SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
BY_VERSION: Json = {"lb_subset_config": {"subset_selectors": [{"keys": ["version"]}]}}


def assert_share(count: int, of: int, share: float) -> None:
    """`count` of so many fair draws is no surprise."""
    assert abs(count - of * share) <= 5 * math.sqrt(of * share * (1 - share)), (count, of, share)


def ask_many(side: Side, count: int) -> Counter[tuple[int, bytes]]:
    """Statuses and bodies of so many requests, each with an id of its own."""
    ids = random.Random(count)
    return Counter(
        (got.status, got.body)
        for got in (side.ask("/", f"x-request-id: {ids.getrandbits(128):032x}") for _ in range(count))
    )


def subset(version: str, weight: int, service: str = CALLEE) -> Json:
    """A target of Envoy's weighted clusters."""
    return {
        "name": service,
        "weight": weight,
        "metadata_match": {"filter_metadata": {"envoy.lb": {"version": version}}},
    }


def everything(**route: object) -> Envoy:
    """All requests take this route of Envoy's, over subsets by version where it splits."""
    clusters = {CALLEE: BY_VERSION} if "weighted_clusters" in route else {}
    return Envoy(routes=[{"match": {"prefix": "/"}, "route": route}], clusters=clusters)


def test_a_split_over_subsets(compare: Compare) -> None:
    both = compare(
        [V1, V2, V1],
        routes=Config(services={CALLEE: Service(balance="round_robin", subsets=SUBSETS, split={"v1": 90, "v2": 10})}),
        envoy=everything(weighted_clusters={"clusters": [subset("v1", 90), subset("v2", 10)]}),
    )

    def observe(side: Side) -> None:
        count = 2000
        assert sum(ask_many(side, count).values()) == count
        first, canary, second = side.attempts()
        assert_share(canary, count, 0.1)
        assert_share(first, first + second, 0.5)

    both.each(observe)


def test_a_route_splits_over_services_and_subsets(compare: Compare) -> None:
    targets = [subset("v1", 20), subset("v2", 30), {"name": "legacy", "weight": 50}]
    both = compare(
        [V1, V2],
        ["legacy"],
        routes=Config(
            services={CALLEE: Service(subsets=SUBSETS)},
            routes=[Route(name="split", to={"orders/v1": 20, "orders/v2": 30, "legacy": 50})],
        ),
        envoy=everything(weighted_clusters={"clusters": targets}),
    )

    def observe(side: Side) -> None:
        count = 1000
        ask_many(side, count)
        first, second, (third,) = *side.attempts(), side.attempts("legacy")
        assert first + second + third == count
        assert_share(first, count, 0.2)
        assert_share(second, count, 0.3)

    both.each(observe)


def test_a_split_within_a_split(compare: Compare) -> None:
    """Envoy is told the products of the shares."""
    targets = [subset("v1", 30), subset("v2", 20), {"name": "legacy", "weight": 50}]
    both = compare(
        [V1, V2],
        ["legacy"],
        routes=Config(
            services={CALLEE: Service(subsets=SUBSETS, split={"v1": 60, "v2": 40})},
            routes=[Route(name="split", to={CALLEE: 50, "legacy": 50})],
        ),
        envoy=everything(weighted_clusters={"clusters": targets}),
    )

    def observe(side: Side) -> None:
        count = 1000
        ask_many(side, count)
        first, second = side.attempts()
        assert_share(first, count, 0.3)
        assert_share(second, count, 0.2)

    both.each(observe)


def test_a_retry_stays_in_its_subset(compare: Compare) -> None:
    back_off = {"base_interval": "0.001s", "max_interval": "0.005s"}
    retry: Json = {"retry_on": "gateway-error", "num_retries": 1, "retry_back_off": back_off}
    both = compare(
        [V1, V2],
        routes=Config(services={CALLEE: Service(subsets=SUBSETS, split={"v1": 50, "v2": 50})}),
        limits=resilience.Config(
            services={
                CALLEE: resilience.Service(
                    failure_policy="none",
                    retry=resilience.Retry(budget=None, backoff_min="1ms", backoff_max="5ms"),
                )
            }
        ),
        envoy=everything(
            weighted_clusters={"clusters": [subset("v1", 50), subset("v2", 50)]},
            retry_policy=retry,
        ),
    )

    def observe(side: Side) -> None:
        side.origins[CALLEE][1].answer = lambda _: answer(status="503 Service Unavailable")
        count = 400
        failed = sum(n for (status, _), n in ask_many(side, count).items() if status == 503)
        assert_share(failed, count, 0.5)
        assert side.attempts() == [count - failed, 2 * failed]

    both.each(observe)


def test_a_mirror_sees_the_same_and_changes_nothing(compare: Compare) -> None:
    both = compare(
        others=["shadow"],
        routes=Config(services={CALLEE: Service(mirror=Mirror(to="shadow"))}),
        envoy=everything(cluster=CALLEE, request_mirror_policies=[{"cluster": "shadow"}]),
    )

    def observe(side: Side) -> tuple[list[tuple[int, bytes]], list[tuple[str, str, bytes, str | None]]]:
        (origin,), (shadow,) = side.origins[CALLEE], side.origins["shadow"]
        shadow.answer = lambda _: answer(b"not for you", status="500 Internal Server Error")
        asked = [side.ask("/a?q=1", "x-number: 1"), side.ask("/b", "x-number: 2", method="POST", body=b"hello")]
        shadow.wait_requests(2)
        original, copy = (
            sorted((one.method, one.target, one.body, one.get("x-number")) for one in who.requests)
            for who in (origin, shadow)
        )
        assert original == copy
        return [(got.status, got.body) for got in asked], copy

    answers, copies = both.agree(observe)
    assert answers == [(200, b"orders-0")] * 2
    assert copies == [("GET", "/a?q=1", b"", "1"), ("POST", "/b", b"hello", "2")]


def test_a_mirror_that_hangs_holds_nobody_up(compare: Compare) -> None:
    both = compare(
        others=["shadow"],
        routes=Config(services={CALLEE: Service(mirror=Mirror(to="shadow", percent=20))}),
        envoy=everything(
            cluster=CALLEE,
            request_mirror_policies=[{"cluster": "shadow", "runtime_fraction": {"default_value": percent(20)}}],
        ),
    )

    def observe(side: Side) -> None:
        (shadow,) = side.origins["shadow"]
        shadow.converse = hang
        count = 150
        assert ask_many(side, count) == {(200, b"orders-0"): count}
        few = count * 0.2 - 5 * math.sqrt(count * 0.16)
        wait_until(lambda: len(shadow.requests) >= few)
        assert_share(len(shadow.requests), count, 0.2)

    both.each(observe)


def test_a_share_is_aborted(compare: Compare) -> None:
    both = compare(
        routes=Config(services={CALLEE: Service(fault=Injected(abort=418, percent=30))}),
        envoy=Envoy(filters=[http_filter("fault", "HTTPFault", abort={"http_status": 418, "percentage": percent(30)})]),
    )

    def observe(side: Side) -> set[tuple[int, str | None]]:
        count = 600
        verdicts = Counter(side.verdict(side.ask()) for _ in range(count))
        aborted = verdicts[418, "FI"]
        assert_share(aborted, count, 0.3)
        assert side.attempts() == [count - aborted]
        return set(verdicts)

    assert both.agree(observe) == {(200, None), (418, "FI")}


def test_a_route_is_delayed(compare: Compare) -> None:
    delay: Json = {"fixed_delay": "0.2s", "percentage": percent(100)}
    slow = http_filter(
        "fault", "HTTPFault", delay=delay, headers=[{"name": ":path", "string_match": {"exact": "/slow"}}]
    )
    both = compare(
        routes=Config(
            routes=[Route(name="slow", matches=[Match(path="/slow")], to={CALLEE: 1}, fault=Injected(delay="200ms"))]
        ),
        envoy=Envoy(filters=[slow]),
    )

    def seconds(side: Side, path: str) -> float:
        began = time.monotonic()
        assert side.ask(path).status == 200
        return time.monotonic() - began

    def observe(side: Side) -> tuple[bool, bool]:
        return seconds(side, "/slow") >= 0.19, min(seconds(side, "/quick") for _ in range(5)) < 0.19

    assert both.agree(observe) == (True, True)
