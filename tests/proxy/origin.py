"""Origins behind the proxy whose every byte a test decides, and which remember what they were sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.proxy.wire import PATIENCE_S, Ended, Message, Wire, answer

Converse = Callable[["Origin", Wire], None]


def pattern(size: int) -> bytes:
    """Bytes of which no two near positions look alike, so that nothing lost, doubled or moved goes unseen."""
    return b"".join(b"%07x\n" % i for i in range(size // 8 + 1))[:size]


def keep_answering(origin: Origin, wire: Wire) -> None:
    """The plain server: whatever `origin.answer` says to each request, until the peer ends the connection."""
    while True:
        request = origin.take(wire.read_request())
        wire.send(origin.answer(request))


@contextlib.contextmanager
def held(*origins: Origin) -> Iterator[threading.Event]:
    """Origins that answer once the event is set, which it is at the end at the latest; from then on at once."""
    released = threading.Event()

    def wait(_: Message) -> bytes:
        assert released.wait(PATIENCE_S)
        return answer()

    for origin in origins:
        origin.answer = wait
    try:
        yield released
    finally:
        released.set()


class Origin:
    """A server with a thread a connection. `answer` and `converse` may be set anew at any time.

    `requests` holds what arrived, in order; `connections` counts how often it was connected to.
    """

    def __init__(self, *, unix: Path | None = None) -> None:
        self.answer: Callable[[Message], bytes] = lambda _: answer()
        self.converse: Converse = keep_answering
        self.requests: list[Message] = []
        self.connections = 0
        self.ended = 0
        self._changed = threading.Condition()
        self._wires: list[Wire] = []
        self._threads: list[threading.Thread] = []
        if unix is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port: int = self._listener.getsockname()[1]
            self.address = f"127.0.0.1:{self.port}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix))
            self._listener.listen()
            self.address = f"unix:{unix}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def take(self, request: Message) -> Message:
        """Writes down a request that a `converse` of a test's own has read."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return request

    def wait(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition on `requests`, `connections` or `ended`."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S)

    def wait_requests(self, count: int = 1) -> None:
        """Waits until so many requests have arrived."""
        self.wait(lambda: len(self.requests) >= count)

    @property
    def only(self) -> Message:
        """The only request that arrived."""
        (message,) = self.requests
        return message

    def cut(self) -> None:
        """Ends every connection from this side; returns when the peer's kernel knows."""
        with self._changed:
            wires = list(self._wires)
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.socket.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Stops listening: whoever connects from now on is refused."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_S)
        self._listener.close()

    def close(self) -> None:
        """Ends everything and waits for it."""
        self.refuse()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(Wire(sock),))
            self._threads.append(thread)
            thread.start()

    def _serve(self, wire: Wire) -> None:
        with self._changed:
            self.connections += 1
            self._wires.append(wire)
            self._changed.notify_all()
        with contextlib.suppress(OSError, Ended), wire:
            self.converse(self, wire)
        with self._changed:
            self.ended += 1
            self._wires.remove(wire)
            self._changed.notify_all()
