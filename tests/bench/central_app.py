"""An app whose work is CPU: it answers, or it calls, as fast as its core lets it, and counts.

    python central_app.py serve PORT WORK COUNTER             answers requests
    python central_app.py call HOST:PORT NAME WORK COUNTER    calls a service, one request after the other on a
    connection

WORK is how many times 4 KiB are hashed for each request: 100 take about 0.3 ms. COUNTER is a file with the count, which
others read while it runs. SIGUSR1 lets `call` begin and pause again.
"""

from __future__ import annotations

import hashlib
import mmap
import selectors
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + b"pannier ".ljust(63, b".") + b"\n"
BLOCK = bytes(4096)
IDLE_S = 0.05


class Counter:
    """A number in a file."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(8))
        with file.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), 8)
        self._number = 0

    def add(self) -> None:
        self._number += 1
        self._memory[:8] = struct.pack("<Q", self._number)


def read(file: Path) -> int:
    """The count so far."""
    number: int = struct.unpack("<Q", file.read_bytes())[0]
    return number


def work(times: int) -> None:
    for _ in range(times):
        hashlib.sha1(BLOCK, usedforsecurity=False)


def serve(port: int, times: int, counter: Counter) -> None:
    """Answers every request once its head is there; bodies are not expected."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)
            try:
                heads = key.fileobj.recv(1 << 16).count(b"\r\n\r\n")
                for _ in range(heads):
                    work(times)
                    counter.add()
                    key.fileobj.sendall(ANSWER)
            except OSError:
                heads = 0
            if not heads:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def call(address: tuple[str, int], name: str, times: int, counter: Counter) -> None:
    """Calls while it is told to."""
    going = [False]
    signal.signal(signal.SIGUSR1, lambda *_: going.__setitem__(0, not going[0]))
    request = f"GET /app HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
    connection: socket.socket | None = None
    while True:
        if not going[0]:
            time.sleep(IDLE_S)
            continue
        with suppress(OSError):
            if connection is None:
                connection = socket.create_connection(address, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        work(times)
        if connection is not None and exchange(connection, request):
            counter.add()
        elif connection is not None:
            connection.close()
            connection = None


def exchange(connection: socket.socket, request: bytes) -> bool:
    """Whether the connection can have another request after this one."""
    try:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer) < answer.find(b"\r\n\r\n") + 4 + 64:
            if not (more := connection.recv(1 << 16)):
                return False
            answer += more
    except OSError:
        return False
    return b"connection: close" not in answer[: answer.find(b"\r\n\r\n")].lower()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port, times, counter]:
            serve(int(port), int(times), Counter(Path(counter)))
        case ["call", address, name, times, counter]:
            host, _, port = address.rpartition(":")
            call((host, int(port)), name, int(times), Counter(Path(counter)))
        case _:
            sys.exit(__doc__)
