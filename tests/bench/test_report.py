from tests.bench import page
from tests.bench.figures import load, paced, result, rows, series
from tests.bench.report import row
from tests.bench.samples import Paced


def test_void_rounds_leave_the_median() -> None:
    found = series("pannier", [10.0, 99.0, 12.0], void=(1,))
    (entry,) = rows(found)
    assert (entry["cpu_us_per_request"], entry["rounds"], entry["void"]) == (11.0, 2, False)


def test_a_peer_of_which_no_round_counts_is_void() -> None:
    (entry,) = rows(series("pannier", [10.0, 12.0], void=(0, 1)))
    assert (entry["cpu_us_per_request"], entry["void"]) == (11.0, True)
    assert "*void*" in page.summary(result(entry))


def test_a_ratio_to_a_void_baseline_says_so() -> None:
    entries = rows(series("pannier", [8.0]), series("haproxy", [10.0], void=(0,)))
    assert entries[0]["cpu_ratio_to"] == {"haproxy": {"median": 0.8, "low": 0.8, "high": 0.8, "void": True}}
    assert "0.80 (0.80-0.80) *void*" in page.summary(result(*entries))


def test_variants_of_a_peer_are_rows_and_bases_of_their_own() -> None:
    entries = rows(series("relay", [10.0]), series("relay-tokio", [12.0]), series("pannier", [15.0]))
    assert [entry["peer"] for entry in entries] == ["relay", "relay", "pannier"]
    ratios = entries[2]["cpu_ratio_to"]
    assert {key: one["median"] for key, one in ratios.items()} == {"relay": 1.5, "relay-tokio": 1.25}


def test_a_leg_is_compared_with_the_other_one_and_with_none() -> None:
    unix, tcp = series("pannier", [8.0], origin_us=4.0, requests=3_000), series("pannier-tcp", [10.0], origin_us=6.0)
    entry = row(unix, [unix, tcp, series("direct", [1.0], requests=2_000)])
    assert entry["whole_cpu_ratio_to"]["pannier-tcp"]["median"] == 0.75
    assert entry["rps_ratio_to"]["direct"]["median"] == 1.5


def test_a_void_paced_run_leaves_the_latencies() -> None:
    found = series("pannier", [10.0])
    found.paced = [Paced(0, load(histogram={9_000: 5}), "foreign CPU 5.0%"), Paced(1, load(histogram={5_000: 1}))]
    (entry,) = rows(found)
    assert (entry["p99_us"], entry["void"], entry["latency_void"]) == (5.0, False, False)
    found.paced.pop()
    (entry,) = rows(found)
    assert (entry["p99_us"], entry["void"], entry["latency_void"]) == (9.0, False, True)


def test_latencies_come_from_the_paced_runs_alone() -> None:
    found = paced(series("pannier", [10.0]), 1.0)
    found.paced = [Paced(0, load(histogram={50_000: 99})), Paced(1, load(histogram={90_000: 1}))]
    (entry,) = rows(found)
    assert (entry["p50_us"], entry["p99_us"], entry["latency_at_rps"]) == (50.0, 50.0, 3_000)


def test_a_row_has_the_pinned_keys_and_sums_errors() -> None:
    found = series("pannier", [10.0])
    found.paced = [Paced(0, load(errors=3))]
    (entry,) = rows(found)
    pinned = (
        "scenario peer features requests errors cpu_us_per_request rps p50_us p99_us rss_bytes syscalls_per_request"
    )
    assert set(pinned.split()) <= set(entry)
    assert (entry["requests"], entry["errors"]) == (2000, 3)
