"""The conversations that are tried: a few requests on one connection, some of them odd, some of their bytes changed.

A case is a function of (seed, number) alone, so that one that failed can be made again by itself. It is kept as its
requests and its mutations, not as bytes, so that it can be made smaller by leaving some out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.conformance.differential import vocabulary as words

#: A mutation: bytes in, bytes out, with the randomness of its own number.
Mutate = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of the bytes; `seed` says where."""

    kind: str
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation: what is sent on one connection, and into how many pieces it is cut."""

    number: int
    requests: tuple[bytes, ...]
    mutations: tuple[Mutation, ...]
    pieces: int

    @property
    def data(self) -> bytes:
        """All that the caller sends."""
        data = b"".join(self.requests)
        for mutation in self.mutations:
            data = MUTATIONS[mutation.kind](random.Random(mutation.seed), data)
        return data

    def sends(self) -> list[bytes]:
        """The same, as it is given to the kernel."""
        data, rng = self.data, random.Random(self.number)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(self.pieces - 1))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]

    def smaller(self) -> Iterator[Case]:
        """Cases with one thing less."""
        for i in range(len(self.mutations)):
            yield replace(self, mutations=self.mutations[:i] + self.mutations[i + 1 :])
        if len(self.requests) > 1:
            for i in range(len(self.requests)):
                yield replace(self, requests=self.requests[:i] + self.requests[i + 1 :])
        if self.pieces > 1:
            yield replace(self, pieces=1)


def make(seed: int, number: int) -> Case:
    """The case of that number."""
    rng = random.Random(f"{seed}/{number}")
    requests = []
    # How odd a conversation is: where every request was, none but the first would be read.
    oddity = rng.choice((0.0, 0.0, 0.2, 0.4, 1.0))
    for index in range(rng.choice((1, 1, 2, 3, 4, 6, 8))):
        if index and rng.random() < 0.1 * oddity:
            requests.append(rng.choice(words.GAPS))
        oddities = rng.choice((1, 1, 2)) if rng.random() < oddity else 0
        requests.append(_request(rng, number, index, oddities))
    mutations = []
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2, 4))):
            mutations.append(Mutation(rng.choice(tuple(MUTATIONS)), rng.getrandbits(32)))
    return Case(number, tuple(requests), tuple(mutations), rng.choice((1, 1, 1, 2, 4)))


def _request(rng: random.Random, number: int, index: int, oddities: int) -> bytes:
    odd = {rng.choice(("target", "version", "host", "field", "length", "coding", "chunk", "end", "both", "hidden"))
           for _ in range(oddities)}  # fmt: skip
    method = rng.choices(tuple(words.METHODS), tuple(words.METHODS.values()))[0]
    path = b"/%d/%d" % (number, index)
    target = path + rng.choice(words.TAILS[:15] if "target" not in odd else words.TAILS)
    if rng.random() < (0.5 if "target" in odd else 0.05):
        shape = rng.choice(words.TARGETS if "target" in odd else words.TARGETS[:3])
        target = shape.replace(b"%s", target)
    version = b" HTTP/1.0" if rng.random() < 0.02 else b" HTTP/1.1"
    if "version" in odd:
        version = rng.choice(words.VERSIONS)
    host = rng.choice(words.HOSTS) if "host" in odd else b"Host: localhost\r\n"
    fields = [host, b"X-Number: %d.%d\r\n" % (number, index)]
    fields += rng.sample(words.PLAIN, rng.choice((0, 1, 1, 2, 3)))
    if rng.random() < 0.05:
        fields.append(b"X-Request-Id: own-%d-%d\r\n" % (number, index))
    if "field" in odd:
        fields.append(rng.choice(words.ODD))
    framing, body = _body(rng, method, odd, number)
    fields.append(framing)
    rng.shuffle(fields)
    return method + b" " + target + version + b"\r\n" + b"".join(fields) + b"\r\n" + body


def _body(rng: random.Random, method: bytes, odd: set[str], number: int) -> tuple[bytes, bytes]:
    """The fields that frame it, and the body as it is sent."""
    content = _content(rng, number)
    length = b"Content-Length: %d\r\n" % len(content)
    kind = rng.choice(("length", "chunked", "none" if method in (b"GET", b"HEAD", b"DELETE") else "chunked"))
    if odd & {"coding", "chunk", "end", "both"}:
        kind = "chunked"
    elif odd & {"length", "hidden"}:
        kind = "length"
    if kind == "none":
        return rng.choice((b"", b"", b"Content-Length: 0\r\n")), b""
    if kind == "length":
        if "length" in odd:
            length = _filled(rng.choice(words.LENGTHS), len(content))
        if "hidden" in odd:
            length += rng.choice(words.CODINGS)
        return length, content
    coding = rng.choice(words.CODINGS) if "coding" in odd else b"Transfer-Encoding: chunked\r\n"
    body = _chunked(rng, content, odd)
    if "both" in odd:
        said = rng.choice((0, len(content), len(body), len(body) // 2))
        shape = b"Content-Length: %d\r\n" if rng.random() < 0.6 else rng.choice(words.LENGTHS)
        both = [coding, _filled(shape, said)]
        rng.shuffle(both)
        coding = b"".join(both)
    return coding, body


def _content(rng: random.Random, number: int) -> bytes:
    smuggled = b"GET /%d/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n" % number
    return rng.choice(
        (
            b"",
            b"x",
            b"hello",
            smuggled,
            b"0\r\n\r\n" + smuggled,
            b"\r\n" + smuggled,
            b"5\r\nhello\r\n0\r\n\r\n" + smuggled,
            bytes(range(256)),
            rng.randbytes(rng.choice((10, 100, 1000))),
            rng.randbytes(rng.choice((10_000, 40_000))) if rng.random() < 0.2 else b"y" * 300,
        )
    )


def _chunked(rng: random.Random, content: bytes, odd: set[str]) -> bytes:
    out: list[bytes] = []
    rest = content
    odd_at = rng.randrange(3) if "chunk" in odd else -1
    while rest or (odd_at >= 0 and not out):
        size = rng.choice((1, 7, 16, 255, 5000, len(rest) or 1))
        data, rest = rest[:size], rest[size:]
        shape = rng.choice(words.CHUNKS) if len(out) == odd_at or (odd_at >= 0 and not rest) else b"%x\r\n%s\r\n"
        out.append(_chunk(shape, data))
        if len(out) > 20 and rest:
            out.append(_chunk(b"%x\r\n%s\r\n", rest))
            break
    return b"".join(out) + (rng.choice(words.ENDS) if "end" in odd else b"0\r\n\r\n")


def _chunk(shape: bytes, data: bytes) -> bytes:
    before, after = shape.split(b"%s")
    return before.replace(b"%x", b"%x" % len(data)).replace(b"%X", b"%X" % len(data)) + data + after


def _filled(shape: bytes, length: int) -> bytes:
    return shape.replace(b"%d", b"%d" % length).replace(b"%x", b"%x" % length)


def _place(rng: random.Random, data: bytes) -> int:
    """Somewhere, more often near a line's end: that is where framing is."""
    ends = [i for i in range(len(data)) if data[i] == 10] if rng.random() < 0.5 and len(data) < 20_000 else []
    if ends:
        return min(len(data), max(0, rng.choice(ends) + rng.randrange(-3, 3)))
    return rng.randrange(len(data) + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _replace(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(words.INSERTED) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(words.INSERTED) + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 2, 10)) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _duplicate_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])


def _move_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    line = lines.pop(rng.randrange(len(lines)))
    lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\r\n".join(lines)


def _splice(rng: random.Random, data: bytes) -> bytes:
    """The beginning of one request, and the rest of another."""
    a, b = sorted((_place(rng, data), _place(rng, data)))
    return data[:b] + data[a:]


def _line_end(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join(lines[:at]) + rng.choice((b"\n", b"\r", b"\n\r", b"\r\r\n")) + b"\r\n".join(lines[at:])


MUTATIONS: dict[str, Mutate] = {
    "flip": _flip,
    "replace": _replace,
    "insert": _insert,
    "delete": _delete,
    "cut": _cut,
    "duplicate line": _duplicate_line,
    "move line": _move_line,
    "splice": _splice,
    "line end": _line_end,
}
