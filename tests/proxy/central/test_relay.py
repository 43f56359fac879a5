"""Connections of the app that leave: their bytes, their order, and what becomes of them if no Central answers."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt

import pytest

from tests.proxy.central.conftest import Meshed
from tests.proxy.central.peers import Central, granting
from tests.proxy.origin import Converse, Origin, pattern
from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S, Ended, Wire, answer, request

AWAY = answer(b"away", "X-By: central")


@pytest.fixture(autouse=True)
def _marked(central: Central) -> None:
    central.answer = lambda _: AWAY


def ask(wire: Wire, *fields: str, method: str = "GET", target: str = "/") -> str:
    """Who answers a request: a Central, or the origin itself."""
    wire.send(request(target, *fields, host="up", method=method, body=b"x" if method == "POST" else None))
    got = wire.read_answer(method)
    assert got.status == 200
    return got.get("x-by") or "origin"


def saying(expected: bytes, answers: bytes) -> tuple[Converse, list[bytes]]:
    """A Central that reads so many bytes, then says these; and what it has read."""
    read: list[bytes] = []

    def converse(_: Origin, wire: Wire) -> None:
        read.append(wire.read(len(expected)))
        wire.send(answers)
        wire.read_to_end()

    return converse, read


def test_a_connection_leaves_between_two_requests_byte_for_byte(host: Meshed, central: Central, origin: Origin) -> None:
    sent = (
        b"POST /a?b=%20c HTTP/1.1\r\nhOsT: up\r\nX-Odd:  two  spaces \r\ncOnTent-length: 5\r\n"
        b"Connection: keep-alive\r\nTE: trailers\r\nX-Empty:\r\n\r\nbody1"
        b"GET /next HTTP/1.1\r\nHost: up\r\n\r\nPOST /half HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nha"
    )
    rest = b"lf"
    answers = (
        b"HTTP/1.1 200 Fine\r\nX-oDD:   a \r\nTransfer-Encoding: chunked\r\n\r\n2;e=1\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"
    )
    central.serve, read = saying(sent + rest, answers)
    with host.call(outbound=True) as wire:
        assert ask(wire) == "origin"
        host.force(100.0)
        wire.send(sent)
        wire.send(rest)
        assert wire.read(len(answers)) == answers
        wire.finish()
        assert wire.read_to_end() == b""
    assert read == [sent + rest]
    assert len(origin.requests) == 1


def test_much_passes_both_ways_at_once(host: Meshed, central: Central) -> None:
    body = pattern(4 << 20)
    got: list[bytes] = []

    def converse(_: Origin, wire: Wire) -> None:
        wire.read_head()
        sender = threading.Thread(target=wire.send, args=(answer(body[::-1]),))
        sender.start()
        got.append(wire.read(len(body)))
        sender.join()

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        sender = threading.Thread(target=wire.send, args=(request(host="up", method="PUT", body=body),))
        sender.start()
        assert wire.read_answer().body == body[::-1]
        sender.join()
    wait_until(lambda: got == [body])


def test_an_upgrade_passes(host: Meshed, central: Central) -> None:
    def converse(_: Origin, wire: Wire) -> None:
        assert wire.read_head().get("upgrade") == "websocket"
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        while True:
            wire.send(wire.read(4).upper())

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request("/ws", "Connection: Upgrade", "Upgrade: websocket", host="up"))
        assert wire.read_head().status == 101
        assert wire.read(5) == b"first"
        host.force(0.0)
        for word in (b"ping", b"pong"):
            wire.send(word)
            assert wire.read(4) == word.upper()


def test_who_ends_his_side_is_answered_all_the_same(host: Meshed, central: Central) -> None:
    ended = threading.Event()

    def converse(_: Origin, wire: Wire) -> None:
        wire.read_request()
        assert wire.read_to_end() == b""
        ended.set()
        wire.send(AWAY)

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request(host="up"))
        wire.finish()
        assert ended.wait(PATIENCE_S)
        assert wire.read_answer().get("x-by") == "central"
        assert wire.read_to_end() == b""


def test_a_caller_that_is_gone_ends_it_there_too(host: Meshed, central: Central) -> None:
    host.force(100.0)
    for leave in (Wire.close, Wire.reset):
        before = central.ended
        with host.call(outbound=True) as wire:
            assert ask(wire) == "central"
            leave(wire)
            central.wait(lambda: central.ended > before)  # noqa: B023


# --- which ----------------------------------------------------------------------------------------------------------

CRITICAL, SHEDDABLE = "X-Pannier-Criticality: critical", "X-Pannier-Criticality: sheddable"
#: What leaves last comes first: method, fields, and the share of it at a weight of 40.
ORDER = [
    ("POST", (CRITICAL,), 1 - 0.6 ** (1 / 4)),
    ("GET", (CRITICAL,), 1 - 0.6 ** (1 / 3)),
    ("POST", (), 1 - sqrt(0.6)),
    ("GET", (), 0.4),
    ("POST", (SHEDDABLE,), 0.4),
    ("GET", (SHEDDABLE,), sqrt(0.4)),
]
CONNECTIONS = 400


def test_of_connections_a_share_leaves_and_the_least_critical_first(host: Meshed) -> None:
    """Each stands at one place in the order: what may leave of it is a matter of what it carries."""
    host.force(40.0)
    away: Counter[int] = Counter()
    for _ in range(CONNECTIONS):
        with host.call(outbound=True) as wire:
            by = [ask(wire, *fields, method=method) for method, fields, _ in ORDER]
        assert by == sorted(by, reverse=True), "who has left does not come back by himself"
        away.update(at for at, who in enumerate(by) if who == "central")
    for at, (method, fields, share) in enumerate(ORDER):
        spread = 5 * sqrt(CONNECTIONS * share * (1 - share))
        assert abs(away[at] - CONNECTIONS * share) <= spread, (method, fields, share, away[at])
    assert away[3] == away[4], "these two are one class"


def test_at_no_weight_nothing_leaves_and_at_all_of_it_everything(host: Meshed) -> None:
    for weight, expected in ((0.0, "origin"), (100.0, "central"), (0.0, "origin")):
        host.force(weight)
        for method, fields, _ in ORDER:
            with host.call(outbound=True) as wire:
                assert ask(wire, *fields, method=method) == expected


def test_what_is_answered_here_does_not_leave(host: Meshed, central: Central) -> None:
    host.force(100.0)
    assert host.fetch(host="nobody", outbound=True).status == 404
    with host.call(outbound=True) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: up\r\nBad Name: 1\r\n\r\n")
        assert wire.read_answer().status == 400
    assert host.fetch().get("x-by") is None, "calls of the app itself stay, whatever the weight"
    assert central.requests == []


# --- a Central that does not answer ---------------------------------------------------------------------------------


def hang_up(origin: Origin, wire: Wire) -> None:
    """Takes a request, and ends."""
    origin.take(wire.read_request())


def hang_up_by_reset(origin: Origin, wire: Wire) -> None:
    """The same, by a reset."""
    hang_up(origin, wire)
    wire.reset()


ENDS = pytest.mark.parametrize("end", [hang_up, hang_up_by_reset])


@ENDS
def test_what_may_be_repeated_is_served_here_when_a_central_ends(
    host: Meshed, central: Central, origin: Origin, end: Converse
) -> None:
    central.serve = end
    host.force(100.0)
    host.publish_telemetry()
    with host.call(outbound=True) as wire:
        for turn in range(3):
            assert ask(wire, target=f"/{turn}") == "origin"
    assert [message.target for message in origin.requests] == ["/0", "/1", "/2"]
    lines, _ = host.drain(3)
    assert [line["status"] for line in lines] == [200] * 3


@ENDS
def test_what_may_have_happened_is_not_repeated(host: Meshed, central: Central, origin: Origin, end: Converse) -> None:
    central.serve = end
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request(host="up", method="POST", body=b"once"))
        assert wire.has_ended()
    assert len(central.requests) == 1
    assert origin.requests == []


@ENDS
def test_what_was_sent_along_with_it_is_not_repeated_with_it(
    host: Meshed, central: Central, origin: Origin, end: Converse
) -> None:
    """The first may have been answered, on a way that was cut, and the second begun."""

    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_request())
        end(there, wire)

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request("/first", host="up") + request("/once", host="up", method="POST", body=b"x"))
        central.wait_requests(2)
        host.force(0.0)
        try:
            wire.read_answer()
        except (Ended, ConnectionError):
            pass
        else:
            assert wire.has_ended()
    assert [message.method for message in central.requests] == ["GET", "POST"]
    assert "POST" not in [message.method for message in origin.requests]


@ENDS
def test_a_body_is_repeated_only_if_it_is_still_here(
    host: Meshed, central: Central, origin: Origin, end: Converse
) -> None:
    host.force(100.0)
    central.serve = end
    with host.call(outbound=True) as wire:
        wire.send(request("/whole", host="up", method="PUT", body=b"again"))
        assert wire.read_answer().status == 200
    assert (origin.only.target, origin.only.body) == ("/whole", b"again")
    begun = threading.Event()

    def converse(_: Origin, wire: Wire) -> None:
        wire.read_head()
        begun.set()
        wire.read(5)
        if end is hang_up_by_reset:
            wire.reset()

    central.serve = converse
    with host.call(outbound=True) as wire:
        head, body = request("/parts", host="up", method="PUT", body=b"again")[:-5], b"again"
        wire.send(head)
        assert begun.wait(PATIENCE_S)
        wire.send(body)
        assert wire.has_ended()
    assert len(origin.requests) == 1


@ENDS
def test_the_second_answer_missing_is_an_end(host: Meshed, central: Central, origin: Origin, end: Converse) -> None:
    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_request())
        wire.send(AWAY)
        end(there, wire)

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        assert ask(wire) == "central"
        wire.send(request(host="up"))
        assert wire.has_ended()
    assert origin.requests == []


def test_an_answer_that_is_cut_by_a_reset_is_no_clean_end(host: Meshed, central: Central) -> None:
    """One without a length would be taken for whole."""
    gate = threading.Event()

    def converse(_: Origin, wire: Wire) -> None:
        wire.read_request()
        wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
        assert gate.wait(PATIENCE_S)
        wire.reset()

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request(host="up"))
        wire.read_head()
        assert wire.read(4) == b"half"
        gate.set()
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()


def test_an_end_that_a_central_means_is_a_clean_one(host: Meshed, central: Central) -> None:
    def converse(_: Origin, wire: Wire) -> None:
        wire.read_request()
        wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole")

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request(host="up"))
        assert wire.read_answer().body == b"whole"


def test_a_central_that_refuses_connections_is_gone_round(host: Meshed, central: Central, origin: Origin) -> None:
    """Also for what must not be repeated, since nothing was sent."""
    central.accepts = lambda preface: preface.role == b"c"
    host.force(100.0)
    for method in ("POST", "GET") * 4:
        with host.call(outbound=True) as wire:
            assert ask(wire, method=method) in ("origin", "central")
    assert len(origin.requests) + len(central.requests) == 8
    assert len(central.requests) <= 1, "but for the one connection that was ready"


def test_a_central_that_is_silent_is_lost_and_what_is_there_with_it(
    host: Meshed, central: Central, origin: Origin
) -> None:
    released = threading.Event()

    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_request())
        released.wait(PATIENCE_S)

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as repeatable, host.call(outbound=True) as other:
        repeatable.send(request("/again", host="up"))
        other.send(request("/once", host="up", method="POST", body=b"x"))
        central.wait_requests(2)
        central.grant = lambda _: None
        host.wait_state(lambda state: state.weight == 0.0)
        assert repeatable.read_answer().status == 200
        assert other.has_ended()
        released.set()
    assert [message.target for message in origin.requests] == ["/again"]


# --- what is under way when it ends ---------------------------------------------------------------------------------


def test_what_has_left_stays_there_when_nothing_may_leave_any_more(host: Meshed, central: Central) -> None:
    host.force(100.0)
    with host.call(outbound=True) as wire:
        assert ask(wire) == "central"
        central.grant = granting(0.0)
        state = host.wait_state(lambda state: state.weight == 0.0)
        assert (state.reason, state.way) == ("no-tokens", "none")
        assert ask(wire) == "central"
        with host.call(outbound=True) as new:
            assert ask(new) == "origin"
        assert ask(wire) == "central"


def test_a_link_that_ends_takes_nothing_with_it(host: Meshed, central: Central) -> None:
    host.force(100.0)
    with host.call(outbound=True) as wire:
        assert ask(wire) == "central"
        central.cut_links()
        wait_until(lambda: central.links == 2)
        assert ask(wire) == "central"


@contextmanager
def holding(central: Central) -> Iterator[threading.Event]:
    """A Central that answers `/held` only once the event is set, which it is at the end at the latest."""
    released = threading.Event()

    def converse(there: Origin, wire: Wire) -> None:
        while True:
            if there.take(wire.read_request()).target == "/held":
                assert released.wait(PATIENCE_S)
            wire.send(AWAY)

    central.serve = converse
    try:
        yield released
    finally:
        released.set()


def test_a_drain_waits_for_what_a_central_has_not_answered_yet(host: Meshed, central: Central) -> None:
    host.force(100.0)
    with (
        holding(central) as released,
        host.call(outbound=True) as busy,
        host.call(outbound=True) as large,
        host.call(outbound=True) as idle,
    ):
        busy.send(request("/held", host="up"))
        large.send(request("/held", host="up", method="POST", body=b"x"))
        central.wait_requests(2)
        assert ask(idle) == "central"
        host.publish_base(lifecycle="draining")
        state = host.wait_state(lambda state: state.weight == 0.0)
        assert state.state == "local"
        assert idle.read_to_end() == b"", "a clean end, as of any connection that is idle"
        released.set()
        for wire in (busy, large):
            assert wire.read_answer().get("x-by") == "central"
    host.wait_notified("PANNIER_DRAINED=1")


def test_a_drain_waits_for_the_rest_of_an_answer(host: Meshed, central: Central) -> None:
    """Also where the answer makes a pause that is longer than an idle connection is kept in a drain."""
    released = threading.Event()

    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_request())
        wire.send(AWAY[:-2])
        if there.requests[-1].target == "/held":
            assert released.wait(PATIENCE_S)
        wire.send(AWAY[-2:])
        wire.read_to_end()

    central.serve = converse
    host.force(100.0)
    with host.call(outbound=True) as busy, host.call(outbound=True) as idle:
        busy.send(request("/held", host="up"))
        busy.read_head()
        assert ask(idle) == "central"
        host.publish_base(lifecycle="draining")
        try:
            assert idle.has_ended()
        finally:
            released.set()
        assert busy.read(4) == b"away"


def test_a_soft_stop_gives_back_the_link_and_waits_for_what_is_under_way(host: Meshed, central: Central) -> None:
    host.force(100.0)
    with holding(central) as released, host.call(outbound=True) as busy, host.call(outbound=True) as idle:
        busy.send(request("/held", host="up"))
        central.wait_requests(1)
        assert ask(idle) == "central"
        os.kill(host.pid, signal.SIGUSR1)
        wait_until(lambda: central.linked == 0)
        released.set()
        assert busy.read_answer().get("x-by") == "central"
        assert ask(idle) == "central"


def test_many_connections_come_and_go_while_the_weight_does(host: Meshed, central: Central, origin: Origin) -> None:
    """Nothing is lost and nothing twice: each request is numbered."""
    done = threading.Event()
    lost: list[str] = []

    def load(who: int) -> None:
        turn = 0
        while not done.is_set():
            with host.call(outbound=True) as wire:
                for _ in range(20):
                    method = ("GET", "POST")[turn % 2]
                    try:
                        ask(wire, method=method, target=f"/{who}/{turn}")
                    except Exception as error:
                        lost.append(f"{who}/{turn}: {error!r}")
                    turn += 1

    threads = [threading.Thread(target=load, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    try:
        for weight in (100.0, 0.0, 50.0, 100.0, 10.0, 0.0):
            host.force(weight)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert lost == []
    times = Counter(message.target for message in central.requests + origin.requests)
    assert set(times.values()) == {1}
    assert central.requests
    assert origin.requests
