"""How an origin may fail to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from tests.proxy.origin import Origin
from tests.proxy.wire import PATIENCE_S, Wire, answer


def hang(origin: Origin, wire: Wire) -> None:
    """Reads a request and never answers, until the other side ends the connection."""
    origin.take(wire.read_request())
    wire.read_to_end()


def hang_up(origin: Origin, wire: Wire) -> None:
    """Reads a request and ends the connection."""
    origin.take(wire.read_request())


@contextmanager
def held(*origins: Origin) -> Iterator[None]:
    """Origins that answer nothing until the end of the block, and 200 from then on."""
    gate = Event()

    def hold(_: object) -> bytes:
        gate.wait(PATIENCE_S)
        return answer()

    for origin in origins:
        origin.answer = hold
    try:
        yield
    finally:
        gate.set()
