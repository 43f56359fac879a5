from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.observability.percentiles import percentile

BOUNDS = [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("counts", "quantile", "value"),
    [
        ({0: 10}, 0.5, 0.5),
        ({0: 10}, 1.0, 1.0),
        ({0: 10}, 0.0, 0.0),
        ({1: 4}, 0.5, 1.5),
        ({0: 1, 2: 1}, 0.5, 1.0),
        ({0: 1, 2: 1}, 0.75, 3.0),
        ({0: 1, 3: 99}, 0.99, 4.0),
        ({7: 1}, 0.5, 4.0),
        ({0: 0, 1: 1}, 0.0, 1.0),
    ],
)
def test_the_value_is_interpolated_inside_its_bucket(counts: dict[int, int], quantile: float, value: float) -> None:
    assert percentile(BOUNDS, counts, quantile) == pytest.approx(value)


def test_nothing_observed_has_no_percentile() -> None:
    assert percentile(BOUNDS, {}, 0.5) is None
    assert percentile(BOUNDS, {1: 0}, 0.5) is None


def test_a_quantile_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0…1, not 1\.5"):
        percentile(BOUNDS, {0: 1}, 1.5)


@given(
    st.dictionaries(st.integers(0, 4), st.integers(0, 1000), min_size=1).filter(lambda counts: any(counts.values())),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_percentiles_never_fall_and_stay_inside_the_bounds(counts: dict[int, int], one: float, other: float) -> None:
    low = percentile(BOUNDS, counts, min(one, other))
    high = percentile(BOUNDS, counts, max(one, other))
    assert low is not None
    assert high is not None
    assert 0 <= low <= high + 1e-9
    assert high <= BOUNDS[-1]
