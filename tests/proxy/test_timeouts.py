"""Who waits for whom, and for how long. The timeouts are short so that the tests are; none may come early."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.wire import PATIENCE_S, Ended, Wire, answer, chunk, request

SHORT_S = 0.1


@contextmanager
def takes_at_least(seconds: float) -> Iterator[None]:
    """The clocks of two processes: a millisecond of the coarse one may be missing."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began > seconds - 0.01


def test_a_head_that_does_not_end_is_answered_408(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"header_ms": 100})
    with proxy.call() as caller, takes_at_least(SHORT_S):
        caller.send(b"GET / HTTP/1.1\r\nHost: ")
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason"), got.get("connection")) == (408, "DT", "close")
        assert caller.has_ended()
    assert origin.connections == 0


def test_a_head_has_one_deadline_in_all_however_it_drips(start_proxy: StartProxy) -> None:
    proxy = start_proxy(timeouts={"header_ms": 300})
    with proxy.call() as caller:
        caller.socket.settimeout(0.01)
        caller.send(b"GET / HTTP/1.1\r\nX: ")
        began = time.monotonic()
        while not caller.buffer:
            assert time.monotonic() - began < PATIENCE_S
            caller.send(b"x")
            try:
                caller.fill()
            except TimeoutError:
                continue
        assert caller.read_answer().status == 408


def test_a_connection_that_sends_nothing_is_closed_without_a_word(start_proxy: StartProxy) -> None:
    proxy = start_proxy(timeouts={"idle_ms": 100, "header_ms": 60_000})
    with proxy.call() as fresh, takes_at_least(SHORT_S):
        assert fresh.has_ended()
    with proxy.call() as used:
        used.send(request())
        assert used.read_answer().status == 200
        with takes_at_least(SHORT_S):
            assert used.has_ended()
    assert [s.status for s in proxy.wait_counted(1)] == [200], "an idle connection is no request"


def test_an_upstream_that_does_not_take_the_connection(start_proxy: StartProxy) -> None:
    """A listener with a full backlog: the kernel drops what asks further."""
    proxy = start_proxy(timeouts={"connect_ms": 100})
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        proxy.publish_endpoints(up=[{"address": f"127.0.0.1:{full.getsockname()[1]}"}])
        with takes_at_least(SHORT_S):
            got = proxy.fetch(host="up", outbound=True)
        assert (got.status, got.get("x-pannier-reason")) == (503, "UF")
        assert b"in time" in got.body


def test_an_upstream_that_does_not_answer(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"request_ms": 100})
    asked = threading.Event()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.read_to_end()
        asked.set()

    origin.converse = converse
    with proxy.call() as caller:
        for _ in range(2):
            asked.clear()
            with takes_at_least(SHORT_S):
                caller.send(request())
                got = caller.read_answer()
            assert (got.status, got.get("x-pannier-reason")) == (504, "UT")
            assert asked.wait(PATIENCE_S), "its connection is ended, since its answer may still come"
    assert origin.connections == 2


def test_the_timeout_of_an_answer_begins_with_the_requests_end(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"request_ms": 150})
    with proxy.call() as caller:
        caller.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        origin.wait(lambda: origin.connections == 1)
        began = time.monotonic()
        while time.monotonic() - began < 0.4:
            caller.send(chunk(b"x" * 1000))
            caller.socket.settimeout(0.05)
            try:
                caller.fill()
            except TimeoutError:
                continue
        caller.socket.settimeout(PATIENCE_S)
        caller.send(chunk(b""))
        assert caller.read_answer().status == 200


def test_a_request_body_that_stalls_is_answered_408(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"idle_ms": 100, "header_ms": 1000})
    with proxy.call() as caller, takes_at_least(SHORT_S):
        caller.send(request("/", "Content-Length: 10", method="POST") + b"half")
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason"), got.get("connection")) == (408, "DT", "close")
        assert caller.has_ended()
    origin.wait(lambda: origin.ended == 1)
    assert origin.requests == []


def test_an_answer_that_stalls_is_cut(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"idle_ms": 100})

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request())
        assert caller.read_head().status == 200
        assert caller.read(4) == b"half"
        with takes_at_least(SHORT_S / 2):
            try:
                assert caller.has_ended()
            except Ended:
                raise AssertionError from None
    (series,) = proxy.wait_counted(1)
    assert series.flag == "UT"


def test_a_caller_that_stops_reading_is_cut(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"idle_ms": 100})
    done = threading.Event()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        try:
            wire.send(answer(bytes(64 << 20)))
        finally:
            done.set()

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request())
        assert done.wait(PATIENCE_S)
        (series,) = proxy.wait_counted(1)
        assert series.flag == "DC"


def test_a_stalled_caller_of_http_1_0_does_not_see_an_end(start_proxy: StartProxy, origin: Origin) -> None:
    """To it the connection's end is the answer's, so what it missed must be missed by a reset."""
    proxy = start_proxy(timeouts={"idle_ms": 100})

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(bytes(64 << 20)) + chunk(b""))

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request(version="1.0"))
        (series,) = proxy.wait_counted(1)
        assert (series.status, series.flag) == (200, "DC")
        with pytest.raises(ConnectionError):
            caller.read_to_end()


def test_nothing_is_late_while_nothing_is_slow(start_proxy: StartProxy, origin: Origin) -> None:
    """All timeouts at once, each longer than its step takes but shorter than all steps together."""
    proxy = start_proxy(timeouts={"header_ms": 400, "idle_ms": 400, "connect_ms": 400, "request_ms": 400})

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            assert not pause.wait(0.1)
            wire.send(chunk(b"x"))
        wire.send(chunk(b""))

    origin.converse, pause = converse, threading.Event()
    with takes_at_least(0.8):
        assert proxy.fetch().body == b"x" * 8
