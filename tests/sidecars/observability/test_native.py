"""The drain over the real `_native`: records go in as a worker writes them, lines and spans come out.

The writer (`Worker` in `conftest.py`) knows the layout of rings and records; a change of it fails these tests, which is
right: a reader of another version would fail in the same way.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pannier.sidecars.observability.accesslog import AccessLogFile
from pannier.sidecars.observability.drain import LIMIT, Drain
from pannier.sidecars.observability.tally import Tally


def test_a_request_becomes_a_line_and_a_span(worker: Any, tmp_path: Path) -> None:
    spans: list[Any] = []
    tally = Tally()
    log = AccessLogFile(tmp_path / "access.log", 0)
    drain = Drain(worker.rings(), tally, log=log, sink=spans.extend)
    worker.request()
    worker.request('/"\n', status=503, flag=2, outbound=True, sampled=False)
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
    assert (span.client, span.end_ns - span.start_ns) == ("192.0.2.7", 2_500_000)
    assert tally == Tally()


def test_a_full_disk_costs_lines_until_it_has_room(
    worker: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
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


def test_a_reader_that_stalls_costs_lines_and_holds_nothing(worker: Any, tmp_path: Path) -> None:
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


def test_more_than_one_drain_takes_is_left_for_the_next(worker: Any) -> None:
    drain = Drain(worker.rings(), Tally(), log=None, sink=None)
    for _ in range(LIMIT + 5):
        worker.request()
    assert [drain.step(0.0), drain.step(0.0), drain.step(0.0)] == [LIMIT, 5, 0]
