"""The drain over the real `_native`: records go in as a worker writes them, lines and spans come out.

The writer below knows the layout of rings and records (`shared/core/table/src/{ring,record,counters}.rs`); a change
of it fails these tests, which is right: a reader of another version would fail in the same way.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pannier import _native
from pannier.sidecars.observability.accesslog import AccessLogFile
from pannier.sidecars.observability.drain import LIMIT, Drain
from pannier.sidecars.observability.tally import Tally

HEADER = 512 * 8
HEAD, TAIL, LINES = HEADER, HEADER + 8 * 8, 2 * HEADER
LINE_BYTES = 64
OUTBOUND, SAMPLED = 1, 2
UF = 2


class Worker:
    """The first worker of the first enrolled process."""

    def __init__(self) -> None:
        self.fds = {name: os.memfd_create(name) for name in ("counters", "rings")}
        self.maps = {}
        for name, descriptor in self.fds.items():
            os.truncate(descriptor, _native.SEGMENTS[name])
            _native.initialise(name, descriptor)
            self.maps[name] = mmap.mmap(descriptor, 4 << 20)
        struct.pack_into("<QQ", self.maps["counters"], HEADER, 1, 1)
        self._head = 0

    def close(self) -> None:
        for name, descriptor in self.fds.items():
            self.maps[name].close()
            os.close(descriptor)

    def rings(self) -> _native.Rings:
        return _native.Rings(self.fds["rings"], self.fds["counters"])

    def request(self, path: str = "/orders/7", *, status: int = 200, flag: int = 0, bits: int = SAMPLED) -> None:
        texts = ["GET", path, "orders:80", "orders", "/orders/{id}", "127.0.0.1:8080", "r-1", "a=1"]
        encoded = [text.encode() for text in texts]
        body = b"".join(encoded)
        lines = -(-(11 * 8 + len(body)) // LINE_BYTES)
        first = lines | 1 << 8 | bits << 16 | flag << 24 | status << 32 | 1 << 48
        lengths = [sum(len(text) << 16 * i for i, text in enumerate(four)) for four in (encoded[:4], encoded[4:])]
        record = struct.pack("<11Q", first, 1_700_000_000_123_000_000, 2_500_000, 10, 20, 5, 6, 7, 8, *lengths) + body
        at = LINES + self._head * LINE_BYTES
        self.maps["rings"][at : at + len(record)] = record
        self._head += lines
        struct.pack_into("<Q", self.maps["rings"], HEAD, self._head)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_a_request_becomes_a_line_and_a_span(worker: Worker, tmp_path: Path) -> None:
    spans: list[Any] = []
    tally = Tally()
    log = AccessLogFile(tmp_path / "access.log", 0)
    drain = Drain(worker.rings(), tally, log=log, sink=spans.extend)
    worker.request()
    worker.request('/"\n', status=503, flag=UF, bits=OUTBOUND)
    assert drain.step(0.0) == 2
    assert drain.step(0.1) == 0
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [(line["path"], line["status"], line["direction"]) for line in lines] == [
        ("/orders/7", 200, "inbound"),
        ('/"\n', 503, "outbound"),
    ]
    [span] = spans
    assert (span.trace_id, span.span_id, span.parent_id) == (5 << 64 | 6, 7, 8)
    assert (span.method, span.route, span.status, span.trace_state) == ("GET", "/orders/{id}", 200, "a=1")
    assert span.end_ns - span.start_ns == 2_500_000
    assert tally == Tally()


def test_a_full_disk_costs_lines_until_it_has_room(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    tally = Tally()
    spans: list[Any] = []
    log = AccessLogFile(path, 0)
    drain = Drain(worker.rings(), tally, log=log, sink=spans.extend)
    for second in range(3):
        worker.request()
        drain.step(float(second))
    assert tally.log_errors == 3
    assert len(spans) == 3
    path.unlink()
    worker.request()
    drain.step(4.0)
    log.close()
    assert tally.log_errors == 3
    assert len(path.read_text().splitlines()) == 1
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        f"access log {path} cannot be written",
        f"access log {path} is being written again",
    ]


def test_a_reader_that_stalls_costs_lines_and_holds_nothing(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    tally = Tally()
    drain = Drain(worker.rings(), tally, log=AccessLogFile(path, 0), sink=None)
    for _ in range(100):
        worker.request()
    began = time.monotonic()
    assert drain.step(0.0) == 100
    assert time.monotonic() - began < 1
    assert tally.log_errors == 100
    os.close(reader)


def test_more_than_one_drain_takes_is_left_for_the_next(worker: Worker) -> None:
    drain = Drain(worker.rings(), Tally(), log=None, sink=None)
    for _ in range(LIMIT + 5):
        worker.request()
    assert [drain.step(0.0), drain.step(0.0), drain.step(0.0)] == [LIMIT, 5, 0]
