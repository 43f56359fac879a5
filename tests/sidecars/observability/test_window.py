from __future__ import annotations

from typing import Any

import pytest
from pannier.sidecars.observability.window import Key, Window


def test_what_was_counted_before_the_first_reading_belongs_to_no_window(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [fakes.Series(seconds=[0.003] * 100)])
    assert window.rows(0.0, 10) == (0.0, [])
    window.tick(1.0, [fakes.Series(seconds=[0.003] * 100)])
    assert window.rows(1.0, 10) == (1.0, [])


def test_a_row_is_the_difference_over_the_window(fakes: Any) -> None:
    window = Window(fakes.FINE)
    series = fakes.Series(route="/orders/{id}", seconds=[])
    failed = fakes.Series(route="/orders/{id}", status=503, flag="UF", seconds=[])
    for second in range(11):
        window.tick(float(second), [series, failed])
        series.seconds = series.seconds + [0.003] * 9
        failed.seconds = [*failed.seconds, 0.5]
    seconds, [row] = window.rows(10.0, 5)
    assert seconds == pytest.approx(5)
    assert row.key == Key("orders", "/orders/{id}", "inbound")
    assert (row.requests, row.success_rate, row.rps) == (50, pytest.approx(0.9), pytest.approx(10))
    assert row.p50_ms == pytest.approx(2 + 2 * 5 / 9, abs=0.01)
    assert 256 < row.p95_ms <= row.p99_ms <= 512


def test_a_series_that_appears_later_counts_from_zero(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [])
    window.tick(1.0, [fakes.Series(seconds=[0.001] * 7)])
    _, [row] = window.rows(1.0, 10)
    assert row.requests == 7


def test_series_of_one_route_are_one_row_and_directions_are_apart(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [])
    window.tick(
        1.0,
        [
            fakes.Series(method="GET"),
            fakes.Series(method="POST"),
            fakes.Series(direction="outbound", service="payments"),
            fakes.Series(route="/a"),
        ],
    )
    _, rows = window.rows(1.0, 10)
    assert [(row.key, row.requests) for row in rows] == [
        (Key("orders", "", "inbound"), 2),
        (Key("orders", "/a", "inbound"), 1),
        (Key("payments", "", "outbound"), 1),
    ]


def test_only_a_minute_is_kept(fakes: Any) -> None:
    window = Window(fakes.FINE)
    series = fakes.Series(seconds=[])
    for second in range(200):
        window.tick(float(second), [series])
        series.seconds = [*series.seconds, 0.003]
    seconds, [row] = window.rows(199.0, 3600)
    assert seconds == pytest.approx(60)
    assert row.requests == 60


def test_a_window_shorter_than_a_second_answers_the_last_one(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [])
    window.tick(1.0, [fakes.Series()])
    seconds, rows = window.rows(1.9, 0.1)
    assert (seconds, len(rows)) == (1.0, 1)


def test_readings_in_quick_succession_are_one(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [])
    window.tick(0.01, [fakes.Series()])
    assert window.rows(0.01, 10) == (0.0, [])
    window.tick(0.06, [fakes.Series()])
    seconds, [row] = window.rows(0.06, 10)
    assert seconds == pytest.approx(0.06)
    assert row.requests == 1
