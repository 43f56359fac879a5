"""Answers of a corpus, from an upstream that then ends the connection: what the caller gets of them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.conformance.corpora.case import Verdict
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Ended, Message, Wire, request


@dataclass(frozen=True)
class Answer:
    """An answer, as far as it came."""

    status: int
    body: bytes
    whole: bool


@dataclass(frozen=True)
class AnswerCase:
    """What the upstream sends, and what a caller should make of it; None: nothing."""

    data: bytes
    expected: Answer | None


def judge(expected: Answer | None, got: Answer | None) -> Verdict:
    """Compares; an answer that the corpus leaves unfinished may end with the connection."""
    if got is None:
        return Verdict.AGREES if expected is None else Verdict.STRICTER
    if expected is None:
        return Verdict.TAKEN if got.whole else Verdict.CUT
    same = (got.status, got.body) == (expected.status, expected.body)
    return Verdict.AGREES if same and (got.whole or not expected.whole) else Verdict.OTHERWISE


def answer_through(proxy: Proxy, origin: Origin, data: bytes) -> Answer | None:
    """Has the upstream say `data`, and returns what the caller got; None for a 502 of the proxy's own.

    Returns when the upstream has ended its connection, so that the next case does not come upon it.
    """

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(data)

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request(method="POST", body=b""))
        got = _read(caller)
    origin.wait(lambda: origin.ended == origin.connections)
    return got


def _read(caller: Wire) -> Answer | None:
    head = caller.read_head()
    while head.status < 200:
        head = caller.read_head()
    if head.get("x-pannier-reason") is not None:
        assert head.status == 502
        return None
    if head.status in (204, 304):
        return Answer(head.status, b"", whole=True)
    return _read_body(caller, head)


def _read_body(caller: Wire, head: Message) -> Answer:
    body = bytearray()
    try:
        if head.get("transfer-encoding") is None:
            left = int(head.get("content-length") or "0")
            while left > len(body):
                body += caller.read(1)
        else:
            while piece := caller.read_chunk():
                body += piece
    except (Ended, ConnectionError):
        return Answer(head.status, bytes(body), whole=False)
    return Answer(head.status, bytes(body), whole=True)
