"""shop: the front. It holds nothing itself; it asks catalog, orders and httpbin by name, and checks what they say.

A call into which the mesh was told to inject a fault is in its ledger: the number never reached anybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment

import ledger
from answers import answer_bytes, number_of, read_json
from calls import Answer, CallFailed, call

PAGE = b"""A shop behind Pannier
  GET  /catalog            what there is
  GET  /catalog/mug        one item
  POST /orders             {"item": "mug", "quantity": 2}
  GET  /orders/17          an order placed before
  POST /mirror             anything; it comes back by way of httpbin
"""


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    try:
        answer = _answer(environ, number_of(environ))
    except CallFailed as error:
        answer = _refusal(502, str(error))
    if answer.reason == "FI":
        ledger.note("shop", number_of(environ), ledger.INJECTED)
    return answer_bytes(environ, start, answer.status, answer.body, answer.content_type)


def _answer(environ: WSGIEnvironment, number: int) -> Answer:
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
        case "GET" | "HEAD", [""]:
            answer = Answer(200, PAGE, "text/plain")
        case "GET" | "HEAD", ["catalog"]:
            answer = call("catalog", "GET", "/items", number)
        case "GET" | "HEAD", ["catalog", item]:
            answer = call("catalog", "GET", f"/items/{quote(item, safe='')}", number)
        case "GET" | "HEAD", ["orders", order]:
            answer = call("orders", "GET", f"/orders/{quote(order, safe='')}", number)
        case "POST", ["orders"]:
            answer = _order(environ, number)
        case "POST", ["mirror"]:
            answer = _mirror(environ, number)
        case _:
            answer = _refusal(404, "no such page")
    return answer


def _order(environ: WSGIEnvironment, number: int) -> Answer:
    try:
        wanted = read_json(environ)
        item, quantity = str(wanted["item"]), int(wanted["quantity"])
    except (ValueError, TypeError, KeyError):
        return _refusal(400, "expected {item, quantity}")
    price = call("catalog", "GET", f"/items/{quote(item, safe='')}", number)
    if price.status != 200:
        return price
    known = _document(price)
    if known.get("item") != item:
        raise CallFailed(f"catalog: asked for {item}, got {known}")
    body = json.dumps({"item": item, "quantity": quantity, "cents": known["cents"]}).encode()
    placed = call("orders", "POST", "/orders", number, body)
    expected = {"number": number, "item": item, "quantity": quantity, "paid": quantity * known["cents"]}
    if placed.status == 201 and _document(placed) != expected:
        raise CallFailed(f"orders: placed something else: {placed.body[:200]!r}")
    return placed


def _mirror(environ: WSGIEnvironment, number: int) -> Answer:
    body = environ["wsgi.input"].read()
    seen = call("httpbin", "POST", "/anything", number, body, content_type="application/octet-stream")
    if seen.status != 200:
        return seen
    if _document(seen).get("data") != body.decode("utf-8", "replace"):
        raise CallFailed("httpbin: it saw another body than the one sent")
    return Answer(200, body, "application/octet-stream")


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except ValueError as error:
        raise CallFailed(f"not JSON: {answer.body[:200]!r}") from error
    if not isinstance(document, dict):
        raise CallFailed(f"not an object: {answer.body[:200]!r}")
    return document


def _refusal(status: int, error: str) -> Answer:
    return Answer(status, json.dumps({"error": error}).encode(), "application/json")
