"""One strict reading of what a caller sent: RFC 9112's framing and nothing else, as plainly as it can be written.

It is a second opinion, not a parser: it knows all bytes beforehand, takes no part of a body on trust, and stops at the
first thing that has no single meaning. What Pannier forwards must be what stands here, in this order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Visible bytes, spaces, tabs and obs-text.
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
FRAMING = {b"content-length", b"transfer-encoding", b"content_length", b"transfer_encoding"}


class Unreadable(Exception):
    """It has no single meaning, or no end."""


@dataclass(frozen=True, slots=True)
class Read:
    """A request. `size`: its bytes as they came; `body`: None for one that does not end, or not well."""

    method: bytes
    path: bytes
    authority: bytes
    body: bytes | None
    size: int
    is_chunked: bool
    is_last: bool


def read_all(data: bytes) -> list[Read]:
    """The requests up to the first that cannot be read; one whose body cannot is the last."""
    found: list[Read] = []
    at = 0
    while at < len(data):
        at += 2 if data.startswith(b"\r\n", at) else 0
        try:
            one = _read(data, at)
        except Unreadable:
            break
        found.append(one)
        at += one.size
        if one.body is None or one.is_last:
            break
    return found


def _read(data: bytes, at: int) -> Read:
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        raise Unreadable
    start, *lines = data[at:end].split(b"\r\n")
    parts = start.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.0", b"HTTP/1.1") or not TOKEN.fullmatch(parts[0]):
        raise Unreadable
    fields = [_field(line) for line in lines]
    is_old = parts[2] == b"HTTP/1.0"
    hosts, lengths, codings = (_all(fields, n) for n in (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) > 1 or len(lengths) + len(codings) > 1 or (is_old and codings) or (not is_old and not hosts):
        raise Unreadable
    if not all(value.isdigit() for value in lengths) or not all(value.lower() == b"chunked" for value in codings):
        raise Unreadable
    path, authority = _target(parts[0], parts[1], hosts[0] if hosts else b"")
    options = {option.strip(b" \t").lower() for value in _all(fields, b"connection") for option in value.split(b",")}
    is_last = b"close" in options or (is_old and b"keep-alive" not in options)
    try:
        body, stop = _chunked(data, end + 4) if codings else _sized(data, end + 4, int(lengths[0]) if lengths else 0)
    except Unreadable:
        body, stop = None, len(data)
    return Read(parts[0], path, authority, body, stop - at, bool(codings), is_last)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
        raise Unreadable
    return name.lower(), value.strip(b" \t")


def _all(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for known, value in fields if known == name]


def _target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, host
    absolute = re.fullmatch(rb"http://([^/?#]+)(/.*)?", target, re.IGNORECASE | re.DOTALL)
    if absolute is None:
        raise Unreadable
    return absolute[2] or (b"*" if method == b"OPTIONS" else b"/"), absolute[1]


def _sized(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(data):
        raise Unreadable
    return data[at : at + length], at + length


def _chunked(data: bytes, at: int) -> tuple[bytes, int]:
    body = bytearray()
    while True:
        line = SIZE_LINE.match(data, at)
        if line is None:
            raise Unreadable
        size, at = int(line[1], 16), line.end()
        if size == 0:
            return bytes(body), _after_trailers(data, at)
        chunk, at = _sized(data, at, size)
        body += chunk
        if not data.startswith(b"\r\n", at):
            raise Unreadable
        at += 2


def _after_trailers(data: bytes, at: int) -> int:
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Unreadable
        if end == at:
            return end + 2
        if _field(data[at:end])[0] in FRAMING:
            raise Unreadable
        at = end + 2
