"""What goes through the proxy: complete, in order, framed anew, and without what is this hop's business only."""

from __future__ import annotations

import itertools
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import pytest

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin, pattern
from tests.proxy.process import Proxy
from tests.proxy.wire import Ended, Wire, answer, chunk, request

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# --- methods and framing -------------------------------------------------------------------------------------------


def test_a_request_and_its_answer_pass(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"body", "X-Kept: a", "x-kept: b", status="203 Some Phrase")
    got = proxy.fetch("/a/b?c=d&e=%20", "Accept: text/plain", "X-Two: 1", "X-Two: 2")
    assert (got.start, got.body) == ("HTTP/1.1 203 Some Phrase", b"body")
    assert got.all("x-kept") == ["a", "b"]
    sent = origin.only
    assert sent.start == "GET /a/b?c=d&e=%20 HTTP/1.1"
    assert (sent.get("host"), sent.get("accept"), sent.all("x-two")) == ("localhost", "text/plain", ["1", "2"])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_any_method_may_carry_a_body(proxy: Proxy, origin: Origin, method: str) -> None:
    origin.answer = lambda r: answer(r.body[::-1])
    assert proxy.fetch("/", method=method, body=b"abc").body == b"cba"
    assert (origin.only.method, origin.only.get("content-length")) == (method, "3")


def test_head_is_answered_without_a_body(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(b"") if r.method == "GET" else b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    with proxy.call() as caller:
        caller.send(request(method="HEAD") + request("/after"))
        assert caller.read_answer("HEAD").get("content-length") == "500"
        assert caller.read_answer().status == 200


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_a_body_leave_the_connections_in_place(proxy: Proxy, origin: Origin, status: str) -> None:
    origin.answer = lambda _: f"HTTP/1.1 {status}\r\nETag: a\r\n\r\n".encode()
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(request())
            got = caller.read_answer()
            assert (got.status, got.get("etag"), got.get("transfer-encoding")) == (int(status[:3]), "a", None)
    assert origin.connections == 1


def test_options_of_the_whole_server(proxy: Proxy, origin: Origin) -> None:
    assert proxy.fetch("*", method="OPTIONS").status == 200
    assert origin.only.target == "*"


def test_an_absolute_target_names_the_authority(proxy: Proxy, origin: Origin) -> None:
    assert proxy.fetch("http://SVC/a?b", host="ignored.example").status == 200
    assert (origin.only.target, origin.only.all("host")) == ("/a?b", ["SVC"])
    assert proxy.fetch("http://svc:80", host="svc").status == 200
    assert (origin.requests[1].target, origin.requests[1].get("host")) == ("/", "svc:80")


@pytest.mark.parametrize("size", [0, 1, 5000, 16384, 16385, 65536, 1 << 20])
def test_bodies_of_a_length_pass_both_ways(proxy: Proxy, origin: Origin, size: int) -> None:
    body = pattern(size)
    origin.answer = lambda r: answer(r.body)
    got = proxy.fetch(method="POST", body=body)
    assert got.body == body
    assert got.get("content-length") == str(size)
    assert origin.only.get("content-length") == str(size)
    assert origin.only.body == body


@pytest.mark.parametrize("pieces", [(), (1,), (1, 2, 3), (16384, 1, 70000), (1 << 20,)])
def test_chunks_pass_both_ways_with_their_trailers(proxy: Proxy, origin: Origin, pieces: tuple[int, ...]) -> None:
    data = [pattern(size) for size in pieces]
    coded = b"".join(map(chunk, data)) + b"0\r\nX-Sum: 7\r\nX-Other: a b\r\n\r\n"
    origin.answer = lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" + coded
    with proxy.call() as caller:
        caller.send(request("/", "Transfer-Encoding: chunked", method="POST") + coded)
        got = caller.read_answer()
        for message in (origin.only, got):
            assert message.body == b"".join(data)
            assert [(n.lower(), v) for n, v in message.trailers] == [("x-sum", "7"), ("x-other", "a b")]


def test_chunks_that_arrive_byte_by_byte_pass(proxy: Proxy, origin: Origin) -> None:
    whole = request("/", "Transfer-Encoding: chunked", method="POST") + b'5;a="b"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n'
    with proxy.call() as caller:
        caller.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in whole:
            caller.send(bytes([byte]))
        assert caller.read_answer().status == 200
    assert (origin.only.body, origin.only.trailers) == (b"hello", (("X-T", "1"),))


def test_an_answer_that_ends_with_its_connection_is_chunked_for_the_caller(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + pattern(100_000))

    origin.converse = converse
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(request())
            got = caller.read_answer()
            assert (got.get("transfer-encoding"), got.body) == ("chunked", pattern(100_000))
    assert origin.connections == 2


def test_a_large_body_moves_in_large_pieces(proxy: Proxy, origin: Origin) -> None:
    """Each piece that the proxy reads of an answer without a length becomes a chunk, so the caller sees their sizes."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(4 << 20))

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request())
        assert caller.read_head().get("transfer-encoding") == "chunked"
        sizes = [len(piece) for piece in iter(caller.read_chunk, b"")]
    assert sum(sizes) == 4 << 20
    assert max(sizes) > 32 << 10


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked", "X-None: until close"])
def test_a_truncated_answer_never_looks_whole(proxy: Proxy, origin: Origin, framing: str) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(
            f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + (chunk(b"part") if "chunked" in framing else b"part")
        )
        arrived.wait()
        wire.reset()

    origin.converse, arrived = converse, threading.Event()
    with proxy.call() as caller:
        caller.send(request())
        head = caller.read_head()
        assert head.status == 200
        if "Length" in framing:
            assert caller.read(4) == b"part"
        else:
            assert caller.read_chunk() == b"part"
        arrived.set()
        with pytest.raises((Ended, ConnectionError)):
            caller.read(1)


def test_a_truncated_answer_never_looks_whole_to_http_1_0(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"part"))
        assert arrived.wait(10)

    origin.converse, arrived = converse, threading.Event()
    with proxy.call() as caller:
        caller.send(request(version="1.0"))
        assert caller.read_head().status == 200
        assert caller.read(4) == b"part"
        arrived.set()
        with pytest.raises(ConnectionError):
            caller.read_to_end()


# --- keeping connections -------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_another(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(r.target.encode() + r.body)
    with proxy.call() as caller:
        for i in range(20):
            caller.send(request(f"/{i}", method="POST", body=pattern(i * 100)))
            got = caller.read_answer()
            assert got.body == f"/{i}".encode() + pattern(i * 100)
            assert got.get("connection") is None
    assert proxy.totals("connections_accepted") == 1


def test_pipelined_requests_are_answered_in_order(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(r.target.encode() + r.body)
    with proxy.call() as caller:
        parts = [request(f"/{i}") if i % 2 else request(f"/{i}", method="POST", body=b"x" * i) for i in range(50)]
        caller.send(b"".join(parts))
        assert [caller.read_answer().body for _ in range(50)] == [
            f"/{i}".encode() + (b"" if i % 2 else b"x" * i) for i in range(50)
        ]


def test_what_was_read_with_the_end_of_a_streamed_body_is_the_next_request(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(r.target.encode() + b"%d" % len(r.body))
    with proxy.call() as caller:
        caller.send(request("/large", method="POST", body=b"x" * 300_000) + request("/a") + request("/b"))
        answers = [caller.read_answer() for _ in range(3)]
        assert [got.body for got in answers] == [b"/large300000", b"/a0", b"/b0"]
        assert [got.get("connection") for got in answers] == [None] * 3
    assert proxy.totals("pool_reused") == 2


def in_chunks(body: bytes, random: Random) -> bytes:
    """The body in chunks of random sizes, coded."""
    coded = b""
    while body:
        size = random.randint(1, 20_000)
        coded += chunk(body[:size])
        body = body[size:]
    return coded + chunk(b"")


@pytest.mark.parametrize("seed", range(8))
def test_however_requests_arrive_each_gets_its_own_answer(proxy: Proxy, origin: Origin, seed: int) -> None:
    """In packets that end anywhere, all on one connection."""
    random = Random(seed)
    origin.answer = lambda r: answer(r.target.encode() + r.body[::-1])
    for turn in range(10):
        bodies = [random.randbytes(random.choice([0, 1, 100, 5000, 40_000])) for _ in range(5)]
        stream = b""
        for i, body in enumerate(bodies):
            if random.random() < 0.5:
                stream += request(f"/{turn}/{i}", method="POST", body=body)
            else:
                stream += request(f"/{turn}/{i}", "Transfer-Encoding: chunked", method="POST") + in_chunks(body, random)
        with proxy.call() as caller, ThreadPoolExecutor(1) as pool:
            caller.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sizes = [random.choice([1, 3, 50, 1000, 16_384, 100_000]) for _ in range(1000)]
            sending = pool.submit(send_in_pieces, caller, stream, sizes)
            for i, body in enumerate(bodies):
                got = caller.read_answer()
                assert (got.status, got.body) == (200, f"/{turn}/{i}".encode() + body[::-1])
            sending.result()


def send_in_pieces(wire: Wire, data: bytes, sizes: list[int]) -> None:
    at = 0
    with suppress(ConnectionError):
        for size in itertools.cycle(sizes):
            if at >= len(data):
                return
            wire.send(data[at : at + size])
            at += size


def test_one_empty_line_before_a_request_is_ignored(proxy: Proxy) -> None:
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(b"\r\n" + request())
            assert caller.read_answer().status == 200


def test_close_is_honoured_and_said(proxy: Proxy) -> None:
    with proxy.call() as caller:
        caller.send(request("/", "Connection: close"))
        assert caller.read_answer().get("connection") == "close"
        assert caller.has_ended()


def test_a_caller_that_ends_its_side_still_gets_its_answer(proxy: Proxy) -> None:
    with proxy.call() as caller:
        caller.send(request())
        caller.finish()
        assert caller.read_answer().body == b"hello"


@pytest.mark.parametrize("keep", [False, True])
def test_a_caller_of_http_1_0(proxy: Proxy, origin: Origin, keep: bool) -> None:
    fields = ["Connection: keep-alive"] if keep else []
    with proxy.call() as caller:
        for i in range(2 if keep else 1):
            caller.send(request("/", *fields, version="1.0", host=""))
            got = caller.read_answer()
            assert (got.body, got.get("connection")) == (b"hello", "keep-alive" if keep else "close")
            assert origin.requests[i].start == "GET / HTTP/1.1"
        assert keep or caller.has_ended()


def test_a_caller_of_http_1_0_gets_chunks_plain(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello ") + chunk(b"you") + chunk(b"")
    )
    with proxy.call() as caller:
        caller.send(request("/", "Connection: keep-alive", version="1.0"))
        got = caller.read_answer()
        assert (got.get("transfer-encoding"), got.get("connection"), got.body) == (None, "close", b"hello you")


def test_an_origin_of_http_1_0(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(request())
            got = caller.read_answer()
            assert (got.start, got.body) == ("HTTP/1.1 200 OK", b"hello")
    assert origin.connections == 2, "it did not offer to keep the connection"


# --- 1xx -----------------------------------------------------------------------------------------------------------


def test_a_caller_that_waits_for_100_gets_the_origins(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        head = wire.read_head()
        assert head.get("expect") == "100-continue"
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        origin.take(wire.read_body(head))
        wire.send(answer())
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        head = request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
        caller.send(head)
        assert caller.read_answer().start == "HTTP/1.1 100 Continue"
        caller.send(b"abc")
        assert caller.read_answer().status == 200
    assert origin.only.body == b"abc"


def test_a_final_answer_in_place_of_100_ends_the_connection(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(answer(b"no", status="413 Too Large"))
        wire.read_to_end()

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/", "Expect: 100-continue", "Content-Length: 3", method="POST"))
        got = caller.read_answer()
        assert (got.status, got.body, got.get("connection")) == (413, b"no", "close")
        assert caller.has_ended(), "where the next request would begin, nobody knows"


def test_interim_answers_pass_to_who_knows_them(proxy: Proxy, origin: Origin) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    origin.answer = lambda _: hints + hints + answer()
    with proxy.call() as caller:
        caller.send(request())
        assert [caller.read_answer().get("link") for _ in range(3)] == ["</a>", "</a>", None]
    assert proxy.fetch(version="1.0").body == b"hello"


def test_interim_answers_without_end_are_cut(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: b"HTTP/1.1 102 Processing\r\n\r\n" * 100
    with proxy.call() as caller:
        caller.send(request())
        while (got := caller.read_answer()).status == 102:
            pass
        assert (got.status, got.get("x-pannier-reason")) == (502, "UPE")


# --- streams -------------------------------------------------------------------------------------------------------


def test_an_early_answer_ends_an_upload(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(answer(b"enough", status="413 Too Large"))

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/", "Content-Length: 100000", method="POST") + b"x" * 1000)
        got = caller.read_answer()
        assert (got.status, got.body) == (413, b"enough")
        assert caller.has_ended()
    assert proxy.fetch("/again").status == 413


def test_both_directions_stream_at_once(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (data := wire.read_chunk()) != b"":
            wire.send(chunk(data.upper()))
        wire.read(2)
        wire.send(chunk(b""))

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        assert caller.read_head().status == 200
        for word in (b"one", b"two", b"three" * 1000):
            caller.send(chunk(word))
            echoed = b""
            while len(echoed) < len(word):
                echoed += caller.read_chunk()
            assert echoed == word.upper()
        caller.send(chunk(b""))
        assert caller.read(5) == b"0\r\n\r\n"


def push(wire: Wire, data: bytes, *, until_stuck_s: float = 0.25) -> int:
    """Sends `data` over and over until nobody has taken any for so long; returns the bytes sent."""
    sent = 0
    wire.socket.settimeout(until_stuck_s)
    try:
        for _ in itertools.count():
            sent += wire.socket.send(data)
    except TimeoutError:
        return sent
    raise AssertionError


def test_a_slow_reader_holds_a_download_back(proxy: Proxy, origin: Origin) -> None:
    size, sent = 256 << 20, []

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        sent.append(push(wire, bytes(1 << 16)))
        stuck.set()

    proxy.fetch("/warm")
    origin.cut()
    before = proxy.rss_bytes()
    origin.converse, stuck = converse, threading.Event()
    with proxy.call() as caller:
        caller.send(request())
        assert stuck.wait(10)
        assert sent[0] < 64 << 20, "what the kernel buffers, and no more"
        assert proxy.peak_rss_bytes() - before < 2 << 20


def test_a_slow_origin_holds_an_upload_back(proxy: Proxy, origin: Origin) -> None:
    proxy.fetch("/warm")
    before = proxy.rss_bytes()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_head())
        done.wait()

    origin.cut()
    origin.converse, done = converse, threading.Event()
    with proxy.call() as caller:
        caller.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        assert push(caller, chunk(bytes(1 << 16))) < 64 << 20
        assert proxy.peak_rss_bytes() - before < 2 << 20
        done.set()


def test_a_big_upload_and_a_big_download_arrive_whole(proxy: Proxy, origin: Origin) -> None:
    block = pattern(1 << 20)

    def converse(origin: Origin, wire: Wire) -> None:
        got = origin.take(wire.read_request())
        assert got.body == block * 16
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            wire.send(chunk(block))
        wire.send(chunk(b""))
        wire.read_to_end()

    origin.converse = converse
    before = proxy.rss_bytes()
    assert proxy.fetch(method="POST", body=block * 16).body == block * 16
    assert proxy.peak_rss_bytes() - before < 2 << 20


# --- fields --------------------------------------------------------------------------------------------------------

CLIENT = ("forwarded", "x-forwarded-for", "x-forwarded-proto")
HOP_BY_HOP = ("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic x", "X-Mine: 1")


def test_what_is_for_one_hop_only_is_left_out_both_ways(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"", "Connection: X-Mine, Keep-Alive", "Proxy-Authenticate: Basic", *HOP_BY_HOP)
    got = proxy.fetch("/", "Connection: X-Mine", "TE: trailers, deflate", *HOP_BY_HOP)
    assert origin.only.names == {"host", "te", "x-request-id", *CLIENT}
    assert origin.only.get("te") == "trailers"
    assert got.names == {"content-length"}


def test_connection_takes_nothing_away_that_the_next_hop_needs(proxy: Proxy, origin: Origin) -> None:
    fields = ["Cookie: a=b", "Authorization: Bearer x", "X-Request-Id: mine"]
    proxy.fetch("/", "Connection: Host, Content-Length, Cookie, Authorization, X-Request-Id", *fields, body=b"abc")
    sent = origin.only
    assert (sent.body, sent.get("host"), sent.get("cookie")) == (b"abc", "localhost", "a=b")
    assert (sent.get("authorization"), sent.get("x-request-id")) == ("Bearer x", "mine")


def test_a_request_id_is_made_or_kept(proxy: Proxy, origin: Origin) -> None:
    for kept in ("mine", "x" * 128):
        proxy.fetch("/", f"X-Request-ID: {kept}")
        assert origin.requests[-1].all("x-request-id") == [kept]
    made = set()
    for fields in (
        [],
        ["X-Request-ID: " + "x" * 129],
        ["X-Request-ID: a b"],
        ["X-Request-ID: a\xe9"],
        ["X-Request-ID:"],
    ):
        proxy.fetch("/", *fields)
        (value,) = origin.requests[-1].all("x-request-id")
        assert re.fullmatch("[0-9a-f]{32}", value)
        made.add(value)
    assert len(made) == 5


OURS = ("X-Pannier-Deadline", "x-pannier-reason", "X-PANNIER-CRITICALITY")
DISGUISED = ("X_PANNIER_CRITICALITY", "x-pannier_reason", "X_Pannier-Deadline", "x_pannier_reason")


def test_our_own_fields_are_stripped_on_the_untrusted_side(proxy: Proxy, origin: Origin) -> None:
    ours = [f"{name}: 1" for name in OURS]
    origin.answer = lambda _: answer(b"", *ours)
    inwards = proxy.fetch("/", *ours)
    outwards = proxy.fetch("/", *ours, host="up", outbound=True)
    assert origin.requests[0].names == {"host", "x-request-id", *CLIENT}, "from outside"
    assert inwards.names == {"content-length"} | {name.lower() for name in OURS}, "from the app"
    assert origin.requests[1].names == {"host", "x-request-id"} | {name.lower() for name in OURS}, "from the app"
    assert outwards.names == {"content-length"}, "from outside"


@pytest.mark.parametrize("name", DISGUISED)
def test_our_own_fields_in_disguise_never_come_in(proxy: Proxy, origin: Origin, name: str) -> None:
    """Servers that turn names into variables read an underscore as a dash."""
    assert proxy.fetch("/", f"{name}: 1").status == 200
    assert not [n for r in origin.requests for n in r.names if "pannier" in n]
    origin.answer = lambda _: answer(b"", f"{name}: 1")
    assert not [n for n in proxy.fetch(host="up", outbound=True).names if n == name.lower()]


def test_trace_context_passes_untouched_without_telemetry(proxy: Proxy, origin: Origin) -> None:
    proxy.fetch("/", f"Traceparent: {PARENT}", "Tracestate: a=1")
    assert (origin.only.get("traceparent"), origin.only.get("tracestate")) == (PARENT, "a=1")
    proxy.fetch("/")
    assert not origin.requests[1].names & {"traceparent", "tracestate"}


def test_trace_context_is_continued_or_started_with_telemetry(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry(sample_ratio=0.0)
    proxy.fetch("/", f"Traceparent: {PARENT}", "Tracestate: a=1")
    version, trace, span, flags = (origin.only.get("traceparent") or "").split("-")
    assert (version, trace, flags) == ("00", PARENT.split("-")[1], "01"), "the caller's decision holds"
    assert span != PARENT.split("-")[2]
    assert origin.only.get("tracestate") == "a=1"

    for broken in ([], ["Traceparent: 00-zz"], [f"Traceparent: {PARENT}"] * 2):
        proxy.fetch("/", *broken, "Tracestate: a=1")
        sent = origin.requests[-1]
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent.get("traceparent") or "")
        assert PARENT.split("-")[1] not in (sent.get("traceparent") or "")
        assert sent.get("tracestate") is None, "it belonged to another trace"


def test_outbound_calls_carry_the_callers_host(proxy: Proxy, origin: Origin) -> None:
    assert proxy.fetch("/", host="Up:80", outbound=True).status == 200
    assert origin.only.all("host") == ["Up:80"]


def test_a_message_of_many_fields_passes(proxy: Proxy, origin: Origin) -> None:
    crumbs = [f"Cookie: c{i}={'v' * 500}" for i in range(90)]
    assert proxy.fetch("/", *crumbs).status == 200
    assert [f"Cookie: {value}" for value in origin.only.all("cookie")] == crumbs


def test_many_connections_at_once_keep_their_answers_apart(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(workers=2)
    origin.answer = lambda r: answer(r.target.encode() + r.body)

    def caller(name: bytes) -> None:
        with proxy.call() as wire:
            for i in range(50):
                wire.send(request(f"/{i}", method="POST", body=name * i * 100))
                assert wire.read_answer().body == f"/{i}".encode() + name * i * 100

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(caller, name) for name in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h")]:
            done.result()
    assert len(origin.requests) == 400


def test_the_apps_connection_may_be_a_unix_socket(
    start_proxy: StartProxy, start_origin: Callable[..., Origin], short_path: Path
) -> None:
    app = start_origin(unix=short_path / "app.sock")
    app.answer = lambda r: answer(r.body)
    proxy = start_proxy(app=app.address)
    body = pattern(300_000)
    assert proxy.fetch(method="POST", body=body).body == body
    assert app.only.body == body


def test_idle_connections_cost_little(proxy: Proxy) -> None:
    proxy.fetch("/warm")
    before = proxy.rss_bytes()
    with ExitStack() as stack:
        for i in range(400):
            caller = stack.enter_context(proxy.call())
            if i % 2:
                caller.send(request())
                assert caller.read_answer().status == 200
        assert proxy.totals("connections_accepted") == 401
        assert (proxy.rss_bytes() - before) / 400 < 10 * 1024
