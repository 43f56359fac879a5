"""payments: takes the money, and fails now and then.

PAYMENTS_FAIL_PERCENT of all payments are refused with 503. Each of them is in the ledger before the answer leaves, so
that a failure which a customer sees can be told from one that the mesh made.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import ledger
from answers import answer_json, number_of, read_json


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "POST", "/payments":
            return _pay(environ, start)
        case _:
            return answer_json(environ, start, 404, {"error": "no such page"})


def _pay(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    number = number_of(environ)
    try:
        cents = int(read_json(environ)["cents"])
    except (ValueError, TypeError, KeyError):
        return answer_json(environ, start, 400, {"error": "expected {cents}"})
    if random.random() * 100 < float(os.environ.get("PAYMENTS_FAIL_PERCENT", "2")):
        ledger.note("payments", number, ledger.INJECTED)
        return answer_json(environ, start, 503, {"error": "payments is not in the mood"})
    ledger.note("payments", number, "charged")
    return answer_json(environ, start, 201, {"number": number, "cents": cents})
