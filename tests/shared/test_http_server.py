"""The small HTTP server: framing, limits and deadlines, over memory streams and a virtual clock."""

import contextlib
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.http_server import Limits, Request, Response, error_response, json_response, serve_http
from pannier.shared.same_host import is_loopback
from pannier.shared.unix import listen_unix


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts what `connect` makes; raises what `failures` holds first."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](100)
        self.failures: list[OSError] = []

    async def accept(self) -> trio.abc.Stream:
        if self.failures:
            raise self.failures.pop(0)
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._send.close()
        await trio.lowlevel.checkpoint()

    def connect(self, stream: trio.abc.Stream | None = None) -> trio.abc.HalfCloseableStream:
        ours, theirs = trio.testing.memory_stream_pair()
        self._send.send_nowait(stream or theirs)
        return ours


async def echo(request: Request) -> Response:
    if request.path == "/fails":
        raise RuntimeError("a bug")
    if request.path == "/error":
        return error_response(409, "no", hint="try again", headers=(("retry-after", "1"),))
    await trio.lowlevel.checkpoint()
    return json_response({"path": request.path, "query": request.query, "body": request.body.decode()})


@asynccontextmanager
async def server(limits: Limits | None = None) -> AsyncIterator[Listener]:
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(listener, echo, limits=limits))
        yield listener
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def exchange(listener: Listener, wire: bytes) -> bytes:
    stream = listener.connect()
    await stream.send_all(wire)
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_eof()
    return await read_all(stream)


async def test_a_request_is_answered_with_its_length_and_kept_alive(autojump_clock) -> None:
    async with server() as listener:
        answer = await exchange(listener, b"GET /a?x=1 HTTP/1.1\r\nhost: h\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b'{"path":"/a","query":"x=1","body":""}\n' in answer
    assert answer.endswith(b'{"path":"/b","query":"","body":""}\n')
    assert b"content-length: 38\r\n" in answer


async def test_head_has_the_length_and_no_body(autojump_clock) -> None:
    async with server() as listener:
        answer = await exchange(listener, b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 35" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PUT /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello",
        b"PUT /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_a_body_arrives_whole_even_byte_by_byte(autojump_clock, request_bytes: bytes) -> None:
    async with server() as listener:
        stream = listener.connect()
        for index in range(len(request_bytes)):
            await stream.send_all(request_bytes[index : index + 1])
        await stream.send_eof()
        assert b'"body":"hello"' in await read_all(stream)


async def test_expect_continue_is_answered(autojump_clock) -> None:
    async with server() as listener:
        stream = listener.connect()
        await stream.send_all(b"PUT /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"ok")
        await stream.send_eof()
        assert b'"body":"ok"' in await read_all(stream)


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nhost : h\r\n\r\n", 400),
        (b"PUT /a HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PUT /a HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", 400),
        (b"PUT /a HTTP/1.1\r\nhost: h\r\ncontent-length: 101\r\n\r\n", 413),
        (
            b"PUT /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n65\r\n" + b"a" * 101 + b"\r\n0\r\n\r\n",
            413,
        ),
        (b"GET /a HTTP/1.1\r\nhost: h\r\nx: " + b"y" * 2000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_cannot_be_read_is_refused_and_the_connection_ends(autojump_clock, wire: bytes, status: int) -> None:
    async with server(Limits(header_bytes=1000, body_bytes=100)) as listener:
        answer = await exchange(listener, wire)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (status == 431) == (b"the header is longer than 1000 bytes" in answer)
    assert b"connection: close" in answer
    assert b'{"error":' in answer


async def test_a_failing_handler_is_a_500_and_the_server_lives(autojump_clock) -> None:
    async with server() as listener:
        assert (await exchange(listener, b"GET /fails HTTP/1.1\r\nhost: h\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
        assert (await exchange(listener, b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_an_error_carries_its_hint_and_headers(autojump_clock) -> None:
    async with server() as listener:
        answer = await exchange(listener, b"GET /error HTTP/1.1\r\nhost: h\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 409 Conflict\r\n")
    assert b"retry-after: 1\r\n" in answer
    assert answer.endswith(b'{"error":"no","hint":"try again"}\n')


async def test_a_slow_header_is_a_408_after_its_deadline(autojump_clock) -> None:
    async with server() as listener:
        stream = listener.connect()
        started = trio.current_time()
        await stream.send_all(b"GET / HT")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - started == pytest.approx(10.0, abs=1.5)


async def test_one_byte_a_second_does_not_move_the_deadline(autojump_clock) -> None:
    async with server() as listener:
        stream = listener.connect()
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"G")
                await trio.sleep(1)
        assert trio.current_time() - started <= 13


async def test_a_slow_body_is_a_408(autojump_clock) -> None:
    async with server() as listener:
        stream = listener.connect()
        await stream.send_all(b"PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nab")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_ends_without_a_word(autojump_clock) -> None:
    async with server() as listener:
        stream = listener.connect()
        started = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() - started == pytest.approx(30.0)


async def test_the_longest_idle_connection_makes_room_for_a_new_one(autojump_clock) -> None:
    async with server(Limits(connections=2)) as listener:
        first, second = listener.connect(), listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        third = listener.connect()
        await third.send_all(b"GET /c HTTP/1.1\r\nhost: h\r\n\r\n")
        assert b'"/c"' in await third.receive_some()
        assert await first.receive_some() == b""
        await second.send_all(b"GET /b HTTP/1.1\r\nhost: h\r\n\r\n")
        assert b'"/b"' in await second.receive_some()


async def test_a_lack_of_descriptors_is_waited_out(autojump_clock) -> None:
    listener = Listener()
    listener.failures = [OSError(errno.EMFILE, "too many open files"), OSError(errno.ENFILE, "table full")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, listener, echo)
        assert (await exchange(listener, b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()


async def test_the_bytes_of_any_prefix_never_end_the_server(autojump_clock) -> None:
    whole = b"PUT /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello"
    async with server() as listener:
        for end in range(len(whole)):
            await exchange(listener, whole[:end])
        assert (await exchange(listener, whole)).startswith(b"HTTP/1.1 200 ")


def test_an_encoded_slash_stays_inside_its_segment() -> None:
    assert Request("GET", "/v1/a%2Fb/c?d=/").segments == ("v1", "a/b", "c")
    assert Request("GET", "http://host/v1/x?y").path == "/v1/x"


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("host", "localhost", 200),
        ("host", "LocalHost:9100", 200),
        ("host", "127.0.0.1:9100", 200),
        ("host", "[::1]:9100", 200),
        ("host", "rebound.example:9100", 403),
        ("host", "localhost.rebound.example", 403),
        ("host", "127.0.0.1.rebound.example", 403),
        ("host", "[::1", 403),
        ("host", "", 403),
        ("origin", "http://localhost:3000", 200),
        ("origin", "http://127.0.0.1", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
    ],
)
async def test_nobody_elses_page_reaches_a_loopback_port(field: str, value: str, status: int) -> None:
    asked = {"host": "localhost"} | {field: value}
    head = "".join(f"{name}: {said}\r\n" for name, said in asked.items())
    wire = f"GET /a HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode()
    (loopback,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, loopback, echo)
        async with await trio.open_tcp_stream(*loopback.socket.getsockname()[:2]) as stream:
            await stream.send_all(wire)
            assert (await read_all(stream)).startswith(f"HTTP/1.1 {status} ".encode())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
async def test_which_ports_are_for_this_host_alone(host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        assert is_loopback(listener) == (host != "0.0.0.0")


def test_other_listeners_are_not_looked_at(tmp_path: Path) -> None:
    assert not is_loopback(Listener())
    with listen_unix(tmp_path / "s").socket as unix:
        assert not is_loopback(trio.SocketListener(unix))


async def test_a_large_body_is_sent_as_it_is() -> None:
    """Many who are told the same and read slowly hold no copies of it."""
    body = b"x" * 100_000
    sent: list[object] = []

    class Seen(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            sent.append(data)
            await theirs.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await theirs.wait_send_all_might_not_block()

        async def aclose(self) -> None:
            await theirs.aclose()

    async def whole(_: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(body=body)

    listener = Listener()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, listener, whole)
        listener.connect(trio.StapledStream(Seen(), theirs.receive_stream))
        await ours.send_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert (await read_all(ours)).endswith(b"\r\n\r\n" + body)
        nursery.cancel_scope.cancel()
    assert sent[-1] is body
