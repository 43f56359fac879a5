"""HTTP/1.1 over a plain socket, for both ends of the proxy.

Written anew and small, so that a test sees each byte as it was sent: a library would mend, refuse or hide just what
these tests are about. It is strict about what a proxy writes: CRLF line ends, one framing, sizes in hexadecimal.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Self

#: No step of a test takes so long, on however busy a machine; a hang fails instead of hanging the suite.
PATIENCE_S = 10.0

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Message:
    """A request or an answer, as it came."""

    start: str
    fields: Fields
    body: bytes = b""
    trailers: Fields = ()

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ", 2)[1])

    @property
    def method(self) -> str:
        """Of a request."""
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        """Of a request."""
        return self.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for field, value in self.fields if field.lower() == name]

    def get(self, name: str) -> str | None:
        """The value of the only field of that name; fails if there are more."""
        values = self.all(name)
        assert len(values) < 2, values
        return values[0] if values else None

    @property
    def names(self) -> set[str]:
        """The names of the fields, in lower case."""
        return {name.lower() for name, _ in self.fields}


class Ended(Exception):
    """The peer ended the connection before the message did."""


class Wire:
    """One end of a connection. A context manager that closes it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.socket = sock
        self.buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    def reset(self) -> None:
        """Ends the connection by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def finish(self) -> None:
        """Ends our side alone."""
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        """Sends all of it; raises OSError as sockets do."""
        self.socket.sendall(data)

    def fill(self) -> bool:
        """Waits for more; False at the peer's end. Raises OSError as sockets do."""
        data = self.socket.recv(1 << 16)
        self.buffer += data
        return bool(data)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes. Raises Ended."""
        while len(self.buffer) < size:
            if not self.fill():
                raise Ended(bytes(self.buffer))
        return self._take(size)

    def read_until(self, mark: bytes) -> bytes:
        """Up to and with `mark`. Raises Ended."""
        while (at := self.buffer.find(mark)) < 0:
            if not self.fill():
                raise Ended(bytes(self.buffer))
        return self._take(at + len(mark))

    def read_to_end(self) -> bytes:
        """All that the peer still sends. Raises OSError if its end is a reset."""
        while self.fill():
            pass
        return self._take(len(self.buffer))

    def has_ended(self) -> bool:
        """Waits for the peer's next step: whether it ended the connection, in whatever way, without another byte."""
        try:
            return not self.buffer and not self.fill()
        except ConnectionError:
            return True

    def read_head(self) -> Message:
        """A head without what follows it. Raises Ended."""
        start, *lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        return Message(start, _fields(lines))

    def read_request(self) -> Message:
        """A whole request. Raises Ended."""
        head = self.read_head()
        return self.read_body(head) if _is_framed(head) else head

    def read_answer(self, method: str = "GET") -> Message:
        """A whole answer to `method`, interim ones not left out. Raises Ended if it is truncated."""
        head = self.read_head()
        if method == "HEAD" or head.status in (204, 304) or head.status < 200:
            return head
        return self.read_body(head) if _is_framed(head) else Message(head.start, head.fields, self.read_to_end())

    def read_body(self, head: Message) -> Message:
        """The message whose head was read, with its body and trailers. Raises Ended."""
        if head.get("transfer-encoding") is None:
            return Message(head.start, head.fields, self.read(int(head.get("content-length") or "0")))
        assert head.get("transfer-encoding") == "chunked"
        assert head.get("content-length") is None
        body = bytearray()
        while (chunk := self.read_chunk()) != b"":
            body += chunk
        trailers = []
        while (line := self.read_until(b"\r\n")) != b"\r\n":
            trailers.append(line.decode("latin-1").removesuffix("\r\n"))
        return Message(head.start, head.fields, bytes(body), _fields(trailers))

    def read_chunk(self) -> bytes:
        """The next chunk; empty for the last one, whose trailers are still to be read. Raises Ended."""
        size = int(self.read_until(b"\r\n").decode("ascii").removesuffix("\r\n"), 16)
        if size == 0:
            return b""
        data = self.read(size)
        assert self.read(2) == b"\r\n"
        return data

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data


def request(
    target: str = "/",
    *fields: str,
    method: str = "GET",
    host: str = "localhost",
    version: str = "1.1",
    body: bytes | None = None,
) -> bytes:
    """A request; `body` adds its Content-Length. No Host for an empty `host`."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def answer(body: bytes = b"hello", *fields: str, status: str = "200 OK") -> bytes:
    """An answer with its Content-Length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunk(data: bytes) -> bytes:
    """A chunk; the last one, without trailers, for no data."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _fields(lines: list[str]) -> Fields:
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon
        assert name == name.strip() != ""
        assert not set(line) & {"\r", "\n", "\0"}
        fields.append((name, value.strip()))
    return tuple(fields)


def _is_framed(head: Message) -> bool:
    return "transfer-encoding" in head.names or "content-length" in head.names
