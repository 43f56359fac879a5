from tests.bench.figures import load, paced, series
from tests.bench.load import Load, parse
from tests.bench.samples import Paced, Sample, Series, Spread, added, merged, percentile, ratio, spread


def cost(sample: Sample) -> float | None:
    return sample.cpu_us_per_request


def test_a_spread_is_the_median_with_its_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    assert spread([]) is None
    assert str(Spread(0.5, 0.25, 1.0)) == "0.50 (0.25-1.00)"


def test_ratios_are_taken_inside_a_round() -> None:
    # The machine was twice as slow in the second round: each round still says one half.
    assert ratio(series("pannier", [5.0, 10.0]), series("haproxy", [10.0, 20.0]), cost) == Spread(0.5, 0.5, 0.5)


def test_a_round_in_which_either_side_is_void_has_no_ratio() -> None:
    one = series("pannier", [5.0, 9.0, 6.0], void=(1,))
    other = series("haproxy", [10.0, 10.0, 30.0], void=(2,))
    assert ratio(one, other, cost) == Spread(0.5, 0.5, 0.5)


def test_no_proxy_no_ratio() -> None:
    direct = Series("s", "l", "direct", "direct", "")
    direct.samples.append(Sample(0, load(), None, 0, None))
    assert ratio(direct, series("haproxy", [10.0]), cost) is None
    assert direct.samples[0].whole_us_per_request is None


def test_the_whole_cost_is_that_of_proxy_and_origin() -> None:
    assert series("pannier", [10.0], origin_us=4.0).samples[0].whole_us_per_request == 14.0


def test_latency_is_added_inside_a_round() -> None:
    one, direct = paced(series("pannier", [1.0]), 130.0, 250.0), paced(series("direct", [1.0]), 100.0, 200.0, 900.0)
    assert added(one, direct) == Spread(40.0, 30.0, 50.0)
    direct.paced[1] = Paced(1, load(p50_us=200.0), "steal 3.0%")
    assert added(one, direct) == Spread(30.0, 30.0, 30.0)


def test_percentiles_of_a_histogram() -> None:
    histogram = {10: 50, 20: 49, 1000: 1}
    assert [percentile(histogram, share) for share in (0.0, 0.5, 0.51, 0.99, 0.995, 1.0)] == [
        10,
        10,
        20,
        20,
        1000,
        1000,
    ]
    assert percentile({}, 0.5) is None
    assert merged([load(histogram={10: 1, 20: 2}), load(histogram={20: 1})]) == {10: 1, 20: 3}


def test_the_generators_line_is_read() -> None:
    line = (
        '{"requests": 2, "errors": 1, "seconds": 0.5, "rps": 4.0, "p50_us": 0.05, "p99_us": 0.05,'
        ' "first_error": "status 503", "histogram": [[50, 2]]}'
    )
    assert parse(line) == Load(2, 1, 0.5, 4.0, 0.05, 0.05, "status 503", {50: 2})
