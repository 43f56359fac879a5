from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from pannier.sidecars.observability.cardinality import STEPS, Cap


def crowd(fakes: Any) -> list[Any]:
    return [
        fakes.Series(direction="outbound", service=service, route=route, method=method, status=status)
        for service, route, method, status in product(
            ("a", "b", "c"), ("", "/x", "/y"), ("GET", "POST", "PUT"), (200, 201, 500, 503)
        )
    ]


def test_below_the_limit_nothing_is_merged(fakes: Any) -> None:
    cap = Cap(108)
    assert len(cap.apply(crowd(fakes))) == 108
    assert cap.merged == ()


@pytest.mark.semantics(
    "observability", "Above so many series the least useful label is merged first; totals stay", "max_series"
)
def test_dimensions_go_one_by_one_and_totals_stay(fakes: Any) -> None:
    sizes = {108: 0, 107: 1, 36: 1, 35: 2, 12: 2, 11: 3, 6: 3, 5: 4, 1: 4}
    for limit, steps in sizes.items():
        cap = Cap(limit)
        merged = cap.apply(crowd(fakes))
        assert cap.merged == STEPS[:steps], limit
        assert sum(point.count for point in merged.values()) == 108
        assert sum(sum(point.buckets) for point in merged.values()) == 108
        assert len(merged) <= limit or steps == len(STEPS)


def test_the_names_of_merged_dimensions(fakes: Any) -> None:
    [(labels, point), (failed, _)] = sorted(Cap(1).apply(crowd(fakes)).items())
    assert labels == ("outbound", "_OTHER", "", "_OTHER", "2xx", "", "1.1")
    assert failed == ("outbound", "_OTHER", "", "_OTHER", "5xx", "5xx", "1.1")
    assert point.count == 54


def test_a_flag_stays_the_error_when_statuses_are_merged(fakes: Any) -> None:
    labels = next(iter(Cap(0).apply([fakes.Series(status=503, flag="UF")])))
    assert (labels.status, labels.error) == ("5xx", "UF")


def test_a_step_once_taken_stays(fakes: Any) -> None:
    cap = Cap(36)
    cap.apply(crowd(fakes))
    assert len(cap.apply([fakes.Series(method="GET"), fakes.Series(method="PUT")])) == 1
    assert cap.merged == ("method",)


def test_flags_that_are_no_error_do_not_split_a_series(fakes: Any) -> None:
    merged = Cap(100).apply([fakes.Series(flag=""), fakes.Series(flag="DI"), fakes.Series(status=404, flag="NR")])
    assert [(labels.status, point.count) for labels, point in sorted(merged.items())] == [("200", 2), ("404", 1)]


def test_an_inbound_series_carries_no_service(fakes: Any) -> None:
    assert {labels.service for labels in Cap(1).apply([fakes.Series(), fakes.Series(method="PUT")])} == {""}
