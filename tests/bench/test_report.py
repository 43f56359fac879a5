from tests.bench.load import Load, parse
from tests.bench.report import Paced, Sample, Series, Spread, markdown, merged, percentile, ratio, row, spread

MACHINE = {"model": "Model", "cpus": 2, "kernel": "6.18"}


def load(requests: int = 1000, *, errors: int = 0, histogram: dict[int, int] | None = None) -> Load:
    return Load(requests, errors, 1.0, float(requests), 100.0, 200.0, histogram=histogram or {})


def series(peer: str, costs_us: list[float], *, void: tuple[int, ...] = ()) -> Series:
    """One round of 1 000 requests for each cost."""
    found = Series("h1-keepalive-64c", "one-core", peer, "features")
    for turn, cost in enumerate(costs_us):
        reason = "steal 3.0%" if turn in void else None
        found.samples.append(Sample(turn, load(), int(cost * 1_000_000), 5_000_000, 2_000, reason))
    return found


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
    direct = Series("s", "l", "direct", "")
    direct.samples.append(Sample(0, load(), None, 0, None))
    assert ratio(direct, series("haproxy", [10.0]), cost) is None
    assert row(direct, [direct])["cpu_us_per_request"] is None


def test_void_rounds_leave_the_median() -> None:
    found = series("pannier", [10.0, 99.0, 12.0], void=(1,))
    entry = row(found, [found])
    assert (entry["cpu_us_per_request"], entry["rounds"], entry["void"]) == (11.0, 2, False)


def test_a_peer_of_which_no_round_counts_is_void() -> None:
    found = series("pannier", [10.0, 12.0], void=(0, 1))
    entry = row(found, [found])
    assert (entry["cpu_us_per_request"], entry["void"]) == (11.0, True)
    assert "*void*" in markdown([entry], MACHINE, quick=False)


def test_a_ratio_to_a_void_baseline_says_so() -> None:
    one, other = series("pannier", [8.0]), series("haproxy", [10.0], void=(0,))
    found = row(one, [one, other])["cpu_ratio_to"]["haproxy"]
    assert found == {"median": 0.8, "low": 0.8, "high": 0.8, "void": True}
    assert "0.80 (0.80-0.80) *void*" in markdown([row(one, [one, other])], MACHINE, quick=False)


def test_a_void_paced_run_leaves_the_latencies() -> None:
    found = series("pannier", [10.0])
    found.paced = [Paced(load(histogram={9_000: 5}), "foreign CPU 5.0%"), Paced(load(histogram={5_000: 1}))]
    entry = row(found, [found])
    assert (entry["p99_us"], entry["void"], entry["latency_void"]) == (5.0, False, False)
    found.paced.pop()
    entry = row(found, [found])
    assert (entry["p99_us"], entry["void"], entry["latency_void"]) == (9.0, False, True)


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


def test_latencies_come_from_the_paced_runs_alone() -> None:
    found = series("pannier", [10.0])
    found.rate = 500
    found.paced = [Paced(load(histogram={50_000: 99})), Paced(load(histogram={90_000: 1}))]
    entry = row(found, [found])
    assert (entry["p50_us"], entry["p99_us"], entry["latency_at_rps"]) == (50.0, 50.0, 500)


def test_a_row_has_the_pinned_keys_and_sums_errors() -> None:
    found = series("pannier", [10.0])
    found.paced = [Paced(load(errors=3))]
    entry = row(found, [found])
    pinned = (
        "scenario peer features requests errors cpu_us_per_request rps p50_us p99_us rss_bytes syscalls_per_request"
    )
    assert set(pinned.split()) <= set(entry)
    assert (entry["requests"], entry["errors"]) == (2000, 3)


def test_the_table_shows_ratio_errors_and_that_it_was_quick() -> None:
    peers = [series("haproxy", [10.0, 20.0]), series("pannier", [8.0, 16.0])]
    peers[1].paced = [Paced(load(errors=3))]
    table = markdown([row(one, peers) for one in peers], MACHINE, quick=True)
    assert table.startswith("# Benchmark, quick\n")
    assert "| pannier | features | 12.00 | 0.80 (0.80-0.80) | 1000 |" in table
    assert "**3 errors**" in table
    assert "quick" not in markdown([], MACHINE, quick=False)


def test_the_generators_line_is_read() -> None:
    line = (
        '{"requests": 2, "errors": 1, "seconds": 0.5, "rps": 4.0, "p50_us": 0.05, "p99_us": 0.05,'
        ' "first_error": "status 503", "histogram": [[50, 2]]}'
    )
    assert parse(line) == Load(2, 1, 0.5, 4.0, 0.05, 0.05, "status 503", {50: 2})
