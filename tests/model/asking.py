"""One question over HTTP on a Unix socket, answered or not in time; what `recording.py` asks pilots with.

Pathnames of sockets are the same in all network namespaces: who asks here reaches a pilot whatever it is cut off from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h11
import trio

CHUNK = 65_536


class NotAsked(Exception):
    """Nobody listens: nothing has happened."""


class Lost(Exception):
    """There was no answer: it may have happened."""


async def ask(socket: Path, method: str, target: str, body: object = None, *, within: float) -> tuple[int, Any]:
    """Status and body of the answer."""
    try:
        stream = await trio.open_unix_socket(str(socket))
    except (OSError, RuntimeError) as error:
        raise NotAsked(str(error)) from error
    http = h11.Connection(h11.CLIENT)
    data = json.dumps(body).encode() if body is not None else b""
    headers = [("host", "pilot"), ("content-type", "application/json"), ("content-length", str(len(data)))]
    events = (h11.Request(method=method, target=target, headers=headers), h11.Data(data=data), h11.EndOfMessage())
    try:
        with trio.fail_after(within):
            await stream.send_all(b"".join(http.send(event) or b"" for event in events))
            return await _answer(http, stream)
    except (trio.TooSlowError, trio.BrokenResourceError, h11.ProtocolError, ValueError) as error:
        raise Lost(str(error) or type(error).__name__) from error
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _answer(http: h11.Connection, stream: trio.SocketStream) -> tuple[int, Any]:
    status, found = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            found += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, json.loads(found or b"null")
        else:
            raise ValueError("the connection ended early")
