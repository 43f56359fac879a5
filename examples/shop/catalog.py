"""catalog: what the shop sells, and for how much.

An instance with CATALOG_FAILS=5-8 answers 503 from the fifth to the eighth second of every half minute, counted from
its first numbered request. Each refusal is in its ledger before the answer leaves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import ledger
from answers import answer_json, number_of

CENTS = {"mug": 1250, "lamp": 4900, "chair": 12900, "pannier": 8400, "bell": 990, "map": 1500}
EVERY_SECONDS = 30.0
_begun: list[float] = []


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    if (number := number_of(environ)) and _fails():
        ledger.note("catalog", number, ledger.INJECTED)
        return answer_json(environ, start, 503, {"error": "catalog is not well"})
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
        case "GET" | "HEAD", ["items", item] if item in CENTS:
            return answer_json(environ, start, 200, {"item": item, "cents": CENTS[item]})
        case "GET" | "HEAD", ["items"]:
            return answer_json(environ, start, 200, CENTS)
        case _:
            return answer_json(environ, start, 404, {"error": "no such item"})


def is_ill(plan: str, seconds: float) -> bool:
    """Whether an instance with this plan (`5-8`, or empty for a sound one) fails so long after its first request."""
    first, _, last = plan.partition("-")
    return bool(plan) and float(first) <= seconds % EVERY_SECONDS < float(last)


def _fails() -> bool:
    now = time.monotonic()
    if not _begun:
        _begun.append(now)
    return is_ill(os.environ.get("CATALOG_FAILS", ""), now - _begun[0])
