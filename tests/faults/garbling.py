"""Bytes on the bus that are no message: each ends its own connection, at once, and costs nobody anything.

Every case is said twice, as the first thing on a connection and after Welcome. The time counts from when the last byte
that is needed for the verdict was handed to the kernel until the end of the connection was read.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pannier.shared import envelope
from pannier.shared.envelope import Hello, Publish, Request, Subscribe
from pannier.shared.framing import MAX_FRAME, frame

from tests.faults.bed import Bed
from tests.faults.bus_peer import PATIENCE_S, Peer
from tests.faults.gauge import MIB, resident, resident_peak
from tests.faults.killing import alternating, pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial

CLOSED_S = 0.01
TRIES = 3
SLOW_S = {"at once": 2.0, "after Welcome": 5.0}
SLACK_S = 0.5  # of those two: a load is on, and one byte a second is not counted to the millisecond
EXT = (0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8)
MESSAGES = (
    Hello(envelope.VERSION, "f" * 64, 1, "traffic"),
    Request(1, "supervisor", "status", b"\x80"),
    Subscribe(["lifecycle", "services"]),
    Publish("events", b"\x80", retain=False),
)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def truncated() -> Iterator[bytes]:
    """Each message, ended after each of its bytes."""
    for message in MESSAGES:
        body = frame(message)[4:]
        for length in range(1, len(body)):
            yield framed(body[:length])


def nested() -> Iterator[bytes]:
    for levels in (33, 34, 64, 100, 1_000, 10_000, 65_535, 100_000):
        yield framed(b"\x91" * (levels - 1) + b"\x90")
        yield framed((b"\x81\xa1t" * (levels - 1))[: MAX_FRAME - 1] + b"\x80")


def maps() -> Iterator[bytes]:
    """10^6 keys said, and as many as a frame holds; both with and without the keys."""
    yield framed(b"\xdf" + struct.pack(">I", 10**6))
    yield framed(b"\xdf" + struct.pack(">I", 10**6) + b"\x01\x01" * 100_000)
    many = (MAX_FRAME - 5) // 6
    yield framed(
        b"\xdf" + struct.pack(">I", many) + b"".join(b"\xce%b\x01" % struct.pack(">I", n) for n in range(many))
    )
    yield framed(b"\xdf\xff\xff\xff\xff")
    yield framed(b"\xdd\xff\xff\xff\xff")
    yield framed(b"\xdb\xff\xff\xff\xff")


def extended() -> Iterator[bytes]:
    """Every ext type, alone and inside a message, and the three timestamps."""
    for lead in EXT:
        yield framed(bytes((lead, 1, 5)) + b"x" * 16)
        yield framed(b"\x82\xa1t\xa4beat\xa1x" + bytes((lead, 1, 5)) + b"x" * 16)
    yield framed(b"\xd6\xff" + bytes(4))
    yield framed(b"\xd7\xff" + bytes(8))
    yield framed(b"\xc7\x0c\xff" + bytes(12))


def misspelt() -> Iterator[bytes]:
    """Text that is not UTF-8: as a key, as a value, as the kind of message; and what is no message at all."""
    for bad in (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"):
        text = bytes((0xA0 + len(bad),)) + bad
        yield framed(b"\x81" + text + b"\x01")
        yield framed(b"\x81\xa1t" + text)
        yield framed(frame(MESSAGES[1])[4:].replace(b"\xa6status", bytes((0xA0 + 6,)) + bad.ljust(6, b"x")))
    yield framed(b"\x81\xa1t\xa4eval")
    yield framed(b"\xc0")
    yield b"GET / HTTP/1.1\r\nHost: bus\r\n\r\n"


def lengths() -> Iterator[bytes]:
    """Prefixes that are not allowed, whatever follows them."""
    for length in (0, MAX_FRAME + 1, 16 * MIB, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        yield struct.pack(">I", length)
    yield struct.pack(">I", 16 * MIB) + bytes(16 * MIB)
    yield b"\xff\xff\xff\xff" + b"\xff" * (1 << 20)


CASES: Mapping[str, tuple[bytes, ...]] = {
    "truncated": tuple(truncated()),
    "nested": tuple(nested()),
    "maps": tuple(maps()),
    "extended": tuple(extended()),
    "misspelt": tuple(misspelt()),
    "lengths": tuple(lengths()),
}


@dataclass
class Drip(threading.Thread):
    """One byte a second of a message that is all right otherwise, until it is cut; `lasted_s` counts from the first."""

    path: Path
    welcome: bool
    lasted_s: float = 99.0
    code: str = ""
    trouble: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            with Peer(self.path) as peer:
                if self.welcome:
                    peer.enter()
                over = threading.Event()
                dripping = threading.Thread(target=self._drip, args=(peer, over))
                began = time.monotonic()
                dripping.start()
                peer.hear_end()
                self.lasted_s, self.code = time.monotonic() - began, peer.code
                over.set()
                dripping.join()
        except (AssertionError, OSError) as error:
            self.trouble.append(repr(error))

    def _drip(self, peer: Peer, over: threading.Event) -> None:
        for byte in frame(MESSAGES[0]):
            peer.send(bytes((byte,)))
            if over.wait(1.0):
                return


class Garbled(Fault):
    """All cases, one after the other, while two connections drip. Each is tried again if it was not closed in time, up
    to three times in all: the two cores are also those of the load; the slowest of all tries is told."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        supervisor = before["supervisor"].pid
        path = bed.host.runtime / service / "bus.sock"
        drips = {"at once": Drip(path, welcome=False), "after Welcome": Drip(path, welcome=True)}
        for drip in drips.values():
            drip.start()
        for kind, cases in CASES.items():
            held = resident(supervisor)
            with resident_peak(supervisor) as peak:
                for number, case in enumerate(cases):
                    for welcome in (False, True):
                        what = f"{kind} {number + 1}{' after Welcome' if welcome else ''}"
                        self._try(path, trial, what, case, welcome=welcome)
            grown = (peak.bytes - held) / MIB
            trial.times["grown_mib"] = max(grown, trial.times.get("grown_mib", 0.0))
            trial.require(grown <= 1.0, f"{kind}: the supervisor took {grown:.2f} MiB")
        for when, drip in drips.items():
            drip.join()
            trial.require(not drip.trouble, f"a drip {when}: {drip.trouble}")
            trial.within(f"drip_{when.split()[-1].lower()}_s", drip.lasted_s, SLOW_S[when] + SLACK_S)
            trial.require(drip.code in ("late", "protocol"), f"a drip {when} was told {drip.code!r}")
        after = bed.processes(service)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")

    def _try(self, path: Path, trial: Trial, what: str, case: bytes, *, welcome: bool) -> None:
        took: list[float] = []
        while len(took) < TRIES and min(took, default=99.0) > CLOSED_S:
            with Peer(path) as peer:
                if welcome:
                    peer.enter()
                took.append(_ended(peer, case))
                trial.require(peer.code in ("protocol", ""), f"{what} was told {peer.code}")
                trial.require(peer.descriptors == 0, f"{what} was given descriptors")
        trial.add("cases", 1)
        trial.times["slowest_close_s"] = max(*took, trial.times.get("slowest_close_s", 0.0))
        trial.within("closed_s", min(took), CLOSED_S)


def _ended(peer: Peer, data: bytes) -> float:
    """Seconds from the first bytes, which are enough for the verdict, to the end of the connection."""
    began = time.monotonic()
    peer.socket.setblocking(False)
    try:
        sent = peer.socket.send(data)
    except (BrokenPipeError, ConnectionResetError):
        sent = len(data)
    peer.socket.settimeout(PATIENCE_S)
    if sent < len(data):
        if len(data) <= MAX_FRAME + 4:  # the verdict needs all of it
            peer.send(data[sent:])
            began = time.monotonic()
        else:
            peer.send(data[sent:])
    peer.hear_end()
    return time.monotonic() - began
