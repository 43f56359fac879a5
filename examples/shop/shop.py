"""shop: the front. It holds nothing itself; it asks catalog, orders and httpbin by name, and checks what they say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment

from answers import answer_bytes, answer_json, number_of, read_json
from calls import Answer, CallFailed, call

PAGE = b"""A shop behind Pannier
  GET  /catalog            what there is
  GET  /catalog/mug        one item
  POST /orders             {"item": "mug", "quantity": 2}
  GET  /orders/17          an order placed before
  POST /mirror             anything; it comes back by way of httpbin
"""


def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    number = number_of(environ)
    try:
        match method, path.strip("/").split("/"):
            case "GET" | "HEAD", [""]:
                return answer_bytes(environ, start, 200, PAGE, "text/plain")
            case "GET" | "HEAD", ["catalog"]:
                return _pass_on(environ, start, call("catalog", "GET", "/items", number))
            case "GET" | "HEAD", ["catalog", item]:
                return _pass_on(environ, start, call("catalog", "GET", f"/items/{quote(item, safe='')}", number))
            case "GET" | "HEAD", ["orders", order]:
                return _pass_on(environ, start, call("orders", "GET", f"/orders/{quote(order, safe='')}", number))
            case "POST", ["orders"]:
                return _order(environ, start, number)
            case "POST", ["mirror"]:
                return _mirror(environ, start, number)
            case _:
                return answer_json(environ, start, 404, {"error": "no such page"})
    except CallFailed as error:
        return answer_json(environ, start, 502, {"error": str(error)})


def _order(environ: WSGIEnvironment, start: StartResponse, number: int) -> Iterable[bytes]:
    try:
        wanted = read_json(environ)
        item, quantity = str(wanted["item"]), int(wanted["quantity"])
    except (ValueError, TypeError, KeyError):
        return answer_json(environ, start, 400, {"error": "expected {item, quantity}"})
    price = call("catalog", "GET", f"/items/{quote(item, safe='')}", number)
    if price.status != 200:
        return _pass_on(environ, start, price)
    known = _document(price)
    if known.get("item") != item:
        raise CallFailed(f"catalog: asked for {item}, got {known}")
    body = json.dumps({"item": item, "quantity": quantity, "cents": known["cents"]}).encode()
    placed = call("orders", "POST", "/orders", number, body)
    expected = {"number": number, "item": item, "quantity": quantity, "paid": quantity * known["cents"]}
    if placed.status == 201 and _document(placed) != expected:
        raise CallFailed(f"orders: placed something else: {placed.body[:200]!r}")
    return _pass_on(environ, start, placed)


def _mirror(environ: WSGIEnvironment, start: StartResponse, number: int) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    seen = call("httpbin", "POST", "/anything", number, body, "application/octet-stream")
    if seen.status != 200:
        return _pass_on(environ, start, seen)
    if _document(seen).get("data") != body.decode("utf-8", "replace"):
        raise CallFailed("httpbin: it saw another body than the one sent")
    return answer_bytes(environ, start, 200, body, "application/octet-stream")


def _pass_on(environ: WSGIEnvironment, start: StartResponse, answer: Answer) -> Iterable[bytes]:
    return answer_bytes(environ, start, answer.status, answer.body, "application/json")


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except ValueError as error:
        raise CallFailed(f"not JSON: {answer.body[:200]!r}") from error
    if not isinstance(document, dict):
        raise CallFailed(f"not an object: {answer.body[:200]!r}")
    return document
