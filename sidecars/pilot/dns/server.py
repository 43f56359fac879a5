"""DNS over UDP and TCP on one port: packets to `dns.Zone`, and what came of them.

Bounded: `RATE` questions a second are answered over each of both, since whoever floods must not take the registry's
time. Half of them are for whoever comes; the other half is for those who have not asked `FAIR` times in that second, so
that who floods does not take the others' turn. Over TCP there are `CONNECTIONS`, each with `IDLE_SECONDS` for the next
question and for taking its answer.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import suppress
from typing import Final

import dns.rcode
import msgspec
import trio
from pannier.shared.errors import Blame, PannierError
from pannier.sidecars.pilot.dns.answer import QUESTION_BYTES, TCP_BYTES, UDP_BYTES, Zone

RATE: Final = 2000
FAIR: Final = 50
"""Questions a second of one address that are answered also while others flood."""
CONNECTIONS: Final = 128
IDLE_SECONDS: Final = 10.0
_CHUNK: Final = 4096
_BUFFER: Final = 256 * 1024
_ATTEMPTS: Final = 8


class Statistics(msgspec.Struct, frozen=True):
    """Since the start. `dropped`: over the rate, or no question at all; `cut`: did not fit, to be asked over TCP."""

    answered: int
    refused: int
    malformed: int
    dropped: int
    cut: int


class Budget:
    """Whose question is answered, in this second. Only who is answered is counted, so it remembers `RATE` at most."""

    def __init__(self) -> None:
        self._second = 0
        self._taken = 0
        self._by: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Whether one more of that address is answered now."""
        second = int(trio.current_time())
        if second != self._second:
            self._second, self._taken = second, 0
            self._by.clear()
        if self._taken >= RATE or (2 * self._taken >= RATE and self._by[address] >= FAIR):
            return False
        self._taken += 1
        self._by[address] += 1
        return True


class DnsServer:
    """One place, (host, port); port 0 is any. Bound when it is made: raises PannierError. Listens when it serves."""

    def __init__(self, host: str, port: int) -> None:
        self._stream, self._datagrams = _bound(host, port)
        self._answered = self._refused = self._malformed = self._dropped = self._cut = 0
        self._udp, self._tcp = Budget(), Budget()
        self.host = host
        self.port: int = self._stream.getsockname()[1]

    def statistics(self) -> Statistics:
        return Statistics(self._answered, self._refused, self._malformed, self._dropped, self._cut)

    async def serve(self, zone: Zone, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers what that zone says, until cancelled. Raises PannierError if somebody else listens there now."""
        try:
            self._stream.listen(CONNECTIONS)
        except OSError as error:
            raise _taken(self.host, self.port, error) from error
        listener = trio.SocketListener(self._stream)
        limiter = trio.CapacityLimiter(CONNECTIONS)

        async def take(stream: trio.SocketStream) -> None:
            try:
                limiter.acquire_nowait()
            except trio.WouldBlock:
                await trio.aclose_forcefully(stream)
                return
            try:
                async with stream:
                    with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                        await self._converse(zone, stream)
            finally:
                limiter.release()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_datagrams, zone)
            nursery.start_soon(trio.serve_listeners, take, [listener])
            task_status.started()

    async def _take_datagrams(self, zone: Zone) -> None:
        with self._datagrams:
            while True:
                try:
                    packet, place = await self._datagrams.recvfrom(QUESTION_BYTES + 1)
                    answer = self._answer(zone, packet, UDP_BYTES) if self._takes(self._udp, place[0]) else None
                    if answer is not None:
                        await self._datagrams.sendto(answer, place)
                except OSError:  # of an earlier answer that nobody took, or of one that cannot be sent there
                    await trio.lowlevel.checkpoint()

    async def _converse(self, zone: Zone, stream: trio.SocketStream) -> None:
        waiting = b""
        address = stream.socket.getpeername()[0]
        while True:
            with trio.fail_after(IDLE_SECONDS):
                while len(waiting) < 2 or len(waiting) < (length := 2 + int.from_bytes(waiting[:2], "big")):
                    part = (
                        b"" if len(waiting) >= 2 and length - 2 > QUESTION_BYTES else await stream.receive_some(_CHUNK)
                    )
                    if not part:
                        return
                    waiting += part
            packet, waiting = waiting[2:length], waiting[length:]
            answer = self._answer(zone, packet, TCP_BYTES) if self._takes(self._tcp, address) else None
            if answer is None:
                return
            with trio.fail_after(IDLE_SECONDS):
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)

    def _takes(self, budget: Budget, address: str) -> bool:
        taken = budget.take(address)
        self._dropped += not taken
        return taken

    def _answer(self, zone: Zone, packet: bytes, most: int) -> bytes | None:
        found = zone.answer(packet, most=most)
        if found.packet is None:
            self._dropped += 1
        elif found.rcode == dns.rcode.FORMERR:
            self._malformed += 1
        elif found.rcode == dns.rcode.REFUSED:
            self._refused += 1
        else:
            self._answered += 1
            self._cut += found.cut
        return found.packet


def _bound(host: str, port: int) -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """A socket for streams and one for datagrams on one port, also if that is any."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        for attempt in range(_ATTEMPTS):
            stream = socket.socket(family, socket.SOCK_STREAM)
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            try:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                stream.bind(place)
                datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                datagrams.bind((place[0], stream.getsockname()[1], *place[2:]))
            except OSError:
                stream.close()
                datagrams.close()
                if port or attempt == _ATTEMPTS - 1:
                    raise
                continue
            return trio.socket.from_stdlib_socket(stream), trio.socket.from_stdlib_socket(datagrams)
    except OSError as error:
        raise _taken(host, port, error) from error
    raise AssertionError("the last attempt has raised")


def _taken(host: str, port: int, error: OSError) -> PannierError:
    return PannierError(
        f"cannot answer DNS on {host}:{port}: {error.strerror or error}",
        hint="choose another address with --dns; below port 1024 only root may",
        blame=Blame.USAGE,
    )
