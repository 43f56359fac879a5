"""orders: takes an order, has it paid, and remembers it.

Its ledger has an entry for every attempt that arrived, so that an order which came twice cannot hide.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import ledger
from answers import answer_json, number_of, read_json
from calls import CallFailed, call

REMEMBERED = 20_000
_orders: OrderedDict[int, dict[str, Any]] = OrderedDict()


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
        case "POST", ["orders"]:
            return _place(environ, start)
        case "GET" | "HEAD", ["orders", order] if order.isdecimal() and int(order) in _orders:
            return answer_json(environ, start, 200, _orders[int(order)])
        case _:
            return answer_json(environ, start, 404, {"error": "no such order"})


def _place(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    number = number_of(environ)
    try:
        wanted = read_json(environ)
        item, quantity, cents = str(wanted["item"]), int(wanted["quantity"]), int(wanted["cents"])
    except (ValueError, TypeError, KeyError):
        return answer_json(environ, start, 400, {"error": "expected {item, quantity, cents}"})
    ledger.note("orders", number, "arrived")
    total = quantity * cents
    try:
        paid = call("payments", "POST", "/payments", number, json.dumps({"cents": total}).encode())
    except CallFailed as error:
        return answer_json(environ, start, 502, {"error": str(error)})
    if paid.status != 201:
        return answer_json(environ, start, paid.status, {"error": f"payments answered {paid.status}"})
    if json.loads(paid.body) != {"number": number, "cents": total}:
        return answer_json(environ, start, 502, {"error": "payments confirmed something else"})
    order = {"number": number, "item": item, "quantity": quantity, "paid": total}
    _orders[number] = order
    if len(_orders) > REMEMBERED:
        _orders.popitem(last=False)
    return answer_json(environ, start, 201, order)
