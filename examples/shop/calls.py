"""The outgoing side that the shop's services share: call another service by its name, through the mesh.

All that a mesh asks of a caller is here: talk to PANNIER_OUTBOUND and put the service's name into `Host`.
Each thread keeps one connection. It is replaced when the other end has closed it while it lay idle; nothing is ever
sent twice, since a request that may have arrived must not be repeated by guesswork. Refused: a session library with
its own retries, which would hide what the mesh does.
"""

from __future__ import annotations

import http.client
import os
import select
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

SECONDS = 5.0
_of_this_thread = threading.local()


class CallFailed(Exception):
    """The other service gave no answer, or not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str
    reason: str = ""
    """Why the mesh gave this answer itself (`FI`: a fault that was injected); empty if the other service gave it."""


def call(
    service: str,
    method: str,
    path: str,
    number: int,
    body: bytes | None = None,
    *,
    content_type: str = "application/json",
) -> Answer:
    """One request to `service`. CallFailed when it is not answered within 5 s or the answer bears another number."""
    connection = _connection()
    headers = {"Host": service, "x-shop-number": str(number)}
    if body is not None:
        headers["Content-Type"] = content_type
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        reason = response.getheader("x-pannier-reason", "")
        answer = Answer(response.status, response.read(), response.getheader("Content-Type", ""), reason)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise CallFailed(f"{service}: {type(error).__name__}: {error}") from error
    told = response.getheader("x-shop-number", str(number))
    if told != str(number):
        connection.close()
        raise CallFailed(f"{service}: the answer to {told} came for {number}")
    return answer


def _connection() -> http.client.HTTPConnection:
    connection: http.client.HTTPConnection | None = getattr(_of_this_thread, "connection", None)
    if connection is None:
        outbound = urlsplit(os.environ["PANNIER_OUTBOUND"])
        connection = http.client.HTTPConnection(outbound.hostname or "127.0.0.1", outbound.port, timeout=SECONDS)
        _of_this_thread.connection = connection
    elif connection.sock is not None and _has_ended(connection):
        connection.close()
    return connection


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """An idle connection that can be read has been closed by the other end: no answer is due on it."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
