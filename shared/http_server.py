"""A small HTTP/1.1 server for what a sidecar says about itself: registration, metrics, health.

Rules:
- h11 parses and frames, trio moves bytes; a request reaches the handler whole (the limits keep it small) or not at all.
- Nothing that one peer does costs another: a deadline stands on every read and write, the number of connections is
  bounded, and when it is reached the connection that idles longest makes room.
- A handler that fails answers 500 and is logged; it never ends the server.
- What a loopback port answers is for this host alone: pages of others in a browser here get 403 (`same_host.py`).
- Ambiguous framing is refused, never repaired: both Content-Length and Transfer-Encoding is 400.

Refused: the standard library's `http.server` (threads, no deadlines), an ASGI server (another event loop, no use of it
here), streaming bodies (no user). Never on the data path: requests of services go through the proxy only.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import h11
import msgspec
import trio
from pannier.shared.same_host import HERE, comes_from_here, is_loopback

_log = logging.getLogger(__name__)
_CHUNK = 16_384
_ACCEPT_PAUSE_SECONDS = 0.1
_LINGER_SECONDS = 1.0
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants its peers: counts, bytes, seconds."""

    connections: int = 64
    header_bytes: int = 16_384
    body_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    idle_seconds: float = 30.0
    write_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. `target` is as sent, `path` still percent-encoded; header names are lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path if "://" in self.target else self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def segments(self) -> tuple[str, ...]:
        """The path split at `/` and then decoded, so that an encoded slash stays inside its segment."""
        return tuple(unquote(segment) for segment in self.path.strip("/").split("/"))

    def header(self, name: str, default: str = "") -> str:
        """The first value of the header `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), default)


@dataclass(frozen=True, slots=True)
class Response:
    """One answer, whole. The server adds `date`, `content-length` and `connection`."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Conversation: TypeAlias = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An answer 101: from now on the connection is another protocol's. `converse` is given it, with the bytes that have
    come already; when it returns, the connection ends."""

    protocol: str
    converse: Conversation


Handler: TypeAlias = Callable[[Request], Awaitable[Response | Upgrade]]


def json_response(body: object, *, status: int = 200) -> Response:
    """`body` (anything msgspec encodes) as JSON with a final newline, so that curl leaves a clean prompt."""
    return Response(status, msgspec.json.encode(body) + b"\n", "application/json")


def error_response(status: int, message: str, *, hint: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """The one shape of an error: `{"error": message, "hint": hint}`, the hint only where there is one."""
    body = {"error": message, "hint": hint} if hint else {"error": message}
    return Response(status, msgspec.json.encode(body) + b"\n", "application/json", headers)


async def serve_http(
    listener: trio.abc.Listener[trio.abc.Stream], handler: Handler, *, limits: Limits | None = None
) -> None:
    """Answers requests on `listener` until cancelled, then closes it and every connection.

    The listener is already bound; connections may be made before this is called. Raises what `accept` raises, except
    for a lack of descriptors or memory, which is waited out.
    """
    server = _Server(_for_this_host(handler) if is_loopback(listener) else handler, limits or Limits())
    async with listener, trio.open_nursery() as nursery:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                _log.warning("cannot accept a connection: %s; trying again", error)
                await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            await server.wait_room()
            nursery.start_soon(server.connection, stream)


def _for_this_host(handler: Handler) -> Handler:
    async def handle(request: Request) -> Response | Upgrade:
        if comes_from_here(request.header("host", HERE), request.header("origin", HERE)):
            return await handler(request)
        return error_response(403, "this is for this host alone", hint="ask for it as localhost or by its IP address")

    return handle


class _Refused(Exception):
    """The request cannot be read; `status` and the message go to the peer, then the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server:
    """The connections of one listener, and who idles since when."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler = handler
        self._limits = limits
        self._room = trio.Semaphore(limits.connections)
        self._idle: dict[int, trio.CancelScope] = {}

    async def wait_room(self) -> None:
        """Returns when one more connection may be served; the one that idles longest is closed for it."""
        if self._room.value == 0 and self._idle:
            longest = next(iter(self._idle))
            self._idle.pop(longest).cancel()
        await self._room.acquire()

    async def connection(self, stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                await self._converse(_Peer(stream, self._limits))
        except _GONE:
            pass
        except Exception:
            _log.exception("a connection ended by an error of ours")
        finally:
            self._room.release()

    async def _converse(self, peer: _Peer) -> None:
        try:
            while await self._wait_bytes(peer):
                request = await peer.read_request()
                answer = await self._answer(request)
                if isinstance(answer, Upgrade):
                    await peer.upgrade(answer)
                    return
                if not await peer.send(request.method, answer):
                    return
        except _Refused as refused:
            await peer.refuse(error_response(refused.status, str(refused)))

    async def _wait_bytes(self, peer: _Peer) -> bool:
        """True once bytes of a next request are here; False when the peer is done, idles too long, or makes room."""
        if self._room.statistics().tasks_waiting and not peer.has_bytes():
            return False
        with trio.move_on_after(self._limits.idle_seconds) as scope:
            self._idle[id(scope)] = scope
            try:
                return await peer.wait_bytes()
            finally:
                self._idle.pop(id(scope), None)
        return False

    async def _answer(self, request: Request) -> Response | Upgrade:
        try:
            return await self._handler(request)
        except Exception:
            _log.exception("%s %r failed", request.method, request.path)
            return error_response(500, "the sidecar failed on this request; its log says why")


class _Peer:
    """One connection: h11's state machine over a stream, with the deadlines of `Limits`."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)

    def has_bytes(self) -> bool:
        return bool(self._h11.trailing_data[0])

    async def wait_bytes(self) -> bool:
        if self.has_bytes():
            return True
        data = bytes(await self._stream.receive_some(_CHUNK))
        self._h11.receive_data(data)
        return bool(data)

    async def read_request(self) -> Request:
        head = await self._read_head()
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        if sum(len(name) + len(value) + 4 for name, value in headers) + len(head.target) > self._limits.header_bytes:
            raise self._header_too_long()
        names = {name for name, _ in headers}
        if {"content-length", "transfer-encoding"} <= names:
            raise _Refused(400, "both content-length and transfer-encoding")
        if next((int(value) for name, value in headers if name == "content-length"), 0) > self._limits.body_bytes:
            raise self._too_long()
        if self._h11.they_are_waiting_for_100_continue:
            await self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = await self._read_body()
        return Request(head.method.decode("ascii"), head.target.decode("ascii"), headers, body)

    async def _read_head(self) -> h11.Request:
        with trio.move_on_after(self._limits.header_seconds):
            head = await self._next_event()
            if isinstance(head, h11.Request):
                return head
            raise trio.BrokenResourceError("the peer left before its request was whole")
        raise _Refused(408, f"the request's header took longer than {self._limits.header_seconds:g} s")

    async def _read_body(self) -> bytes:
        body = bytearray()
        with trio.move_on_after(self._limits.body_seconds):
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                if len(body) > self._limits.body_bytes:
                    raise self._too_long()
            return bytes(body)
        raise _Refused(408, f"the request's body took longer than {self._limits.body_seconds:g} s")

    def _header_too_long(self) -> _Refused:
        return _Refused(431, f"the header is longer than {self._limits.header_bytes} bytes")

    def _too_long(self) -> _Refused:
        return _Refused(413, f"the body is longer than {self._limits.body_bytes} bytes")

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                if error.error_status_hint == 431:
                    raise self._header_too_long() from error
                raise _Refused(error.error_status_hint, str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(bytes(await self._stream.receive_some(_CHUNK)))

    async def send(self, method: str, response: Response) -> bool:
        """Sends the answer; False when the connection cannot carry another request."""
        head = h11.Response(
            status_code=response.status,
            reason=_reason(response.status),
            headers=[
                ("date", formatdate(usegmt=True)),
                ("content-type", response.content_type),
                ("content-length", str(len(response.body))),
                *response.headers,
            ],
        )
        wire = self._h11.send(head) or b""
        body = b""
        if response.body and method != "HEAD":
            self._h11.send_with_data_passthrough(h11.Data(data=response.body))
            body = response.body  # as it is, since its length is said; many may be told the same one
        self._h11.send(h11.EndOfMessage())
        together = len(body) <= _CHUNK
        if not await self._write(wire + body if together else wire, b"" if together else body):
            return False
        if self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is h11.MUST_CLOSE:
            return False
        self._h11.start_next_cycle()
        return True

    async def upgrade(self, answer: Upgrade) -> None:
        """Agrees to speak another protocol, and hands the connection over until that ends. Only for a request that has
        asked for it."""
        assert isinstance(self._stream, trio.SocketStream), "a listener of sockets has accepted it"
        headers = [("connection", "upgrade"), ("upgrade", answer.protocol)]
        if await self._write(self._h11.send(h11.InformationalResponse(status_code=101, headers=headers))):
            early, _ = self._h11.trailing_data
            await answer.converse(self._stream, early)

    async def refuse(self, response: Response) -> None:
        """Says why, then reads what still comes for a moment: closing over unread bytes would reset the answer away."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        closing = Response(response.status, response.body, response.content_type, (("connection", "close"),))
        await self.send("", closing)
        with trio.move_on_after(_LINGER_SECONDS):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            left = 4 * self._limits.body_bytes
            while left > 0 and (data := await self._stream.receive_some(_CHUNK)):
                left -= len(data)

    async def _write(self, wire: bytes | None, body: bytes = b"") -> bool:
        with trio.move_on_after(self._limits.write_seconds) as scope:
            await self._stream.send_all(wire or b"")
            if body:
                await self._stream.send_all(body)
        return not scope.cancelled_caught


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
