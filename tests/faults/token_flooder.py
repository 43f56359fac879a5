"""Asks a Central for tokens as often as it can, as a thousand hosts that are none, and as the app's host that it is
not.

    python -m tests.faults.token_flooder HOST:PORT SECONDS

Prints how often it has asked. What it says is that of `shared/core/proxy/src/central/wire.rs`.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import suppress

import msgpack

from tests.faults.central_wire import preface

CONNECTIONS = 8
BATCH = 50


def frame(message: object) -> bytes:
    body: bytes = msgpack.packb(message)
    return struct.pack("<I", len(body)) + body


def hello(service: str, instance: str) -> bytes:
    return frame({"Hello": {"service": service, "instance": instance, "passthrough": None, "redirects": False}})


def want(number: int) -> bytes:
    words = {"sequence": number, "rate": 1e12, "weight": 100.0, "revision": 7, "inbound": True, "outbound": True}
    return frame({"Want": words})


def flood(address: tuple[str, int], seconds: float) -> int:
    """How many asked for tokens in that time."""
    until, asked, number = time.monotonic() + seconds, 0, 0
    open_ones: list[socket.socket] = []
    while time.monotonic() < until:
        if len(open_ones) < CONNECTIONS:
            number += 1
            service, instance = ("shop", f"false-{number}") if number % 2 else ("flooder", f"f{number}")
            with suppress(OSError):
                connection = socket.create_connection(address, 1)
                connection.settimeout(0.05)
                connection.sendall(preface(ord("c"), service, instance) + hello(service, instance))
                open_ones.append(connection)
        for connection in tuple(open_ones):
            try:
                connection.sendall(b"".join(want(number) for number in range(BATCH)))
                asked += BATCH
                with suppress(TimeoutError):
                    if not connection.recv(1 << 16):
                        raise ConnectionError
            except OSError:
                connection.close()
                open_ones.remove(connection)
    return asked


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    print(flood((host, int(port)), float(sys.argv[2])))
