from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pannier.supervisor.broker.rate import Meter


def test_a_burst_is_free_then_reading_stops_until_half_full():
    meter = Meter(rate=100, burst=10, now=0)
    assert [meter.take(0) for _ in range(10)] == [0.0] * 10
    assert meter.take(0) == 0.06
    assert [meter.take(0.06) for _ in range(5)] == [0.0] * 5
    assert meter.take(0.06) > 0


def test_a_flood_lasts_until_the_bucket_was_full_again():
    meter = Meter(rate=100, burst=10, now=0)
    while not meter.take(0):
        pass
    assert meter.flooding(3) == 3
    meter.take(0.05)
    assert meter.flooding(3) == 3
    meter.take(1)
    assert meter.flooding(3) == 0


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=400))
def test_never_more_than_burst_and_rate(gaps):
    meter, now = Meter(rate=100, burst=10, now=0), 0.0
    for taken, gap in enumerate(gaps, start=1):
        now += gap
        now += meter.take(now)
        assert taken <= 10 + 100 * now + 1
