"""One proxy before one origin, and the comparison of what each of them says.

Conversations go one after another, so that the order of all lines is that of the requests. What is compared:

- the client's answers with the log: as many, in that order, each the answer to its own request (`x-seen`);
- the log with a second reading of what the client sent (`reading.py`): same requests, same places;
- the origin's requests with the log: **the same sequence**, with the bodies that the client sent; nothing that was not
  logged, nothing logged as answered that was not read, and nothing read to its end that was logged as cut off.

An origin may refuse what was forwarded to it. Then the log has its status, and the origin a line of the refusal; a
refusal that names no request (the head was too odd for it) counts against exactly one such line of the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.conformance.differential.cases import Case
from tests.conformance.differential.origins import Origin, Seen, Server
from tests.conformance.differential.reading import Read, read_all
from tests.proxy.process import Proxy
from tests.proxy.wire import PATIENCE_S, Ended, Message, Wire

#: Flags of requests that failed by their caller; the connection ends after each. Others than these, `-` (answered by
#: the origin) and `NR` (by ourselves) do not happen while origins read what we mean.
OF_CALLER = ("DPE", "DT", "DC")
#: A text of the access log is cut at so many bytes.
METHOD_BYTES, PATH_BYTES, AUTHORITY_BYTES = 24, 1024, 192


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the access log."""

    method: bytes
    path: bytes
    authority: bytes
    status: int
    flags: str
    request_bytes: int
    upstream: str
    request_id: str

    @property
    def was_answered(self) -> bool:
        """By the origin, to the end."""
        return self.flags == "-" and self.upstream != ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one case came to: the log's lines, and what the client received; `was_reset`, `has_ended`: how it ended."""

    case: Case
    reads: tuple[Read, ...]
    lines: tuple[Line, ...]
    received: bytes
    was_reset: bool
    has_ended: bool

    @property
    def forwarded(self) -> list[tuple[Line, Read | None]]:
        """The lines that reached the origin, with the second reading of each."""
        found: list[tuple[Line, Read | None]] = []
        for i, line in enumerate(self.lines):
            if line.upstream:
                found.append((line, self.reads[i] if i < len(self.reads) else None))
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that must not be."""

    server: str
    text: str
    cases: tuple[Case, ...]


@dataclass(slots=True)
class Tally:
    """What was tried, so that nobody takes silence for success."""

    cases: int = 0
    logged: int = 0
    forwarded: int = 0
    seen: int = 0
    refused_by_origin: int = 0
    crashes: int = 0


class Bench:
    """A context manager: a proxy and an origin of one kind, which says what it must within `patience_s`."""

    def __init__(
        self,
        folder: Path,
        server: Server,
        program: str,
        tally: Tally | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._patience_s = patience_s
        self.server = server
        self.tally = tally or Tally()
        self._folder = folder / server.name
        self._program = program
        self._lines = folder / f"{server.name}.lines"
        self._closed = 0
        # Requests that were cut off: the origin may still say so, later, and once for each.
        self._cut: Counter[str] = Counter()
        self._may_be_unnamed = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._origin = Origin(self.server, self._program, self._folder)
            stack.callback(self._origin.kill)
            self._proxy = Proxy(self._folder)
            stack.callback(self._proxy.close)
            self._proxy.publish_base(app=self._origin.address, inbound={"hosts": ["*"]})
            self._proxy.publish_telemetry(sample_ratio=0.0)
            self._proxy.start()
            self._log = os.open(self._lines, os.O_CREAT | os.O_RDWR, 0o600)
            stack.callback(os.close, self._log)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def converse(self, case: Case) -> Conversation:
        """Has one conversation, to its end on both sides."""
        received, was_reset, has_ended = bytearray(), False, True
        with socket.create_connection(self._proxy.inbound, PATIENCE_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                with contextlib.suppress(ConnectionError):
                    for piece in case.sends():
                        sock.sendall(piece)
                    sock.shutdown(socket.SHUT_WR)
                while data := sock.recv(1 << 16):
                    received += data
            except ConnectionError:
                was_reset = True
            except TimeoutError:
                has_ended = False
        self._closed += 1
        deadline = time.monotonic() + PATIENCE_S
        while self._proxy.totals("connections_closed") < self._closed:
            assert time.monotonic() < deadline, "the proxy does not end a connection that the caller has ended"
            time.sleep(0.0001)
        lines = self._drain()
        self.tally.cases += 1
        self.tally.logged += len(lines)
        return Conversation(case, tuple(read_all(case.data)), lines, bytes(received), was_reset, has_ended)

    def check(self, conversations: Sequence[Conversation]) -> list[Problem]:
        """Compares what was said of these conversations, once the origin has said what it must."""
        cases = tuple(c.case for c in conversations)
        found = [Problem(self.server.name, text, (c.case,)) for c in conversations for text in _of_client(c)]
        found += [Problem(self.server.name, text, (c.case,)) for c in conversations for text in _of_log(c)]
        forwarded = [pair for c in conversations for pair in c.forwarded]
        whole = [(line, read) for line, read in forwarded if line.was_answered and line.status < 400]
        refused = [line for line, _ in forwarded if line.was_answered and line.status >= 400]
        cut = [line for line, _ in forwarded if not line.was_answered]
        self._cut.update(line.request_id for line in cut)
        self._may_be_unnamed += len(cut)
        self.tally.forwarded += len(forwarded)
        self.tally.refused_by_origin += len(refused)
        seen = self._wait_seen(len(whole), refused)
        self.tally.seen += len(seen)
        found += [Problem(self.server.name, text, cases) for text in self._of_origin(whole, refused, seen)]
        return found

    @property
    def has_crashed(self) -> bool:
        """Whether the origin has ended by itself."""
        return self._origin.has_ended

    def leave(self) -> list[Problem]:
        """Ends both sides in order; whatever the origin has read by then beyond what was compared is one too many."""
        self._proxy.close()
        self._stack.pop_all()
        os.close(self._log)
        try:
            rest = self._origin.leave()
        finally:
            self._origin.kill()
        return [Problem(self.server.name, text, ()) for text in self._of_origin([], [], rest)]

    def _drain(self) -> tuple[Line, ...]:
        os.ftruncate(self._log, 0)
        os.lseek(self._log, 0, os.SEEK_SET)
        while self._proxy.rings.drain(self._log, False).records:
            pass
        assert self._proxy.totals("ring_dropped") == 0
        os.lseek(self._log, 0, os.SEEK_SET)
        data = b""
        while more := os.read(self._log, 1 << 20):
            data += more
        return tuple(_line(text) for text in data.splitlines())

    def _wait_seen(self, whole: int, refused: Sequence[Line]) -> list[Seen]:
        """What the origin has written, when it is as much as the log has; what is missing then is a problem."""
        seen: list[Seen] = []
        deadline = time.monotonic() + self._patience_s
        while True:
            seen += self._origin.seen()
            ended = sum(one.hash is not None for one in seen)
            if (ended >= whole and len(_owed(refused, seen)) <= _unnamed(seen)) or time.monotonic() > deadline:
                return sorted(seen, key=lambda one: one.order)
            time.sleep(0.001)

    def _of_origin(
        self, whole: Sequence[tuple[Line, Read | None]], refused: Sequence[Line], seen: Sequence[Seen]
    ) -> list[str]:
        found = []
        ended = [one for one in seen if one.hash is not None]
        for i in range(max(len(whole), len(ended))):
            if i >= len(ended):
                found.append(f"logged as answered, but the origin has not read it: {whole[i][0]}")
            elif i >= len(whole):
                found.append(f"the origin has read what was not logged: {ended[i]}")
            elif (text := _difference(*whole[i], ended[i])) is not None:
                found.append(f"{text}: logged {whole[i][0]}, read {ended[i]}")
            else:
                continue
            break
        owed = _owed(refused, seen)
        named = Counter(one.id for one in seen if one.hash is None and one.id)
        named -= Counter(line.request_id for line in refused)
        self._cut.update(owed)
        for identity, count in named.items():
            if count > self._cut[identity]:
                found.append(f"the origin has begun to read what was not logged: {identity}")
            self._cut[identity] -= count
        if (extra := _unnamed(seen) - len(owed)) < 0:
            found.append(f"logged as refused by the origin, which says nothing of it: {owed}")
        elif extra > self._may_be_unnamed:
            unread = [one for one in seen if one.hash is None and not one.id]
            found.append(f"the origin was sent what it could not read, and that was not logged: {unread}")
        self._may_be_unnamed = max(0, self._may_be_unnamed - max(0, extra))
        return found


def _unnamed(seen: Sequence[Seen]) -> int:
    """How many refusals name no request."""
    return sum(one.hash is None and not one.id for one in seen)


def _owed(refused: Sequence[Line], seen: Sequence[Seen]) -> list[str]:
    """The requests that the origin has refused, says the log, and that the origin does not name."""
    named = Counter(one.id for one in seen if one.hash is None and one.id)
    return list((Counter(line.request_id for line in refused) - named).elements())


def _line(text: bytes) -> Line:
    fields = json.loads(text)
    return Line(
        fields["method"].encode(),
        fields["path"].encode(),
        fields["authority"].encode(),
        fields["status"],
        fields["flags"],
        fields["request_bytes"],
        fields["upstream"],
        fields["request_id"],
    )


def _is_text(logged: bytes, text: bytes, limit: int) -> bool:
    """Whether a text of the log, which is cut at `limit` bytes and at a character, is this one."""
    return logged == text if len(text) <= limit else text.startswith(logged) and len(logged) > limit - 4


def _difference(line: Line, read: Read | None, seen: Seen) -> str | None:
    """What two say differently of one request; and the third, of its body."""
    texts = {
        "method": (line.method, seen.method, METHOD_BYTES),
        "path": (line.path, seen.path, PATH_BYTES),
        "authority": (line.authority, seen.authority, AUTHORITY_BYTES),
    }
    if (line.request_id, line.status) != (seen.id, seen.status):
        return "not the same request"
    for name, (logged, text, limit) in texts.items():
        if not _is_text(logged, text, limit):
            return f"another {name}"
    if read is None or read.body is None:
        return "the origin was given a whole request, and the caller has not sent one"
    if (len(read.body), hashlib.sha1(read.body).hexdigest()) != (seen.length, seen.hash):
        return f"another body than the caller's of {len(read.body)} bytes"
    return None


def _of_log(conversation: Conversation) -> list[str]:
    """The log against the second reading."""
    found = []
    reads = conversation.reads
    for i, line in enumerate(conversation.lines):
        is_last = i == len(conversation.lines) - 1
        if not is_last and (line.flags in OF_CALLER or (i < len(reads) and reads[i].is_last)):
            found.append(f"the connection should have ended after {line}")
        if line.flags not in ("-", "NR", *OF_CALLER):
            found.append(f"the origin did not answer what it was sent: {line}")
        if i >= len(reads):
            if line.upstream:
                found.append(f"forwarded, and there is no such request: {line}")
            continue
        read = reads[i]
        if line.method and not (
            _is_text(line.method, read.method, METHOD_BYTES)
            and _is_text(line.path, read.path, PATH_BYTES)
            and _is_text(line.authority, read.authority, AUTHORITY_BYTES)
        ):
            found.append(f"logged {line}, but the caller sent {read}")
        if line.was_answered and line.status < 400 and read.body is not None:
            whole = read.size if not read.is_chunked else line.request_bytes
            if line.request_bytes != whole or line.request_bytes < len(read.body):
                found.append(f"logged {line.request_bytes} bytes of a request of {read.size}: {line}")
    return found


def _of_client(conversation: Conversation) -> list[str]:
    """The answers against the log."""
    if not conversation.has_ended:
        return [f"the caller, who had ended its side, waited for an end after {conversation.received[-200:]!r}"]
    wire = Received(conversation.received)
    for line in conversation.lines:
        if line.status == 0:
            continue
        try:
            answer = wire.final_answer(line.method.decode())
        except Ended:
            return [] if conversation.was_reset else [f"the caller did not get the answer to {line}"]
        if answer.status != line.status:
            return [f"the caller was answered {answer.status} where the log has {line}"]
        if line.was_answered and line.status < 400 and answer.get("x-seen") != line.request_id:
            return [f"the caller got the answer to {answer.get('x-seen')} where the log has {line}"]
    wire.skip_interim()
    return [f"the caller got more than was logged: {bytes(wire.buffer[:200])!r}"] if wire.buffer else []


class Received(Wire):
    """Answers out of bytes that were received before."""

    def __init__(self, data: bytes) -> None:
        self.buffer = bytearray(data)

    def fill(self) -> bool:
        """There is no more."""
        return False

    def final_answer(self, method: str) -> Message:
        """The next answer that is no interim one. Raises Ended."""
        self.skip_interim()
        return self.read_answer(method)

    def skip_interim(self) -> None:
        """Passes over interim answers, after which there need not be another."""
        while self.buffer.startswith(b"HTTP/1.1 1"):
            self.read_head()
