"""A process that says as much as it can for some seconds, on the bus or to nobody.

    python flooder.py bus SECONDS VERB PATH     requests to the supervisor, over one connection after the other
    python flooder.py hog SECONDS VERB          the same loop into a socket that nobody reads: the same CPU

It prints JSON: of each connection how long it was read, how many answers came, and the code that ended it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time

import msgpack

MOST = 1 << 16
HELLO_S = 5.0


def framed(**fields: object) -> bytes:
    body: bytes = msgpack.packb(fields, use_bin_type=True)
    return struct.pack(">I", len(body)) + body


def hello() -> bytes:
    return framed(t="hello", version=1, token="", pid=os.getpid(), role="cli")


def flood(sock: socket.socket, chunk: bytes, until: float) -> dict[str, object]:
    """Writes and reads without ever waiting; what was counted until the peer ended it, or until it was time."""
    sock.setblocking(False)
    began, answers, code, tail, waiting = time.monotonic(), 0, "", b"", memoryview(chunk)
    is_cut = False
    while (now := time.monotonic()) < until:
        try:
            waiting = waiting if is_cut else waiting[sock.send(waiting) :] or memoryview(chunk)
        except BlockingIOError:
            pass
        except OSError:
            is_cut = True  # what was said to us before can still be read
        try:
            data = sock.recv(MOST)
        except BlockingIOError:
            continue
        except OSError:
            break
        if not data:
            break
        tail += data
        while len(tail) >= 4 and len(tail) >= 4 + (size := struct.unpack_from(">I", tail)[0]):
            message = msgpack.unpackb(tail[4 : 4 + size])
            tail = tail[4 + size :]
            if message["t"] == "reject":
                code = message["code"]
            else:
                answers += 1
    return {"lasted_s": now - began, "answers": answers, "code": code}


def main() -> None:
    mode, seconds, verb, *path = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    chunk = b"".join(framed(t="request", id=n, to="supervisor", verb=verb, body=b"\x80") for n in range(200))
    found = []
    while time.monotonic() < until:
        if mode == "bus":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(HELLO_S)
                sock.connect(path[0])
                sock.sendall(hello())
                sock.recv(MOST)
                found.append(flood(sock, chunk, until))
        else:
            mine, theirs = socket.socketpair()
            with mine, theirs:
                found.append(flood(mine, chunk, until))
    print(json.dumps({"connections": found, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
