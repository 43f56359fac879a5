from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from pannier.sidecars.observability.export import Export
from pannier.sidecars.observability.tally import Tally


class Collector:
    """Takes batches when `gate` is open; `answers` says what it makes of them, True when they are used up."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.shut = False
        self._answers = list(answers)

    def export(self, spans: Sequence[Any]) -> bool:
        self.began.set()
        self.gate.wait(10)
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.batches.append(list(spans))
        return answer

    def shutdown(self) -> None:
        self.shut = True
        self.gate.set()


def start(collector: Collector, tally: Tally, *, queue: int = 100, batch: int = 10) -> tuple[Export, threading.Thread]:
    export = Export(lambda: collector, tally, queue=queue, batch=batch)
    thread = threading.Thread(target=export.run)
    thread.start()
    return export, thread


def test_every_span_arrives_once_and_in_order_in_batches() -> None:
    collector, tally = Collector(), Tally()
    export, thread = start(collector, tally)
    export.offer(list(range(25)))  # type: ignore[arg-type]
    assert export.finish(5)
    thread.join(5)
    assert [len(batch) for batch in collector.batches] == [10, 10, 5]
    assert [span for batch in collector.batches for span in batch] == list(range(25))
    assert tally == Tally(spans_exported=25)
    assert collector.shut


@pytest.mark.semantics(
    "observability", "A collector that hangs holds nobody up: what finds no room is counted", "traces.queue"
)
def test_offering_never_waits_and_what_finds_no_room_is_counted() -> None:
    collector, tally = Collector(), Tally()
    collector.gate.clear()
    export, thread = start(collector, tally, queue=20, batch=10)
    export.offer([0] * 10)  # type: ignore[list-item]
    assert collector.began.wait(5)
    export.offer([1] * 30)  # type: ignore[list-item]
    export.offer([2] * 5)  # type: ignore[list-item]
    assert tally.spans_dropped == 15
    collector.gate.set()
    assert export.finish(5)
    thread.join(5)
    assert tally == Tally(spans_exported=30, spans_dropped=15)


def test_a_collector_that_refuses_costs_its_batch_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    collector, tally = Collector(False, False, True), Tally()
    export, thread = start(collector, tally, batch=1)
    export.offer([0, 1, 2, 3])  # type: ignore[list-item]
    assert export.finish(5)
    thread.join(5)
    assert tally == Tally(spans_exported=2, spans_failed=2)
    assert [record.message for record in caplog.records] == [
        "the trace collector takes no spans; they are lost",
        "the trace collector takes spans again",
    ]


def test_a_bug_in_the_exporter_costs_its_batch_alone(caplog: pytest.LogCaptureFixture) -> None:
    collector, tally = Collector(RuntimeError("bug")), Tally()
    export, thread = start(collector, tally, batch=1)
    export.offer([0, 1])  # type: ignore[list-item]
    assert export.finish(5)
    thread.join(5)
    assert tally == Tally(spans_exported=1, spans_failed=1)


def test_the_end_does_not_wait_for_a_collector_that_hangs() -> None:
    collector, tally = Collector(), Tally()
    collector.gate.clear()
    export, thread = start(collector, tally, batch=10)
    export.offer([0] * 25)  # type: ignore[list-item]
    assert collector.began.wait(5)
    assert not export.finish(0.05)
    thread.join(5)
    assert collector.shut
    assert tally.spans_exported + tally.spans_dropped + tally.spans_failed == 25
    export.offer([0])  # type: ignore[list-item]
    assert tally.spans_dropped == 16


def test_without_spans_no_exporter_is_made() -> None:
    def make() -> Collector:
        raise AssertionError("nothing was to be sent")

    export = Export(make, Tally(), queue=1, batch=1)
    thread = threading.Thread(target=export.run)
    thread.start()
    assert export.finish(5)
    thread.join(5)
