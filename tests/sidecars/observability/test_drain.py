from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pannier.sidecars.observability.accesslog import AccessLogFile
from pannier.sidecars.observability.drain import BUSY_SECONDS, IDLE_SECONDS, LIMIT, Drain, Pace
from pannier.sidecars.observability.tally import Tally


class Rings:
    """Hands out the drains it was given, then empty ones; remembers what it was asked for."""

    def __init__(self, empty: Any, *drains: Any) -> None:
        self.asked: list[tuple[int, bool, int]] = []
        self.asked_twice = threading.Event()
        self._drains = list(drains)
        self._empty = empty

    def drain(self, log_fd: int, spans: bool, limit: int) -> Any:
        self.asked.append((log_fd, spans, limit))
        if len(self.asked) > 1:
            self.asked_twice.set()
        return self._drains.pop(0) if self._drains else self._empty


def test_the_pace_is_quick_with_traffic_and_slow_without() -> None:
    pace = Pace()
    assert pace.next(1, 10) == BUSY_SECONDS
    pauses = [pace.next(0, 10) for _ in range(6)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == IDLE_SECONDS
    assert pace.next(10, 10) == 0.0
    assert pace.next(3, 10) == BUSY_SECONDS


def test_without_log_and_exporter_records_are_only_taken_away(fakes: Any) -> None:
    rings = Rings(fakes.Drained(), fakes.Drained(records=3))
    tally = Tally()
    assert Drain(rings, tally, log=None, sink=None).step(0.0) == 3
    assert rings.asked == [(-1, False, LIMIT)]
    assert tally == Tally()


def test_spans_reach_the_sink(fakes: Any) -> None:
    span = fakes.Span()
    taken: list[Any] = []
    drain = Drain(Rings(fakes.Drained(), fakes.Drained(records=1, spans=[span])), Tally(), log=None, sink=taken.extend)
    drain.step(0.0)
    drain.step(0.1)
    assert taken == [span]


def test_lost_lines_are_counted_whether_the_file_refuses_them_or_cannot_be_opened(fakes: Any, tmp_path: Path) -> None:
    tally = Tally()
    lost = fakes.Drained(records=5, log_errors=2)
    Drain(Rings(fakes.Drained(), lost), tally, log=AccessLogFile(Path("/dev/full"), 0), sink=None).step(0.0)
    assert tally.log_errors == 2
    nowhere = AccessLogFile(tmp_path / "missing" / "access.log", 0)
    Drain(Rings(fakes.Drained(), fakes.Drained(records=5)), tally, log=nowhere, sink=None).step(0.0)
    assert tally.log_errors == 7


def test_the_file_is_looked_after_once_a_second(fakes: Any, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    rings = Rings(fakes.Drained(records=1))
    drain = Drain(rings, Tally(), log=AccessLogFile(path, 0), sink=None)
    drain.step(0.0)
    path.unlink()
    drain.step(0.5)
    assert not path.exists()
    drain.step(1.0)
    assert path.exists()
    assert all(descriptor >= 0 for descriptor, _, _ in rings.asked)
    drain.stop()
    drain.run()


def test_stopping_drains_what_is_left_and_closes_the_file(fakes: Any, tmp_path: Path) -> None:
    full = fakes.Drained(records=LIMIT)
    rings = Rings(fakes.Drained(), fakes.Drained(), full, full, fakes.Drained(records=1))
    log = AccessLogFile(tmp_path / "access.log", 0)
    drain = Drain(rings, Tally(), log=log, sink=None)
    drain.stop()
    drain.run()
    assert len(rings.asked) == 4
    assert log.descriptor == -1
    assert drain.wait_stopped(0)


def test_it_runs_until_it_is_stopped(fakes: Any) -> None:
    rings = Rings(fakes.Drained())
    drain = Drain(rings, Tally(), log=None, sink=None)
    thread = threading.Thread(target=drain.run)
    thread.start()
    assert rings.asked_twice.wait(5)
    assert not drain.wait_stopped(0)
    drain.stop()
    assert drain.wait_stopped(5)
    thread.join(5)
