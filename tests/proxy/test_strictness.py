"""What could be read in two ways is refused: at the door for callers, as 502 for upstreams.

A refusal closes the connection, reaches no origin, is counted once, and disturbs nobody else.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Wire, answer, chunk, request

HOST = b"Host: localhost\r\n"
POST = b"POST /victim HTTP/1.1\r\n" + HOST
GET = b"GET /victim HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

AMBIGUOUS: dict[str, bytes] = {
    # lengths
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a fractional length": POST + b"Content-Length: 5.0\r\n\r\nhello",
    "an empty length": POST + b"Content-Length: \r\n\r\nhello",
    "a length that overflows": POST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "a length with a space inside": POST + b"Content-Length: 5 5\r\n\r\nhello",
    "an alias of the length": POST + b"Content_Length: 5\r\n\r\nhello",
    "an alias of the coding": POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    # codings
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks on HTTP/1.0": b"POST /victim HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # lines
    "a folded field": GET + b"X-A: b\r\n c\r\n\r\n",
    "a folded first field": b"GET / HTTP/1.1\r\n X: y\r\n" + HOST + b"\r\n",
    "a space before the colon": GET + b"X-A : b\r\n\r\n",
    "a tab before the colon": POST + b"Content-Length\t: 5\r\n\r\nhello",
    "a name with a space": GET + b"X A: b\r\n\r\n",
    "an empty name": GET + b": b\r\n\r\n",
    "a line without a colon": GET + b"nonsense\r\n\r\n",
    "a bare LF after a field": GET + b"X-A: b\n\r\n",
    "a bare LF after the request line": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "a bare LF at the end": GET + b"X-A: b\r\n\n",
    "a bare CR in a value": GET + b"X-A: b\rContent-Length: 5\r\n\r\n",
    "a NUL in a value": GET + b"X-A: b\0c\r\n\r\n",
    "a NUL in a name": GET + b"X\0A: b\r\n\r\n",
    "a control character in a value": GET + b"X-A: b\x1bc\r\n\r\n",
    "a byte that is no token in a name": GET + b"X-\xc3\xa4: b\r\n\r\n",
    "an empty line instead of a request": b"\r\n\r\n" + GET + b"\r\n",
    # request lines
    "no version": b"GET /victim\r\n" + HOST + b"\r\n",
    "two spaces": b"GET  /victim HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab for a space": b"GET\t/victim HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space after the version": b"GET /victim HTTP/1.1 \r\n" + HOST + b"\r\n",
    "a method that is no token": b"GE(T /victim HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target that is no path": b"GET victim HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a fragment": b"GET /victim#a HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target beyond ASCII": b"GET /vict\xc3\xadm HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target of another scheme": b"GET https://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without an authority": b"GET http:///victim HTTP/1.1\r\n" + HOST + b"\r\n",
    "a star for a GET": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "not HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    # authorities
    "no Host": b"GET /victim HTTP/1.1\r\n\r\n",
    "two Hosts": GET + HOST + b"\r\n",
    "two different Hosts": GET + b"Host: evil\r\n\r\n",
    "a Host with user info": b"GET /victim HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
    "a Host with a path": b"GET /victim HTTP/1.1\r\nHost: localhost/x\r\n\r\n",
    "a Host with two ports": b"GET /victim HTTP/1.1\r\nHost: localhost:80:80\r\n\r\n",
    "a Host with a space": b"GET /victim HTTP/1.1\r\nHost: local host\r\n\r\n",
    "a Host with a port out of range": b"GET /victim HTTP/1.1\r\nHost: localhost:65536\r\n\r\n",
    "a Host with a path beside an absolute target": b"GET http://localhost/ HTTP/1.1\r\nHost: localhost/x\r\n\r\n",
    "a target with user info": b"GET http://a@localhost/ HTTP/1.1\r\n" + HOST + b"\r\n",
    # chunks
    "a chunk size that is no number": CHUNKED + b"x\r\n",
    "a signed chunk size": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with a prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk size after a space": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that overflows": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a chunk size of many zeros": CHUNKED + b"0" * 64 + b"5\r\nhello\r\n0\r\n\r\n",
    "a bare LF after a chunk size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "a bare LF in an extension": CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a bare CR in an extension": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a bare LF after a chunk": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "a malformed trailer": CHUNKED + b"0\r\nX A: b\r\n\r\n",
    "a length among the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "a coding among the trailers": CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a bare LF after a trailer": CHUNKED + b"0\r\nX: y\n\r\n",
    "a folded trailer": CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n",
}

OVER_LIMITS: dict[str, tuple[int, bytes]] = {
    "101 fields": (431, GET + b"".join(b"X-%d: y\r\n" % i for i in range(100)) + b"\r\n"),
    "one field too large": (431, GET + b"X: " + b"y" * (70 << 10) + b"\r\n\r\n"),
    "many fields too large": (431, GET + b"".join(b"X: %s\r\n" % (b"y" * 1000) for _ in range(72)) + b"\r\n"),
    "a field that does not end": (431, GET + b"X: " + b"y" * (128 << 10)),
    "a target too long": (414, b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target that does not end": (414, b"GET /" + b"a" * (100 << 10)),
    "chunk extensions too large": (431, CHUNKED + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 17 + b"0\r\n\r\n"),
    "trailers too large": (431, CHUNKED + b"0\r\n" + b"X: y\r\n" * 99 + b"Y: " + b"z" * (17 << 10) + b"\r\n\r\n"),
    "101 trailers": (431, CHUNKED + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"),
    "a coding that nobody knows": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in disguise": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked not at the end": (501, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "an unknown expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"),
    "CONNECT": (501, b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "HTTP/2 by prior knowledge": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a space in the target": (400, b"GET /vic tim HTTP/1.1\r\n" + HOST + b"\r\n"),
    "HTTP/1.2": (505, b"GET /victim HTTP/1.2\r\n" + HOST + b"\r\n"),
}


@pytest.fixture
def bystander(proxy: Proxy, origin: Origin) -> Iterator[Wire]:
    """Another caller in the middle of its request; it must get its answer after all."""
    with proxy.call() as wire:
        wire.send(request("/bystander", "Content-Length: 4", method="POST") + b"ha")
        origin.wait(lambda: origin.connections == 1)
        yield wire
        wire.send(b"lf")
        assert wire.read_answer().status == 200
    assert [r.target for r in origin.requests] == ["/bystander"], "nothing else reached the origin"
    assert origin.only.body == b"half"


def assert_refused(proxy: Proxy, data: bytes, status: int, *, outbound: bool) -> None:
    with proxy.call(outbound=outbound) as caller:
        caller.send(data + request("/smuggled"))
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason"), got.get("connection")) == (status, "DPE", "close")
        assert json.loads(got.body)["status"] == status
        assert caller.has_ended()


@pytest.mark.parametrize("outbound", [False, True], ids=["inbound", "outbound"])
@pytest.mark.usefixtures("bystander")
def test_ambiguous_requests_are_refused(proxy: Proxy, outbound: bool, subtests: pytest.Subtests) -> None:
    for name, data in AMBIGUOUS.items():
        with subtests.test(name):
            before = proxy.totals("requests_malformed")
            assert_refused(proxy, data, 400, outbound=outbound)
            assert proxy.totals("requests_malformed") == before + 1


@pytest.mark.usefixtures("bystander")
def test_requests_over_a_limit_or_beyond_our_vocabulary_are_refused(proxy: Proxy, subtests: pytest.Subtests) -> None:
    for name, (status, data) in OVER_LIMITS.items():
        with subtests.test(name):
            before = proxy.totals("requests_malformed")
            assert_refused(proxy, data, status, outbound=False)
            assert proxy.totals("requests_malformed") == before + 1


@pytest.mark.parametrize(
    "data",
    [
        GET + b"".join(b"X-%d: y\r\n" % i for i in range(99)) + b"\r\n",
        GET + b"X: " + b"y" * (59 << 10) + b"\r\n\r\n",
        b"GET /" + b"a" * 8191 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        CHUNKED + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 15 + b"0\r\n\r\n",
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n",
        POST + b"Content-Length:5\r\n\r\nhello",
        POST + b"Content-Length: \t 5 \t\r\n\r\nhello",
        POST + b"transfer-ENCODING: ChunKED\r\n\r\n0\r\n\r\n",
        GET + b"X-Empty:\r\nX-Latin: \xe4\r\n\r\n",
        b"GET /%00%0d%0a?a=b|c HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_what_is_just_within_the_rules_passes(proxy: Proxy, origin: Origin, data: bytes) -> None:
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(data)
            assert caller.read_answer().status == 200
    assert len(origin.requests) == 2


def test_a_body_that_becomes_malformed_on_its_way_is_cut(proxy: Proxy, origin: Origin) -> None:
    with proxy.call() as caller:
        caller.send(CHUNKED + chunk(b"good"))
        origin.wait(lambda: origin.connections == 1)
        caller.send(b"bad\n" + request("/smuggled"))
        got = caller.read_answer()
        assert (got.status, got.get("x-pannier-reason"), got.get("connection")) == (400, "DPE", "close")
        assert caller.has_ended()
    origin.wait(lambda: origin.ended == 1)
    assert origin.requests == [], "it saw the beginning of a request that never ended"
    assert proxy.totals("requests_malformed") == 1


def test_a_body_that_becomes_malformed_within_its_answer_ends_both(proxy: Proxy, origin: Origin) -> None:
    """A status line of ours in the middle of another answer would be read as a part of it."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(answer(b"y" * 15_000))
        wire.read_to_end()

    origin.converse = converse
    with proxy.call_narrow() as caller:
        caller.send(CHUNKED + chunk(b"good"))
        assert caller.socket.recv(1, socket.MSG_PEEK) == b"H", "the answer is on its way, and does not fit"
        caller.send(b"bad\n")
        (series,) = proxy.wait_counted(1)  # to read before would make room, and let the answer end
        with pytest.raises(ConnectionError):
            caller.read_to_end()
        assert caller.buffer.count(b"HTTP/1.1") == 1
        assert caller.buffer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\ny" in caller.buffer
    assert (series.status, series.flag) == (200, "DPE")
    assert 0 < series.response_bytes < 15_000, "it was half written"


def test_a_request_after_a_good_one_is_refused_alone(proxy: Proxy, origin: Origin) -> None:
    with proxy.call() as caller:
        caller.send(request("/good") + GET + b"X : y\r\n\r\n" + request("/smuggled"))
        assert [caller.read_answer().status for _ in range(2)] == [200, 400]
        assert caller.has_ended()
    assert [r.target for r in origin.requests] == ["/good"]


def test_what_is_forwarded_is_written_anew(proxy: Proxy, origin: Origin) -> None:
    seen = []

    def converse(origin: Origin, wire: Wire) -> None:
        seen.append(wire.read_until(b"\r\n\r\n"))
        seen.append(wire.read_until(b"0\r\n\r\n"))
        wire.send(answer())

    origin.converse = converse
    odd = b"POST /a HTTP/1.1\r\nHOST:\t localhost \r\nX-Odd:   a  b \t\r\nTRANSFER-ENCODING:\tChunked\r\n\r\n"
    with proxy.call() as caller:
        caller.send(odd + b"0005 ;x=y\r\nhello\r\n00\r\n\r\n")
        assert caller.read_answer().status == 200
    lines = seen[0].split(b"\r\n")
    assert seen[1] == b"5\r\nhello\r\n0\r\n\r\n"
    assert lines[:4] == [b"POST /a HTTP/1.1", b"host: localhost", b"X-Odd: a  b", b"transfer-encoding: chunked"]


# --- upstreams -----------------------------------------------------------------------------------------------------

STATUS = b"HTTP/1.1 200 OK\r\n"

MALFORMED: dict[str, bytes] = {
    "not HTTP": b"hello\r\n\r\n",
    "another protocol": b"HTTP/2 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 Odd\r\nContent-Length: 0\r\n\r\n",
    "length and chunks": STATUS + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": STATUS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a signed length": STATUS + b"Content-Length: +5\r\n\r\nhello",
    "an alias of the length": STATUS + b"Content_Length: 5\r\n\r\nhello",
    "two codings": STATUS + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": STATUS + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks on HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded field": STATUS + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": STATUS + b"X : y\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": STATUS + b"X: y\nContent-Length: 0\r\n\r\n",
    "a bare CR that would split the answer": STATUS + b"X: y\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
    "a NUL": STATUS + b"X: y\0\r\nContent-Length: 0\r\n\r\n",
    "a bare CR in the phrase": b"HTTP/1.1 200 OK\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
    "101 fields": STATUS + b"X: y\r\n" * 101 + b"Content-Length: 0\r\n\r\n",
    "fields too large": STATUS + b"X: " + b"y" * (70 << 10) + b"\r\n\r\n",
    "a malformed first chunk": STATUS + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


def test_malformed_answers_become_502(proxy: Proxy, origin: Origin, subtests: pytest.Subtests) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        wire.send(MALFORMED[origin.take(wire.read_request()).get("x-case") or ""])
        wire.read_to_end()

    origin.converse = converse
    for name in MALFORMED:
        with subtests.test(name), proxy.call() as caller:
            before = proxy.totals("responses_malformed")
            for _ in range(2):
                caller.send(request("/", f"X-Case: {name}"))
                got = caller.read_answer()
                assert (got.status, got.get("x-pannier-reason")) == (502, "UPE")
                assert not got.names & {"x", "set-cookie"}
            assert proxy.totals("responses_malformed") == before + 2
    origin.wait(lambda: origin.ended == origin.connections)


def test_an_answer_that_becomes_malformed_on_its_way_is_cut(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(STATUS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"good"))
        assert arrived.wait(10)
        wire.send(b"4\r\nevil" + answer(b"smuggled"))
        wire.read_to_end()

    origin.converse, arrived = converse, threading.Event()
    with proxy.call() as caller:
        caller.send(request())
        assert caller.read_head().status == 200
        assert caller.read_chunk() == b"good"
        arrived.set()
        with pytest.raises(ConnectionError):
            caller.read_to_end()
        assert b"smuggled" not in caller.buffer
    (series,) = proxy.wait_counted(1)
    assert series.flag == "UPE"
    assert proxy.totals("responses_malformed") == 1


def test_a_value_cannot_split_an_answer(proxy: Proxy, origin: Origin) -> None:
    """What an app might echo of a request: every way to begin a line arrives as part of a value, or not at all."""
    for target in ("/%0d%0aSet-Cookie:evil", "/?a=%E5%98%8A%E5%98%8DSet-Cookie:evil"):
        origin.answer = lambda r: answer(b"", f"Location: {r.target}", status="302 Found")
        got = proxy.fetch(target)
        assert (got.status, got.get("location"), got.get("set-cookie")) == (302, target, None)


def test_the_fields_of_an_answer_of_our_own_cannot_be_made_up(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"", "X-Pannier-Reason: UH", "x_pannier_reason: UH", status="503 Odd")
    got = proxy.fetch(host="up", outbound=True)
    assert (got.status, got.names) == (503, {"content-length"})
