"""The app of a fault row: fast, small, and it writes down what it was asked before it answers.

    python origin.py PORT FOLDER REMAINDER

- Every request is a line `METHOD PATH NUMBER` in FOLDER/PORT.ledger, one write each; those without a number are none of
  the load's and are not written down. Every answer is the same 64 bytes.
- A GET with the field `x-faults`, whose number leaves REMAINDER by 50, is answered 503 the first time that it comes:
  only a caller who repeats it gets the right answer.
- While the file FOLDER/fail exists it answers 503, and writes down all the same. A request with `x-fails` is answered
  503 whenever it comes.
- A request with `x-attack` is a line `PATH BYTES` in FOLDER/PORT.attacks, whatever it is answered.
- `/echo` answers the request as it came, `/large/KIB` so many KiB.
- `/stream` is an answer that never ends: a chunk every 50 ms until somebody closes it.
- SIGTERM ends it with 0.

One thread over one selector: no request waits for another's thread. Refused: nginx, which is a peer that not every
machine has, and cannot be told to fail from one moment to the next.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from functools import cache
from pathlib import Path

BODY = b"pannier ".ljust(63, b".") + b"\n"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nfailed\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\ntick\n\r\n"
TICK_S = 0.05
EVERY = 50
PIECE = 64 << 10


class Origin:
    """`serve` returns never; its connections are few, those of a proxy's pools."""

    def __init__(self, port: int, folder: Path, remainder: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._ledger = os.open(folder / f"{port}.ledger", flags, 0o644)
        self._attacks = os.open(folder / f"{port}.attacks", flags, 0o644)
        self._fail = folder / "fail"
        self._remainder = remainder
        self._refused: set[tuple[bytes, bytes]] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._streams: set[socket.socket] = set()
        self._unsent: dict[socket.socket, bytearray] = {}

    def serve(self) -> None:
        while True:
            for key, mask in self._selector.select(TICK_S if self._streams else None):
                if key.fileobj is self._listener:
                    self._accept()
                    continue
                assert isinstance(key.fileobj, socket.socket)
                if mask & selectors.EVENT_WRITE:
                    self._send(key.fileobj, b"")
                if mask & selectors.EVENT_READ and key.fileobj.fileno() >= 0:
                    self._receive(key.fileobj, key.data)
            for stream in tuple(self._streams):
                self._send(stream, CHUNK)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, bytearray())

    def _receive(self, connection: socket.socket, buffer: bytearray) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        buffer += data
        while connection.fileno() >= 0 and (size := _whole(buffer)) is not None:
            self._answer(connection, bytes(buffer[:size]))
            del buffer[:size]

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        method, path, _ = request.split(b" ", 2)
        if path == b"/stream":
            self._streams.add(connection)
            self._send(connection, STREAM)
            return
        head = request[: request.find(b"\r\n\r\n") + 2]
        if number := _field(head, b"x-bench-number"):
            os.write(self._ledger, b"%b %b %b\n" % (method, path, number))
        if _field(head, b"x-attack"):
            os.write(self._attacks, b"%b %d\n" % (path, len(request)))
        if path == b"/echo":
            self._send(connection, _good(request))
        elif path.startswith(b"/large/"):
            self._send(connection, _large(int(path.removeprefix(b"/large/"))))
        elif self._fails(head) or self._refuses(method, path, number, head):
            self._send(connection, BAD)
        else:
            self._send(connection, _good(BODY))

    def _fails(self, head: bytes) -> bool:
        return self._fail.exists() or bool(_field(head, b"x-fails"))

    def _refuses(self, method: bytes, path: bytes, number: bytes, head: bytes) -> bool:
        if method != b"GET" or not number or int(number) % EVERY != self._remainder or (path, number) in self._refused:
            return False
        self._refused.add((path, number))
        return bool(_field(head, b"x-faults"))

    def _send(self, connection: socket.socket, data: bytes) -> None:
        """Sends what is left of earlier answers and `data`: a piece at a time, so that who is asked for little does not
        wait for who is asked for much."""
        unsent = self._unsent.setdefault(connection, bytearray())
        unsent += data
        try:
            if unsent:
                del unsent[: connection.send(unsent[:PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            self._end(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        if self._selector.get_key(connection).events != wanted:
            self._selector.modify(connection, wanted, self._selector.get_key(connection).data)

    def _end(self, connection: socket.socket) -> None:
        self._streams.discard(connection)
        self._unsent.pop(connection, None)
        if connection.fileno() >= 0:
            self._selector.unregister(connection)
            connection.close()


def _good(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@cache
def _large(kib: int) -> bytes:
    return _good(bytes(kib << 10))


def _whole(buffer: bytearray) -> int | None:
    """The size of the first request in the buffer, None if it is not all there."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    if _field(buffer[: head + 2], b"transfer-encoding"):
        return _chunked(buffer, head + 4)
    size = head + 4 + int(_field(buffer[: head + 2], b"content-length") or b"0")
    return size if len(buffer) >= size else None


def _chunked(buffer: bytearray, at: int) -> int | None:
    """Where a chunked body ends that begins at `at`, None if its end is not there."""
    while (line := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line], 16)
        if size == 0:
            end = line if buffer.startswith(b"\r\n", line + 2) else buffer.find(b"\r\n\r\n", line + 2)
            return end + 4 if end >= 0 else None
        at = line + 2 + size + 2
    return None


def _field(head: bytes | bytearray, name: bytes) -> bytes:
    at = head.lower().find(b"\r\n" + name + b":")
    return bytes(head[at + len(name) + 3 : head.find(b"\r\n", at + 2)].strip()) if at >= 0 else b""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Origin(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).serve()
