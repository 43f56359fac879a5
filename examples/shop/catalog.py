"""catalog: what the shop sells, and for how much."""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from answers import answer_json

CENTS = {"mug": 1250, "lamp": 4900, "chair": 12900, "pannier": 8400, "bell": 990, "map": 1500}


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
        case "GET" | "HEAD", ["items", item] if item in CENTS:
            return answer_json(environ, start, 200, {"item": item, "cents": CENTS[item]})
        case "GET" | "HEAD", ["items"]:
            return answer_json(environ, start, 200, CENTS)
        case _:
            return answer_json(environ, start, 404, {"error": "no such item"})
