"""Which endpoint a request goes to."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from pannier.sidecars.traffic.config import Affinity, Config, Service

from tests.conformance.bootstrap import Envoy, Json
from tests.conformance.conftest import Compare
from tests.conformance.conversations import hang
from tests.conformance.sides import CALLEE, Instance, Side
from tests.proxy.process import wait_until
from tests.proxy.wire import Wire

KEYS = [f"user-{number}" for number in range(400)]


def hashed(policy: str, by: Json) -> Envoy:
    """Envoy's consistent hashing by a header or cookie."""
    return Envoy(
        routes=[{"match": {"prefix": "/"}, "route": {"cluster": CALLEE, "hash_policy": [by]}}],
        clusters={CALLEE: {"lb_policy": policy}},
    )


def served_by(side: Side, *fields: str) -> bytes:
    """Who answers."""
    got = side.ask("/", *fields)
    assert got.status == 200
    return got.body


@pytest.mark.parametrize("balance", ["ring_hash", "maglev"])
def test_a_key_stays_at_its_endpoint(compare: Compare, balance: Literal["ring_hash", "maglev"]) -> None:
    both = compare(
        [Instance()] * 4,
        routes=Config(services={CALLEE: Service(balance=balance, affinity=Affinity(header="x-user"))}),
        envoy=hashed(balance.upper(), {"header": {"header_name": "x-user"}}),
    )

    def observe(side: Side) -> None:
        places = {key: served_by(side, f"x-user: {key}") for key in KEYS}
        assert places == {key: served_by(side, f"x-user: {key}") for key in reversed(KEYS)}
        # Sampling error of the keys, and for the ring that of its 256 points an endpoint.
        points = 1 / 256 if balance == "ring_hash" else 0
        deviation = math.sqrt(0.25 * 0.75 / len(KEYS) + 0.25**2 * points)
        for attempts in side.attempts():
            assert abs(attempts / (2 * len(KEYS)) - 0.25) <= 5 * deviation

    both.each(observe)


def test_requests_without_a_key_are_spread(compare: Compare) -> None:
    both = compare(
        [Instance()] * 3,
        routes=Config(services={CALLEE: Service(balance="ring_hash", affinity=Affinity(header="x-user"))}),
        envoy=hashed("RING_HASH", {"header": {"header_name": "x-user"}}),
    )
    expected = {b"orders-0", b"orders-1", b"orders-2"}
    assert both.agree(lambda side: {served_by(side) for _ in range(60)}) == expected


def test_a_cookie_is_given_and_kept_to(compare: Compare) -> None:
    both = compare(
        [Instance()] * 4,
        routes=Config(services={CALLEE: Service(balance="ring_hash", affinity=Affinity(cookie="session", ttl="1h"))}),
        envoy=hashed("RING_HASH", {"cookie": {"name": "session", "ttl": "3600s"}}),
    )

    def observe(side: Side) -> None:
        for _ in range(20):
            first = side.ask()
            (given,) = first.all("set-cookie")
            cookie, *attributes = (part.strip() for part in given.split(";"))
            assert cookie.startswith("session=")
            assert {"max-age=3600", "httponly"} <= {attribute.lower() for attribute in attributes}
            later = [side.ask("/", f"cookie: theme=dark; {cookie}") for _ in range(4)]
            assert {got.body for got in later} == {first.body}
            assert not any(got.all("set-cookie") for got in later)

    both.each(observe)


def test_round_robin_takes_turns(compare: Compare) -> None:
    both = compare(
        [Instance()] * 3,
        routes=Config(services={CALLEE: Service(balance="round_robin")}),
        envoy=Envoy(clusters={CALLEE: {"lb_policy": "ROUND_ROBIN"}}),
    )

    def observe(side: Side) -> list[int]:
        for _ in range(30):
            served_by(side)
        return side.attempts()

    assert both.agree(observe) == [10, 10, 10]


def test_round_robin_by_weight(compare: Compare) -> None:
    both = compare(
        [Instance(weight=1), Instance(weight=3)],
        routes=Config(services={CALLEE: Service(balance="round_robin")}),
        envoy=Envoy(clusters={CALLEE: {"lb_policy": "ROUND_ROBIN"}}),
    )

    def observe(side: Side) -> list[int]:
        for _ in range(40):
            served_by(side)
        return side.attempts()

    assert both.agree(observe) == [10, 30]


@pytest.mark.parametrize(
    ("unhealthy", "used"),
    [(1, [False, True, True, True]), (2, [False, False, True, True]), (3, [True] * 4), (4, [True] * 4)],
)
def test_who_is_unhealthy_is_left_out_unless_most_are(compare: Compare, unhealthy: int, used: list[bool]) -> None:
    both = compare([Instance(healthy=number >= unhealthy) for number in range(4)])

    def observe(side: Side) -> list[bool]:
        for _ in range(60):
            served_by(side)
        return [attempts > 0 for attempts in side.attempts()]

    assert both.agree(observe) == used


def test_least_request_avoids_who_is_busy(compare: Compare) -> None:
    both = compare(
        [Instance()] * 3,
        routes=Config(services={CALLEE: Service(balance="least_request")}),
        envoy=Envoy(clusters={CALLEE: {"lb_policy": "LEAST_REQUEST"}}),
    )

    def observe(side: Side) -> None:
        busy, *others = side.origins[CALLEE]
        busy.converse = hang
        waiting: list[Wire] = []
        count = 150
        for number in range(count):
            caught = len(busy.requests)
            wire = side.start()
            wait_until(lambda number=number: sum(side.attempts()) == number + 1)
            if len(busy.requests) > caught:
                waiting.append(wire)
            else:
                assert wire.read_answer().body in (b"orders-1", b"orders-2")
                wire.close()
        for wire in waiting:
            wire.close()
        # Only when both choices are the busy one is it taken: one draw in nine with replacement, none without.
        assert len(waiting) <= count / 9 + 5 * math.sqrt(count * 8 / 81)
        assert min(len(origin.requests) for origin in others) > count / 4

    both.each(observe)
