"""What a corpus says of some bytes, what came of them on their way through the proxy, and whether the two agree."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Ended, Message

#: What a client of HTTP/1.1 must send, and most of these cases leave out since their parsers do not ask for it.
HOST = b"Host: localhost\r\n"
_REQUEST_LINE = re.compile(rb"^[^\r\n]+ HTTP/1\.[01]\r\n", re.MULTILINE)


class Seen(NamedTuple):
    """A request, as a server understood it."""

    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True)
class Case:
    """A case of a corpus: `good` requests arrive whole; then, perhaps, comes what must be `refused`."""

    name: str
    data: bytes
    good: tuple[Seen, ...]
    refused: bool


@dataclass(frozen=True)
class Outcome:
    """What the origin saw, how many of its answers came back, and status and reason of a refusal, if there was one."""

    seen: tuple[Seen, ...]
    answered: int
    refusal: str = ""


class Verdict(Enum):
    """How the proxy's reading relates to that of a corpus."""

    AGREES = "the same requests, and a refusal where there should be one"
    STRICTER = "a refusal of what the corpus takes"
    OTHERWISE = "forwarded as something else than the corpus makes of it"
    TAKEN = "forwarded, though the corpus refuses it"
    CUT = "the connection ended without a word, for want of the message's end"


Differences = Mapping[Verdict, Mapping[str, str]]


def judge(case: Case, outcome: Outcome) -> Verdict:
    """Compares; fails for what no reason could excuse."""
    assert outcome.answered == len(outcome.seen)
    assert "no Host" not in outcome.refusal, "refused for a reason that has nothing to do with the case"
    if outcome.seen == case.good and bool(outcome.refusal) == case.refused:
        return Verdict.AGREES
    count = min(len(outcome.seen), len(case.good))
    if outcome.seen[:count] != case.good[:count]:
        return Verdict.OTHERWISE
    if len(outcome.seen) > len(case.good):
        return Verdict.TAKEN
    return Verdict.STRICTER if outcome.refusal else Verdict.CUT


def expected(differences: Differences, name: str) -> Verdict:
    """The verdict that a table names for a case."""
    (verdict,) = [kind for kind, reasons in differences.items() if name in reasons] or [Verdict.AGREES]
    return verdict


def with_hosts(data: bytes, *, only: bool = False) -> bytes:
    """Adds Host to each request without one, so that it is not refused for that. The first line is a request line,
    whatever it looks like; `only`: what looks like another one is part of a body."""
    first = data.find(b"\r\n", 2) + 2
    starts = {first} if first > 2 else set()
    if not only:
        starts |= {found.end() for found in _REQUEST_LINE.finditer(data)}
    for start in sorted(starts, reverse=True):
        if b"\r\nhost:" not in data[start - 2 :].partition(b"\r\n\r\n")[0].lower():
            data = data[:start] + HOST + data[start:]
    return data


def as_forwarded(target: str) -> str:
    """The target as a proxy passes it on: of an absolute one, path and query."""
    if not target.lower().startswith("http://"):
        return target
    return "/" + target[len("http://") :].partition("/")[2]


def send_through(proxy: Proxy, origin: Origin, data: bytes) -> Outcome:
    """Sends the bytes and the end of the caller's side, and reads until the proxy ends its own."""
    origin.requests.clear()
    answered, refusal = 0, ""
    with proxy.call() as caller:
        caller.send(data)
        caller.finish()
        try:
            while not refusal:
                got = caller.read_answer()
                refusal = _refusal(got)
                answered += not refusal
            assert caller.has_ended()
        except (Ended, ConnectionError):
            assert not caller.buffer
    return Outcome(tuple(_seen(request) for request in origin.requests), answered, refusal)


def _refusal(answer: Message) -> str:
    if answer.get("x-pannier-reason") is None:
        assert answer.status == 200
        return ""
    assert answer.get("connection") == "close"
    return f"{answer.status} {json.loads(answer.body)['message']}"


def _seen(request: Message) -> Seen:
    return Seen(request.method, request.target, request.body)
