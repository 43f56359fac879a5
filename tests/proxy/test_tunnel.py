"""After 101 a connection belongs to another protocol; before, and without it, to HTTP alone."""

from __future__ import annotations

import threading

import pytest

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Wire, answer, request

ASK = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


def echo(origin: Origin, wire: Wire) -> None:
    """Switches, greets in the same packet, then says everything back in capitals."""
    origin.take(wire.read_request())
    wire.send(SWITCH + b"hi;")
    while wire.buffer or wire.fill():
        wire.send(bytes(wire.buffer).upper())
        wire.buffer.clear()
    wire.send(b"bye;")


def test_a_tunnel_carries_bytes_both_ways_to_its_end(proxy: Proxy, origin: Origin) -> None:
    origin.converse = echo
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        head = caller.read_answer()
        assert (head.status, head.get("upgrade"), head.get("connection")) == (101, "websocket", "upgrade")
        assert head.get("sec-websocket-accept") == "x"
        assert caller.read(3) == b"hi;"
        for word in (b"one\r\n\r\n", b"\0\xff" * 10_000):
            caller.send(word)
            assert caller.read(len(word)) == word.upper()
        caller.finish()
        assert caller.read_to_end() == b"bye;", "each side ends for itself"
    sent = origin.only
    assert (sent.get("connection"), sent.get("upgrade")) == ("upgrade", "websocket")
    assert sent.get("sec-websocket-key") == "dGhlIHNhbXBsZSBub25jZQ=="
    (series,) = proxy.wait_counted(1)
    assert (series.status, series.count) == (101, 1)
    assert series.request_bytes > 20_000 < series.response_bytes


def test_a_tunnel_stays_open_beyond_the_timeouts_of_requests(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_base(timeouts={"idle_ms": 60, "request_ms": 60, "header_ms": 60})
    origin.converse = echo
    with proxy.call() as caller, proxy.call() as idle:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
        assert idle.has_ended(), "so long has passed"
        caller.send(b"still")
        assert caller.read(8) == b"hi;STILL"


def test_the_end_of_either_side_ends_the_tunnel(proxy: Proxy, origin: Origin) -> None:
    origin.converse = echo
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
    origin.wait(lambda: origin.ended == 1)
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
        origin.cut()
        caller.finish()
        caller.read_to_end()


def test_a_tunnel_that_is_reset_keeps_its_byte_counts(proxy: Proxy, origin: Origin) -> None:
    arrived = threading.Event()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(SWITCH + b"z" * 3000)
        wire.read(5000)
        arrived.set()
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
        assert len(caller.read(3000)) == 3000
        caller.send(b"a" * 5000)
        assert arrived.wait(10)
        caller.reset()
    (series,) = proxy.wait_counted(1)
    assert (series.status, series.count) == (101, 1)
    assert 5000 < series.request_bytes < 6000
    assert 3000 < series.response_bytes < 4000
    origin.wait(lambda: origin.ended == 1)


def test_an_origin_that_ends_its_side_goes_on_listening(proxy: Proxy, origin: Origin) -> None:
    heard = []

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(SWITCH + b"bye;")
        wire.finish()
        heard.append(wire.read_to_end())

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
        assert caller.read_to_end() == b"bye;"
        for word in (b"still ", b"talking"):
            caller.send(word)
        caller.finish()
        origin.wait(lambda: origin.ended == 1)
    assert heard == [b"still talking"]


def test_bytes_before_101_are_only_tunnelled_after_it(proxy: Proxy, origin: Origin) -> None:
    """They were sent in the hope of a tunnel; if there is one they belong to it, and nobody saw them before."""
    seen_early = []

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        seen_early.append(bytes(wire.buffer))
        wire.send(SWITCH)
        wire.send(wire.read(5).upper())

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK) + b"early")
        assert caller.read_answer().status == 101
        assert caller.read_to_end() == b"EARLY"
    assert seen_early == [b""]


def test_an_upgrade_that_is_refused_leaves_http(proxy: Proxy, origin: Origin) -> None:
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK) + request("/next"))
        assert [caller.read_answer().status for _ in range(2)] == [200, 200]
    assert [r.target for r in origin.requests] == ["/chat", "/next"]
    assert origin.requests[1].get("upgrade") is None


def test_what_follows_a_refused_upgrade_is_never_tunnelled(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"no", status="403 Forbidden")
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK) + b"\x81\x05hello no request at all\r\n\r\n")
        assert caller.read_answer().status == 403
        assert caller.read_answer().status == 400
        assert caller.has_ended()
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        ("Upgrade: websocket",),
    ],
)
def test_an_upgrade_that_is_not_offered_or_not_asked_for_is_left_out(
    proxy: Proxy, origin: Origin, fields: tuple[str, ...]
) -> None:
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(request("/", *fields))
            assert caller.read_answer().status == 200
    assert not origin.requests[0].names & {"connection", "upgrade", "http2-settings"}


def test_an_upgrade_with_a_body_is_an_ordinary_request(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(r.body)
    assert proxy.fetch("/", *ASK, method="POST", body=b"abc").body == b"abc"
    assert origin.only.get("upgrade") is None


def test_an_upgrade_that_nobody_asked_for_is_refused(proxy: Proxy, origin: Origin) -> None:
    done = threading.Event()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(SWITCH + b"tunnelled")
        wire.read_to_end()
        done.set()

    origin.converse = converse
    got = proxy.fetch()
    assert (got.status, got.get("x-pannier-reason")) == (502, "UPE")
    assert done.wait(10), "the upstream's connection is ended"


@pytest.mark.parametrize("switch", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
def test_a_switch_to_a_protocol_that_was_not_asked_for_is_refused(proxy: Proxy, origin: Origin, switch: bytes) -> None:
    origin.answer = lambda _: b"HTTP/1.1 101 Switching Protocols\r\n" + switch + b"\r\n"
    with proxy.call() as caller:
        caller.send(request("/chat", *ASK))
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason")) == (502, "UPE")


def test_a_tunnel_outlives_the_beginning_of_a_drain(proxy: Proxy, origin: Origin) -> None:
    origin.converse = echo
    with proxy.call() as caller, proxy.call() as idle:
        caller.send(request("/chat", *ASK))
        assert caller.read_answer().status == 101
        assert caller.read(3) == b"hi;"
        proxy.publish_base(lifecycle="draining")
        assert idle.has_ended(), "the drain is on its way"
        caller.send(b"still")
        assert caller.read(5) == b"STILL"
        caller.finish()
        assert caller.read_to_end() == b"bye;"
    proxy.wait_notified("PANNIER_DRAINED=1")
