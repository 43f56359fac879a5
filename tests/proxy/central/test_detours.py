"""Calls of an instance that go by way of a Central, and those that go straight all the same."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from math import sqrt
from typing import Any

import msgspec
import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import INBOUND, Central, Preface
from tests.proxy.origin import Origin
from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S, Message, Wire, answer, request

AWAY = answer(b"away", "X-By: central")
CRITICAL, SHEDDABLE = "X-Pannier-Criticality: critical", "X-Pannier-Criticality: sheddable"


@pytest.fixture
def caller(start_host: StartMeshed, central: Central) -> Meshed:
    """A proxy whose app calls an instance that is reached by way of `central`, which has a table `central` itself."""
    central.answer = lambda _: AWAY
    return start_host(base={"service": "caller", "clusters": []})


@pytest.fixture
def by(caller: Meshed, origin: Origin, central: Central) -> Callable[..., None]:
    """Says with which weight instance `e` is reached by way of `central`."""

    def publish(weight: float, *others: dict[str, Any]) -> None:
        centrals = [{"address": central.address, "weight": weight}, *others]
        caller.publish_endpoints(up=[{"id": "e", "address": origin.address, "centrals": centrals}])

    return publish


def call(caller: Meshed, *fields: str, **rest: Any) -> str:
    """Who answers a call: the Central, or the instance itself."""
    got = caller.fetch("/", *fields, host="up", outbound=True, **rest)
    assert got.status == 200, got
    return got.get("x-by") or "instance"


def test_a_call_says_whom_it_is_for_and_is_governed_here(
    caller: Meshed, by: Callable[..., None], central: Central
) -> None:
    caller.publish_headers({"direction": "outbound", "request": {"set": {"x-caller": "1"}}})
    caller.publish_telemetry()
    by(100.0)
    for _ in range(3):
        assert call(caller) == "central"
    (preface,) = central.prefaces
    assert (preface.role, preface.service, preface.instance, preface.hops) == (INBOUND, "up", "e", 0)
    assert {message.get("x-caller") for message in central.requests} == {"1"}
    lines, _ = caller.drain(3)
    assert {(line["status"], line["flags"]) for line in lines} == {(200, "CF")}
    by(0.0)
    assert call(caller) == "instance"
    (line,), _ = caller.drain(1)
    assert line["flags"] == "-"


CALLS = 400
#: Method, fields, and the share at a weight of 40, greatest first.
ORDER = [
    ("GET", (SHEDDABLE,), sqrt(0.4)),
    ("GET", (), 0.4),
    ("POST", (SHEDDABLE,), 0.4),
    ("POST", (), 1 - sqrt(0.6)),
    ("GET", (CRITICAL,), 1 - 0.6 ** (1 / 3)),
    ("POST", (CRITICAL,), 1 - 0.6 ** (1 / 4)),
]


def test_a_share_of_calls_goes_by_way_of_it_and_the_least_critical_first(
    caller: Meshed, by: Callable[..., None]
) -> None:
    by(40.0)
    with caller.call(outbound=True) as wire:
        for method, fields, share in ORDER:
            away = 0
            for _ in range(CALLS):
                wire.send(request("/", *fields, host="up", method=method, body=b"x" if method == "POST" else None))
                away += wire.read_answer().get("x-by") is not None
            assert abs(away - CALLS * share) <= 5 * sqrt(CALLS * share * (1 - share)), (method, fields, share, away)


def test_of_two_centrals_each_has_its_share(
    caller: Meshed, by: Callable[..., None], start_central: Callable[..., Central]
) -> None:
    other = start_central()
    other.answer = lambda _: answer(b"away", "X-By: other")
    by(20.0, {"address": other.address, "weight": 30.0})
    with caller.call(outbound=True) as wire:
        who: Counter[str] = Counter()
        for _ in range(CALLS):
            wire.send(request(host="up"))
            who[wire.read_answer().get("x-by") or "instance"] += 1
    for name, share in (("central", 0.2), ("other", 0.3), ("instance", 0.5)):
        assert abs(who[name] - CALLS * share) <= 5 * sqrt(CALLS * share * (1 - share)), who


def free_port() -> str:
    """An address at which nobody listens, though nobody else is given it either."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_central_that_refuses_is_gone_round_in_the_same_request_and_left_alone(
    caller: Meshed, by: Callable[..., None], central: Central, origin: Origin
) -> None:
    """Also with what must not be repeated, since nothing was sent; and for two seconds nobody asks it again."""
    asked: list[str] = []

    def refuse(preface: Preface) -> bool:
        asked.append(preface.instance)
        return False

    central.accepts = refuse
    by(100.0)
    caller.publish_telemetry()
    for method in ("POST", "GET", "POST"):
        assert call(caller, method=method, body=b"x" if method == "POST" else None) == "instance"
    assert asked == ["e"]
    lines, _ = caller.drain(3)
    assert {(line["status"], line["flags"]) for line in lines} == {(200, "-")}
    central.accepts = lambda _: True
    wait_until(lambda: call(caller) == "central")
    assert {message.body for message in origin.requests} == {b"x", b""}


def test_a_central_that_is_not_there_is_gone_round(caller: Meshed, origin: Origin) -> None:
    centrals = [{"address": free_port(), "weight": 100.0}]
    caller.publish_endpoints(up=[{"address": origin.address, "centrals": centrals}])
    for method in ("POST", "GET"):
        assert call(caller, method=method) == "instance"


def test_a_central_that_says_nothing_is_not_waited_for(
    caller: Meshed, by: Callable[..., None], central: Central
) -> None:
    released = threading.Event()
    central.accepts = lambda _: not released.wait(PATIENCE_S)
    by(100.0)
    try:
        assert call(caller, method="POST", body=b"x") == "instance"
    finally:
        released.set()


def hang_up(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())


ENDED = {"GET": (200, None, ["GET"]), "POST": (502, "UC", [])}


@pytest.mark.parametrize("method", ENDED)
def test_a_central_that_ends_within_a_call_is_gone_round_if_that_does_no_harm(
    caller: Meshed, by: Callable[..., None], central: Central, origin: Origin, method: str
) -> None:
    central.serve = hang_up
    caller.publish_limits(resilience.Config(services={"up": resilience.Service()}))
    by(100.0)
    got = caller.fetch(host="up", outbound=True, method=method)
    served = [message.method for message in origin.requests]
    assert (got.status, got.get("x-pannier-reason"), served) == ENDED[method]
    assert [message.method for message in central.requests] == [method]


def test_an_answer_of_a_central_that_is_cut_is_no_clean_end(
    caller: Meshed, by: Callable[..., None], central: Central
) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")

    central.serve = converse
    by(100.0)
    with caller.call(outbound=True) as wire:
        wire.send(request(host="up"))
        head = wire.read_head()
        assert head.status == 200
        assert wire.read_chunk() == b"half"
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()


def test_a_connection_that_a_central_ends_is_not_used_again(
    caller: Meshed, by: Callable[..., None], central: Central
) -> None:
    """That is how it sends calls back when the weight falls."""
    central.answer = lambda _: answer(b"away", "X-By: central", "Connection: close")
    by(100.0)
    for turn in range(1, 4):
        assert call(caller) == "central"
        assert len(central.prefaces) == turn


def test_without_a_central_mesh_of_its_own_a_caller_goes_straight(
    caller: Meshed, by: Callable[..., None], central: Central
) -> None:
    by(100.0)
    caller.withdraw("central")
    assert call(caller) == "instance"
    assert central.connections == 0


def test_a_session_stays_with_its_instance_whichever_way_it_goes(
    caller: Meshed, central: Central, start_origin: Callable[..., Origin]
) -> None:
    """The instance is chosen first, then the way to it."""
    origins = [start_origin() for _ in range(3)]

    def name(at: int) -> Callable[[Message], bytes]:
        return lambda _: answer(f"e{at}".encode())

    def through(_: Origin, wire: Wire) -> None:
        instance = central.prefaces[-1].instance
        while True:
            wire.read_request()
            wire.send(answer(instance.encode(), "X-By: central"))

    for at, origin in enumerate(origins):
        origin.answer = name(at)
    central.serve = through
    service = traffic.Service(balance="ring_hash", affinity=traffic.Affinity(header="x-user"))
    caller.publish_routes(traffic.Config(services={"up": service}))
    centrals = [{"address": central.address, "weight": 50.0}]
    caller.publish_endpoints(
        up=[{"id": f"e{at}", "address": origin.address, "centrals": centrals} for at, origin in enumerate(origins)]
    )
    ways: Counter[str] = Counter()
    for user in range(8):
        seen = set()
        for _ in range(12):
            got = caller.fetch("/", f"X-User: {user}", host="up", outbound=True)
            seen.add(got.body)
            ways[got.get("x-by") or "instance"] += 1
        assert len(seen) == 1, user
    assert ways["central"] > 0
    assert ways["instance"] > 0


def test_an_instance_that_is_not_healthy_is_not_called_by_way_of_anybody(
    caller: Meshed, central: Central, origin: Origin
) -> None:
    centrals = [{"address": central.address, "weight": 100.0}]
    caller.publish_endpoints(
        up=[
            {"id": "sick", "address": free_port(), "healthy": False, "centrals": centrals},
            {"id": "well", "address": origin.address},
        ]
    )
    for _ in range(5):
        assert call(caller) == "instance"
    assert central.connections == 0


@pytest.mark.parametrize(
    "bad", [{"address": "nowhere", "weight": 1.0}, {"address": "127.0.0.1:1", "weight": 101.0}], ids=str
)
def test_a_way_that_does_not_hold_rejects_the_table(caller: Meshed, origin: Origin, bad: dict[str, Any]) -> None:
    row = {"id": "e", "slot": 0, "incarnation": 1, "address": origin.address, "centrals": [bad]}
    caller.publish_unchecked("endpoints", msgspec.msgpack.encode({"clusters": [{"name": "up", "endpoints": [row]}]}))
    wait_until(lambda: caller.rejected_tables() == 1)
