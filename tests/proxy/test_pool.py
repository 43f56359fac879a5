"""Connections to upstreams: used again, never in doubt, and never so that something happens twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Wire, answer, chunk, request

OK = answer()


def answer_once(data: bytes) -> Callable[[Origin, Wire], None]:
    """Answers the first request of a connection with `data` and then only listens."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(data)
        wire.read_to_end()

    return converse


def close_on_second(origin: Origin, wire: Wire) -> None:
    """The race of every keep-alive: the connection is closed just when the next request arrives."""
    origin.take(wire.read_request())
    wire.send(OK)
    origin.take(wire.read_request())


def test_callers_share_connections(proxy: Proxy, origin: Origin) -> None:
    for _ in range(10):
        assert proxy.fetch().status == 200
    assert origin.connections == 1
    assert proxy.totals("pool_reused") == 9


def test_as_many_connections_as_requests_at_once(proxy: Proxy, origin: Origin) -> None:
    gate = threading.Event()

    def hold(_: object) -> bytes:
        assert gate.wait(10)
        return OK

    origin.answer = hold
    for _ in range(2):
        callers = [proxy.call() for _ in range(5)]
        for caller in callers:
            caller.send(request())
        origin.wait(lambda: len(origin.requests) % 5 == 0 and len(origin.requests) > 0)
        gate.set()
        for caller in callers:
            assert caller.read_answer().status == 200
            caller.close()
    assert origin.connections == 5


def test_a_connection_that_its_upstream_closed_is_not_used(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(OK)

    origin.converse = converse
    for _ in range(5):
        assert proxy.fetch(method="POST", body=b"x").status == 200
        origin.wait(lambda: origin.ended == len(origin.requests))
    assert (len(origin.requests), origin.connections) == (5, 5)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_what_may_be_repeated_is_repeated_once_the_connection_was_stale(
    proxy: Proxy, origin: Origin, method: str
) -> None:
    origin.converse = close_on_second
    assert proxy.fetch().status == 200
    body = b"x" if method == "PUT" else None
    assert proxy.fetch("/again", method=method, body=body).status == 200
    assert [r.target for r in origin.requests] == ["/", "/again", "/again"]
    assert proxy.totals("stale_connection_retries") == 1


@pytest.mark.parametrize("method", ["POST", "PATCH", "ANY"])
def test_what_may_not_be_repeated_is_never_sent_twice(proxy: Proxy, origin: Origin, method: str) -> None:
    origin.converse = close_on_second
    assert proxy.fetch().status == 200
    got = proxy.fetch("/once", method=method, body=b"x")
    assert (got.status, got.get("x-pannier-reason")) == (502, "UC")
    assert [r.target for r in origin.requests] == ["/", "/once"]


def test_a_body_that_streams_is_never_sent_twice(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(OK)
        origin.take(wire.read_head())

    origin.converse = converse
    assert proxy.fetch().status == 200
    with proxy.call() as caller:
        caller.send(request("/once", "Content-Length: 100000", method="PUT") + b"x")
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason"), got.get("connection")) == (502, "UC", "close")
        assert caller.has_ended()
    assert [r.target for r in origin.requests] == ["/", "/once"]


def test_a_fresh_connection_that_closes_without_an_answer_is_not_tried_again(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())

    origin.converse = converse
    got = proxy.fetch()
    assert (got.status, got.get("x-pannier-reason")) == (502, "UC")
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    "data",
    [
        OK + b"X",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 204 No Content\r\n\r\nbody",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello") + chunk(b"") + b"X",
    ],
)
def test_bytes_beyond_an_answer_reach_nobody(proxy: Proxy, origin: Origin, data: bytes) -> None:
    origin.converse = answer_once(data)
    for turn in (1, 2):
        with proxy.call() as caller:
            caller.send(request())
            assert caller.read_answer().body in (b"hello", b"")
            caller.send(request("/next"))
            caller.read_answer()
        origin.wait_requests(turn * 2)
    assert origin.connections == 4
    assert [r.target for r in origin.requests] == ["/", "/next"] * 2


def test_bytes_that_come_late_spoil_an_idle_connection(proxy: Proxy, origin: Origin) -> None:
    idle, spoilt = threading.Event(), threading.Event()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(OK)
        assert idle.wait(10)
        wire.send(answer(b"evil"))
        spoilt.set()
        wire.read_to_end()

    origin.converse = converse
    assert proxy.fetch().body == b"hello"
    idle.set()
    assert spoilt.wait(10)
    assert proxy.fetch("/next").body == b"hello"
    assert origin.connections == 2


def test_an_upstream_that_says_close_is_not_used_again(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"hello", "Connection: close")
    with proxy.call() as caller:
        for _ in range(3):
            caller.send(request())
            got = caller.read_answer()
            assert (got.status, got.get("connection")) == (200, None), "that was the upstream's wish, not ours"
    assert origin.connections == 3


def test_an_answer_before_the_end_of_its_request_spoils_the_connection(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(OK)
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/", "Content-Length: 10", method="POST") + b"half")
        assert caller.read_answer().status == 200
        caller.send(b"s the rest")
        assert caller.has_ended()
    assert proxy.fetch("/next").status == 200
    assert origin.connections == 2


def test_a_caller_that_leaves_spoils_the_connection(proxy: Proxy, origin: Origin) -> None:
    with proxy.call() as caller:
        caller.send(request("/", "Content-Length: 10", method="POST") + b"half")
        origin.wait(lambda: origin.connections == 1)
    origin.wait(lambda: origin.ended == 1)
    assert proxy.fetch("/next").status == 200
    assert (origin.connections, len(origin.requests)) == (2, 1)
    (left,) = [s for s in proxy.wait_counted(2) if s.flag]
    assert (left.flag, left.status) == ("DC", 0)


def test_connections_of_an_endpoint_that_is_gone_are_closed(
    start_proxy: StartProxy, start_origin: Callable[..., Origin]
) -> None:
    proxy, one, two = start_proxy(), start_origin(), start_origin()
    proxy.publish_endpoints(up=[{"address": one.address}])
    assert proxy.fetch(host="up", outbound=True).status == 200
    proxy.publish_endpoints(up=[{"address": two.address}])
    one.wait(lambda: one.ended == 1)
    assert proxy.fetch(host="up", outbound=True).status == 200
    assert (len(one.requests), len(two.requests)) == (1, 1)


def load(proxy: Proxy, callers: int, each: int) -> None:
    """So many callers at once, each with so many requests on a connection of its own."""

    def call(_: int) -> None:
        with proxy.call(outbound=True) as caller:
            for _ in range(each):
                caller.send(request(host="up"))
                assert caller.read_answer().status == 200

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))


def test_under_steady_load_999_of_1000_requests_ride_on_a_connection_that_is_there(proxy: Proxy) -> None:
    load(proxy, callers=16, each=10)
    connects, reused = proxy.totals("connects"), proxy.totals("pool_reused")
    load(proxy, callers=16, each=200)
    assert proxy.totals("connects") - connects <= 3, "0.1 % of 3 200"
    assert proxy.totals("pool_reused") - reused >= 3_197
