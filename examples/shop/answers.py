"""The incoming side that the shop's services share: read a JSON body, give a JSON answer.

Plain WSGI on purpose: a service needs nothing of Pannier to live in a mesh.
Rule: every answer repeats the request's number, so that the caller can tell an answer that belongs to somebody else.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def number_of(environ: WSGIEnvironment) -> int:
    """The request's number from `x-shop-number`; 0 for a request from outside the load (a browser)."""
    text = str(environ.get("HTTP_X_SHOP_NUMBER", ""))
    return int(text) if text.isdecimal() else 0


def read_json(environ: WSGIEnvironment) -> dict[str, Any]:
    """The request's body as a JSON object; ValueError if it is none."""
    document = json.loads(environ["wsgi.input"].read())
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def answer_json(environ: WSGIEnvironment, start: StartResponse, status: int, document: object) -> list[bytes]:
    """A whole JSON answer."""
    return answer_bytes(environ, start, status, json.dumps(document).encode(), "application/json")


def answer_bytes(
    environ: WSGIEnvironment, start: StartResponse, status: int, body: bytes, content_type: str
) -> list[bytes]:
    """A whole answer; the body is left out for HEAD and its length is told all the same."""
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("x-shop-number", str(number_of(environ))),
    ]
    start(f"{status} {HTTPStatus(status).phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
