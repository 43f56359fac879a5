from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.backoff import full_jitter


def test_the_interval_doubles_up_to_the_cap():
    assert [full_jitter(n, base=1, cap=6, random=0.5) for n in range(5)] == [0.5, 1, 2, 3, 3]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_never_below_zero_never_above_the_cap(attempt, random):
    assert 0 <= full_jitter(attempt, base=0.1, cap=60, random=random) < 60


def test_a_negative_attempt_is_a_bug():
    with pytest.raises(ValueError, match="negative"):
        full_jitter(-1, base=1, cap=1, random=0)
