"""Listens like a Central, and is none: `python false_central.py HOST:PORT WORD`.

`nothing` is never said; `yes` accepts and then says nothing; `no` ends each connection; `nonsense` are bytes that mean
nothing; `grants` accepts, and answers with a frame that is longer than any.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

ANSWERS = {
    "nothing": b"",
    "yes": b"\x06",
    "nonsense": bytes(range(256)) * 4,
    "grants": b"\x06\xff\xff\xff\x7f" + b"\x80" * 4096,
}


def serve(address: tuple[str, int], word: str) -> None:
    kept = []
    with socket.create_server(address) as listener:
        while True:
            connection, _ = listener.accept()
            with suppress(OSError):
                if word == "no":
                    connection.close()
                    continue
                connection.sendall(ANSWERS[word])
                kept.append(connection)


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    serve((host, int(port)), sys.argv[2])
