"""What is sent in the rows of hostile traffic, as data.

What could be read in two ways is the same table by which the proxy alone is tested; here it comes while others are
served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.proxy.test_strictness import AMBIGUOUS, GET, HOST, OVER_LIMITS


@dataclass(frozen=True)
class Case:
    """Bytes of one connection, and the one status that they deserve; 0 = any, as long as it is one answer."""

    name: str
    data: bytes
    status: int


def pack(fields: int, each: int) -> bytes:
    """A request with so many fields of so many bytes."""
    return GET + b"".join(b"X-%02d: %b\r\n" % (number, b"y" * (each - 8)) for number in range(fields)) + b"\r\n"


FRAMING: Sequence[Case] = tuple(Case(name, data, 400) for name, data in AMBIGUOUS.items())

BOMBS: Sequence[Case] = (
    *(Case(name, data, status) for name, (status, data) in OVER_LIMITS.items()),
    Case("61 KiB of fields", pack(61, 1024), 431),
    Case("101 elements of Connection", GET + b"Connection: " + b",".join([b"a"] * 101) + b"\r\n\r\n", 431),
    Case("a thousand empty elements", GET + b"Connection: " + b"," * 1000 + b"\r\n\r\n", 431),
    Case("elements over many fields", GET + b"Connection: a, b\r\n" * 60 + b"\r\n", 431),
)

LEGITIMATE: Sequence[Case] = (
    Case(
        "90 cookie crumbs",
        GET + b"".join(b"Cookie: crumb-%d=%d\r\n" % (number, number) for number in range(90)) + b"X-Attack: 1\r\n",
        200,
    ),
    Case(
        "90 crumbs in one field",
        GET
        + b"Cookie: "
        + b"; ".join(b"crumb-%d=%d" % (number, number) for number in range(90))
        + b"\r\nX-Attack: 1\r\n",
        200,
    ),
    Case("59 KiB of fields", pack(59, 1024).removesuffix(b"\r\n") + b"X-Attack: 1\r\n", 200),
)
"""What must pass while bombs fall. Each asks for the end of its connection."""

OURS: Sequence[tuple[str, str]] = tuple(
    (name, value)
    for value, names in (
        ("99999999", ("x-pannier-deadline", "X-Pannier-Deadline", "X_Pannier_Deadline", "x_pannier-deadline")),
        ("critical", ("x-pannier-criticality", "X_PANNIER_CRITICALITY", "x-pannier_criticality")),
        ("7777", ("x-pannier-attempts", "X-Pannier-Attempt", "x_pannier_attempts", "x-pannier-retry-budget")),
        ("forged", ("x-pannier-reason", "x-pannier-source", "x-pannier-identity", "X-PANNIER-anything")),
    )
    for name in names
)
"""Our own fields and their aliases, as a stranger would write them."""

FORGED_LINE = '{"time":"2020-01-01T00:00:00.000Z","status":200}'
INJECTIONS: Sequence[Case] = (
    Case("CR LF in the path", b"GET /a\r\n" + FORGED_LINE.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("a bare LF in the path", b"GET /a\n" + FORGED_LINE.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("a bare CR in the path", b"GET /a\r" + FORGED_LINE.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("an escape in the path", b"GET /\x1b[31mred HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("a NUL in the path", b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("quotes in the path", b'GET /a","status":200,"x":"\\ HTTP/1.1\r\n' + HOST + b"Connection: close\r\n\r\n", 0),
    Case(
        "C1 controls in the path", b"GET /\xc2\x9b31mred\xc2\x85 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 0
    ),
    Case(
        "line separators in the path",
        "GET /a\u2028b\u2029 HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n",
        0,
    ),
    Case("direction marks in the path", "GET /a\u202eb HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n", 0),
    Case("no UTF-8 in the path", b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 0),
    Case("controls, encoded", b"GET /%0d%0a%1b[31m HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 200),
    Case("a quote in the method", b'GE"T / HTTP/1.1\r\n' + HOST + b"\r\n", 400),
    Case("an escape in the method", b"GE\x1bT / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    Case("a method of odd tokens", b"G'E|T`~^ / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 200),
    Case("a quote in the Host", b'GET / HTTP/1.1\r\nHost: a","status":200\r\n\r\n', 400),
    Case("an escape in the Host", b"GET / HTTP/1.1\r\nHost: a\x1b[31m\r\n\r\n", 400),
    Case("a line feed in the Host", b"GET / HTTP/1.1\r\nHost: a\n" + FORGED_LINE.encode() + b"\r\n\r\n", 400),
    Case("an escape in the user agent", GET + b"User-Agent: \x1b]0;owned\x07\r\n\r\n", 400),
    Case("quotes in the user agent", GET + b'User-Agent: ","status":200,"\\\r\nConnection: close\r\n\r\n', 200),
    Case("quotes in the request id", GET + b'X-Request-Id: ","status":200,"\\\r\nConnection: close\r\n\r\n', 200),
    Case("an escape in the trace state", GET + b"Tracestate: \x1b[31m\r\nConnection: close\r\n\r\n", 400),
)
"""Bytes that would spoil a log in which they were written as they came."""

UNKNOWN_HOSTS = (
    "evil.example",
    "localhost.evil.example",
    "orders.evil",
    "metadata.google.internal",
    "no-such-name.invalid",
)
"""Authorities that are not served here. To look one up would already be a service to the attacker."""

FORBIDDEN_HOSTS = (
    "169.254.169.254",
    "169.254.1.1:8080",
    "100.100.100.200",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.16689662",
)
"""Link-local addresses and metadata services, and names that the resolver makes such addresses of."""

UPGRADES: Sequence[bytes] = tuple(
    GET + b"Connection: upgrade\r\n" + fields + b"\r\n" + early
    for fields in (
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    )
    for early in (b"\x81\x05hello", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64 + b"\r\n\r\n")
)
"""An upgrade that the app does not grant, with the bytes of the other protocol right behind it."""
