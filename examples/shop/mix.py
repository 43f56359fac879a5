"""What the load asks for, and which answer is right.

A request is a function of its number alone (and of the orders placed before it), so a run can be looked at again by
number. Every answer is checked: its status, that it bears the request's number, and its whole body.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catalog import CENTS
from client import Request, Response

ITEMS = tuple(CENTS)
SERVICES = ("shop", "httpbin")  # those that the load talks to itself
LARGEST = 64 * 1024
_LETTERS = bytes(random.Random(7).choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=LARGEST * 2))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and its check: `wrong(response)` says what is wrong with an answer, "" if nothing is."""

    number: int
    kind: str
    service: str
    request: Request
    wrong: Callable[[Response], str]
    idempotent: bool = True


def ask(number: int, placed: Sequence[int]) -> Ask:
    """The request of this number; `placed` are orders that exist, the newest last."""
    choice = random.Random(number)
    kind = choice.choices(tuple(_KINDS), _WEIGHTS)[0]
    return _KINDS[kind](number, choice, placed)


def body_of(number: int, choice: random.Random) -> bytes:
    """1 B to 64 KiB, small ones more often (uniform in the logarithm); starts with the number where there is room."""
    size = max(1, round(LARGEST ** choice.random()))
    start = choice.randrange(LARGEST)
    return (b"%d:" % number + _LETTERS[start : start + size])[:size]


def _place(number: int, _choice: random.Random, _placed: Sequence[int]) -> Ask:
    order = _order(number)
    body = json.dumps({"item": order["item"], "quantity": order["quantity"]}).encode()
    request = Request("POST", "/orders", _headers(number, ("Content-Type", "application/json")), body)
    return Ask(number, "place", "shop", request, _json_is(number, 201, order), idempotent=False)


def _look(number: int, choice: random.Random, placed: Sequence[int]) -> Ask:
    if not placed:
        return _item(number, choice, placed)
    order = choice.choice(placed[-500:])
    request = Request("GET", f"/orders/{order}", _headers(number))
    return Ask(number, "look", "shop", request, _json_is(number, 200, _order(order)))


def _item(number: int, choice: random.Random, _placed: Sequence[int]) -> Ask:
    item = choice.choice(ITEMS)
    request = Request("GET", f"/catalog/{item}", _headers(number))
    return Ask(number, "item", "shop", request, _json_is(number, 200, {"item": item, "cents": CENTS[item]}))


def _head(number: int, choice: random.Random, _placed: Sequence[int]) -> Ask:
    item = choice.choice(ITEMS)
    length = len(json.dumps({"item": item, "cents": CENTS[item]}))

    def wrong(response: Response) -> str:
        told = response.headers.get("content-length")
        return _wrong_head(response, number, 200) or ("" if told == str(length) else f"content-length {told}")

    return Ask(number, "head", "shop", Request("HEAD", f"/catalog/{item}", _headers(number)), wrong)


def _mirror(number: int, choice: random.Random, _placed: Sequence[int]) -> Ask:
    body = body_of(number, choice)

    def wrong(response: Response) -> str:
        return _wrong_head(response, number, 200) or _differs(body, response.body)

    request = Request("POST", "/mirror", _headers(number, _OCTETS), body)
    return Ask(number, "mirror", "shop", request, wrong)


def _post(number: int, choice: random.Random, _placed: Sequence[int]) -> Ask:
    body = body_of(number, choice)
    request = Request("POST", "/post", _headers(number, _OCTETS), body)
    return Ask(number, "post", "httpbin", request, _httpbin_saw(number, body))


def _chunked(number: int, choice: random.Random, _placed: Sequence[int]) -> Ask:
    body = body_of(number, choice)
    request = Request("POST", "/anything", _headers(number, _OCTETS), body, chunked=True)
    return Ask(number, "chunked", "httpbin", request, _httpbin_saw(number, body))


def _nothing(number: int, _choice: random.Random, _placed: Sequence[int]) -> Ask:
    def wrong(response: Response) -> str:
        return _wrong_status(response, 204) or _differs(b"", response.body)

    return Ask(number, "nothing", "httpbin", Request("GET", "/status/204", _headers(number)), wrong)


_KINDS: dict[str, Callable[[int, random.Random, Sequence[int]], Ask]] = {
    "place": _place,
    "look": _look,
    "item": _item,
    "head": _head,
    "mirror": _mirror,
    "post": _post,
    "chunked": _chunked,
    "nothing": _nothing,
}
_WEIGHTS = (15, 15, 25, 5, 10, 10, 10, 10)
_OCTETS = ("Content-Type", "application/octet-stream")


def _order(number: int) -> dict[str, str | int]:
    """The order that the request of this number places, as the shop confirms it."""
    choice = random.Random(f"order {number}")
    item, quantity = choice.choice(ITEMS), choice.randint(1, 9)
    return {"number": number, "item": item, "quantity": quantity, "paid": quantity * CENTS[item]}


def _headers(number: int, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("x-shop-number", str(number)), *more)


def _wrong_status(response: Response, status: int) -> str:
    if response.status == status:
        return ""
    reason = response.headers.get("x-pannier-reason", "")
    return f"{response.status} {reason}".rstrip() + f" {response.body[:120]!r}"


def _wrong_head(response: Response, number: int, status: int) -> str:
    told = response.headers.get("x-shop-number")
    return _wrong_status(response, status) or ("" if told == str(number) else f"the answer is for {told}")


def _differs(expected: bytes, got: bytes) -> str:
    return "" if expected == got else f"wrong body: {len(got)} bytes for {len(expected)}: {got[:60]!r}"


def _json_is(number: int, status: int, expected: object) -> Callable[[Response], str]:
    def wrong(response: Response) -> str:
        return _wrong_head(response, number, status) or _differs(json.dumps(expected).encode(), response.body)

    return wrong


def _httpbin_saw(number: int, body: bytes) -> Callable[[Response], str]:
    """httpbin answers with what it saw: the body as text, and our headers."""

    def wrong(response: Response) -> str:
        if status := _wrong_status(response, 200):
            return status
        try:
            seen = json.loads(response.body)
            told = seen["headers"].get("X-Shop-Number")
            data = seen["data"].encode()
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"not what httpbin says: {response.body[:60]!r}"
        return _differs(body, data) or ("" if told == str(number) else f"httpbin saw number {told}")

    return wrong
