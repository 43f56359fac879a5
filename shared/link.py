"""One connection of the bus, seen from either end: frames in, an outbox out, descriptors once.

The writing side is a task of its own (`pump`), so a peer that does not read delays nobody but itself. Descriptors
travel with one message at the start (`send_with_descriptors`, `receive_with_descriptors`): in a stream they do not
align with frames, and a plain `recv` makes the kernel close them, which is how every later one is refused.
"""

from __future__ import annotations

import math
import os
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress

import trio
from pannier.shared import envelope, framing
from pannier.shared.envelope import Envelope
from pannier.shared.errors import Unreachable
from pannier.shared.framing import FramingError, frame
from pannier.shared.outbox import Outbox
from pannier.shared.unix import Credentials, credentials

_CHUNK = 64 * 1024
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD of Linux


class Link(trio.abc.AsyncResource):
    """Owns `stream`. `receive` and `pump` are for one task each; `post…` never wait."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.outbox = Outbox()
        self._stream = stream
        self._reader = framing.Reader()
        self._posted = trio.Event()
        self._written = trio.Event()
        self._torn = False

    @property
    def credentials(self) -> Credentials:
        return credentials(self._stream.socket)

    def post(self, message: Envelope) -> None:
        """Queues what must arrive. Raises `FramingError` if it does not fit into a frame."""
        self.outbox.control(frame(message))
        self._wake()

    def post_state(self, topic: str, message: bytes) -> None:
        """Queues a frame that conflates with one of the same topic."""
        self.outbox.state(topic, message)
        self._wake()

    def post_event(self, message: bytes) -> None:
        """Queues a frame that may be dropped."""
        self.outbox.event(message)
        self._wake()

    async def pump(self, *, patience: float = math.inf) -> None:
        """Writes what is posted until cancelled. Raises `Unreachable` if the peer takes over `patience` seconds to take
        one frame, or is gone."""
        while True:
            data = self.outbox.next()
            if data is None:
                self._written.set()
                self._posted = trio.Event()
                await self._posted.wait()
                continue
            with trio.move_on_after(patience) as slow:
                await self._send(data)
            if slow.cancelled_caught:
                raise Unreachable(f"the peer has not read for {patience:g} s")
            self.outbox.settle()

    async def wait_written(self) -> None:
        """Waits until nothing is left to write; only while `pump` runs."""
        if len(self.outbox):
            await self._written.wait()

    async def receive(self, *, patience: float = math.inf) -> list[Envelope]:
        """The next messages, at least one; an empty list when the peer has closed. Raises `FramingError` for bytes that
        are no messages, or for a frame that takes over `patience` seconds to arrive; `Unreachable` if the peer is gone.
        """
        begun = trio.current_time() if self._reader.pending else math.inf
        while True:
            with trio.move_on_at(begun + patience) as scope:
                try:
                    data = await self._stream.receive_some(_CHUNK)
                except trio.BrokenResourceError as error:
                    raise Unreachable("the peer is gone") from error
            if scope.cancelled_caught:
                raise FramingError(f"a frame that began {patience:g} s ago is not complete")
            if not data:
                return []
            if messages := self._take(data):
                return messages
            begun = min(begun, trio.current_time())

    async def send_with_descriptors(self, message: Envelope, descriptors: Sequence[int]) -> None:
        """Writes `message` past the outbox, with descriptors. Only before `pump` runs. Raises `Unreachable`."""
        data = frame(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            sent = await self._stream.socket.sendmsg([data], rights)
        except OSError as error:
            raise Unreachable("the peer is gone") from error
        await self._send(data[sent:])

    async def receive_with_descriptors(self) -> tuple[list[Envelope], list[int]]:
        """As `receive`, with the descriptors that came along, close-on-exec set and now the caller's."""
        space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array("i").itemsize)
        descriptors = array("i")
        try:
            while True:
                data, ancillary, flags, _ = await self._stream.socket.recvmsg(_CHUNK, space, socket.MSG_CMSG_CLOEXEC)
                for level, type_, content in ancillary:
                    if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
                if flags & socket.MSG_CTRUNC:
                    raise FramingError("some descriptors did not arrive: this process may hold no more of them")
                messages = self._take(data) if data else []
                if messages or not data:
                    return messages, list(descriptors)
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, OSError):
                raise Unreachable("the peer is gone") from error
            raise

    async def refuse(self, message: envelope.Reject) -> None:
        """Says why, if that can be said without waiting and no frame is half written; nothing is promised."""
        if not self._torn:
            with suppress(Unreachable), trio.CancelScope(deadline=trio.current_time() + 0.1, shield=True):
                await self._send(frame(message))

    async def aclose(self) -> None:
        """Closes the connection; what waited in the outbox counts as dropped."""
        self.outbox.abandon()
        await self._stream.aclose()

    def _wake(self) -> None:
        self._posted.set()
        if self._written.is_set():
            self._written = trio.Event()

    def _take(self, data: bytes) -> list[Envelope]:
        return [envelope.parse(body) for body in self._reader.feed(data)]

    async def _send(self, data: bytes) -> None:
        """As `send_all`, which does not tell a cancelled caller whether a part was sent."""
        left = memoryview(data)
        try:
            while left:
                left = left[await self._stream.socket.send(left) :]
                self._torn = bool(left)
        except (OSError, trio.ClosedResourceError) as error:
            raise Unreachable("the peer is gone") from error
