"""The origin in gunicorn: a WSGI app that reads each request to its end and appends one line of JSON for it, and a
worker that does so for what gunicorn refuses before it is a request. The file's name is in the environment: `SEEN`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import ThreadWorker

LOG = os.open(os.environ["SEEN"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
PIECE = 1 << 16


class Worker(ThreadWorker):  # type: ignore[misc]
    """Writes down what is refused."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if not isinstance(exc, NoMoreData | ConnectionError | StopIteration):
            note(id="", method="", path=type(exc).__name__, authority="", status=400, length=0, hash=None)
        super().handle_error(req, client, addr, exc)


def note(**line: Any) -> None:
    """Appends a line, at once."""
    os.write(LOG, json.dumps(line).encode() + b"\n")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Reads, writes down, answers."""
    body: BinaryIO = environ["wsgi.input"]
    hashed, length, ended = hashlib.sha1(), 0, False
    try:
        while data := body.read(PIECE):
            hashed.update(data)
            length += len(data)
        ended = int(environ.get("CONTENT_LENGTH") or length) == length
    except (NoMoreData, OSError, ValueError):
        pass
    identity = environ.get("HTTP_X_REQUEST_ID", "")
    note(
        id=identity,
        method=environ["REQUEST_METHOD"],
        path=environ["RAW_URI"],
        authority=environ.get("HTTP_HOST", ""),
        status=200 if ended else 400,
        length=length,
        hash=hashed.hexdigest() if ended else None,
    )
    answer = b"" if environ["REQUEST_METHOD"] == "HEAD" else b"gunicorn"
    fields = [("X-Seen", identity), ("Content-Length", str(len(answer)))]
    start_response("200 OK" if ended else "400 Bad Request", fields)
    return [answer]
