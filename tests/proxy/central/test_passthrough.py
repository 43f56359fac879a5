"""The way in for a Central: who is let in to the app, and that its bytes pass as they are."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import CONTROL, INBOUND, OUTBOUND, PASS_THROUGH, Preface, dial, is_accepted
from tests.proxy.origin import Origin, pattern
from tests.proxy.process import wait_until
from tests.proxy.wire import Wire, answer, request

OURS = Preface(PASS_THROUGH, hops=1)
#: Where Centrals are, and where nobody is.
CENTRAL, STRANGER = "127.0.0.3", "127.0.0.4"


@pytest.fixture
def lent(start_host: StartMeshed) -> Meshed:
    """A host that knows a Central at an address from which nothing was ever granted."""
    return start_host(addresses=[f"{CENTRAL}:9"], inbound=True)


def enter(host: Meshed, preface: Preface = OURS, **how: Any) -> Wire:
    return dial(host.door, preface.encode(), **{"source": CENTRAL} | how)


def test_a_central_reaches_the_app_and_nobody_governs(lent: Meshed, origin: Origin) -> None:
    lent.publish_headers({"direction": "inbound", "request": {"set": {"x-governed": "1"}}})
    lent.publish_telemetry()
    with enter(lent) as wire:
        assert is_accepted(wire)
        for target in ("/a", "/b"):
            wire.send(request(target, "X-Odd:  a", host="whatever"))
            assert wire.read_answer().body == b"hello"
    assert [message.fields for message in origin.requests] == [(("Host", "whatever"), ("X-Odd", "a"))] * 2
    assert origin.connections == 1
    wait_until(lambda: origin.ended == 1)
    assert lent.requests_counted() == 0


def send_all(wire: Wire, data: bytes) -> None:
    """Sends it, and ends our side."""
    wire.send(data)
    wire.finish()


def test_bytes_pass_both_ways_and_ends_with_them(lent: Meshed, origin: Origin) -> None:
    body = pattern(2 << 20)

    def converse(_: Origin, wire: Wire) -> None:
        sender = threading.Thread(target=wire.send, args=(body[::-1],))
        sender.start()
        assert wire.read_to_end() == body
        sender.join()
        wire.send(b"end")

    origin.converse = converse
    with enter(lent) as wire:
        assert is_accepted(wire)
        sender = threading.Thread(target=send_all, args=(wire, body))
        sender.start()
        assert wire.read_to_end() == body[::-1] + b"end"
        sender.join()


def test_a_request_that_comes_with_the_preface_is_not_lost(lent: Meshed, origin: Origin) -> None:
    with dial(lent.door, OURS.encode() + request("/at-once"), source=CENTRAL) as wire:
        assert is_accepted(wire)
        assert wire.read_answer().status == 200
    assert origin.only.target == "/at-once"


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({}, STRANGER),
    ({"service": "stock"}, CENTRAL),
    ({"instance": "two"}, CENTRAL),
    *(({"role": role}, CENTRAL) for role in (CONTROL, OUTBOUND, INBOUND)),
]


def test_nobody_else_does(lent: Meshed, origin: Origin) -> None:
    for changes, source in OTHERS:
        with enter(lent, replace(OURS, **changes), source=source) as wire:
            assert not is_accepted(wire), (changes, source)
    assert origin.connections == 0


def test_a_request_without_a_preface_does_not(lent: Meshed, origin: Origin) -> None:
    for begin in (request(), b"\r\n\r\nno", b"\x16\x03\x01\x00\x05hello"):
        with dial(lent.door, begin, source=CENTRAL) as wire:
            assert not is_accepted(wire)
    assert origin.connections == 0


def test_an_app_that_is_gone_is_an_end(lent: Meshed, origin: Origin) -> None:
    origin.refuse()
    with enter(lent) as wire:
        assert not is_accepted(wire)


def test_an_app_that_goes_ends_it(lent: Meshed, origin: Origin) -> None:
    origin.answer = lambda _: answer()[:-2]
    with enter(lent) as wire:
        assert is_accepted(wire)
        wire.send(request())
        wire.read_until(b"hel")
        origin.cut()
        assert wire.has_ended()


def test_without_a_central_mesh_nobody_does(lent: Meshed, origin: Origin) -> None:
    lent.withdraw("central")
    with enter(lent) as wire:
        assert not is_accepted(wire)
    assert origin.connections == 0


def test_a_drain_waits_for_what_is_under_way(lent: Meshed, origin: Origin) -> None:
    gate = threading.Event()

    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_request())
        assert gate.wait(10)
        wire.send(answer())
        wire.read_to_end()

    origin.converse = converse
    with enter(lent) as wire:
        assert is_accepted(wire)
        wire.send(request())
        origin.wait_requests(1)
        with lent.call() as idle:
            lent.publish_base(lifecycle="draining")
            assert idle.has_ended()
        gate.set()
        assert wire.read_answer().status == 200
    lent.wait_notified("PANNIER_DRAINED=1")
