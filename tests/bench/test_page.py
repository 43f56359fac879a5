import json
from pathlib import Path

import pytest

from tests.bench import page
from tests.bench.figures import count, load, paced, result, rows, series
from tests.bench.phases import PHASES


def test_the_summary_shows_ratio_errors_and_that_it_was_quick() -> None:
    peers = [series("haproxy", [10.0, 20.0]), series("pannier", [8.0, 16.0])]
    found = rows(*peers)
    found[1]["errors"] = 3
    text = page.summary(result(*found, quick=True))
    assert text.startswith("# Benchmark, quick\n")
    assert "| pannier | features of pannier | 12.00 | 0.80 (0.80-0.80) | 1000 |" in text
    assert "**3 errors**" in text
    assert "quick" not in page.summary(result())


def test_a_target_stands_with_its_figure_and_its_verdict() -> None:
    peers = [series("haproxy", [10.0, 20.0]), series("pannier", [8.0, 18.0])]
    text = page.summary(result(*rows(*peers)))
    line = "| all governance on: CPU a request ÷ that of HAProxy | one-core | ≤ 0.85 | 0.85 (0.80-0.90) | met |"
    assert line in text
    one, direct = (
        paced(series("pannier", [8.0], layout="two-cores"), 160.2),
        series("direct", [1.0], layout="two-cores"),
    )
    text = page.summary(result(*rows(one, paced(direct, 100.0))))
    assert "| p50 that the hop adds at 3000 requests/s | two-cores | ≤ 40 µs | 60 | **not met** |" in text
    assert "| ≤ 0.4 |  | not measured |" in text


def test_relays_stand_beside_each_other() -> None:
    peers = [series("relay", [10.0]), series("relay-tokio", [12.0]), series("pannier", [15.0])]
    text = page.summary(result(*rows(*peers)))
    assert "| one-core | features of relay | 10.00 | 1 | 1.50 (1.50-1.50) |  |" in text
    assert "| one-core | features of relay-tokio | 12.00 | 1.20 (1.20-1.20) | 1.25 (1.25-1.25) |  |" in text
    assert "What a reactor costs" not in page.summary(result(*rows(peers[0], peers[2])))


def test_instructions_and_phases_have_their_tables() -> None:
    phases = dict.fromkeys(PHASES, 0.0) | {"parse": 4_000.0, "route": 6_000.0}
    counts = [count(phases=phases), count("traffic", added=201.0, allocations=1.0, phases=phases)]
    text = page.summary(result(instructions=counts))
    assert "| none | 10000 |  |  | 4.00 | 0.00 |  |" in text
    assert "| + traffic | 10000 | +201 | 200 | 4.00 | 1.00 | **not met** |" in text
    assert "| parse | 4000 | 4000 |" in text
    assert "| sum | 10000 | 10000 |" in text
    assert "| other |" not in text


def test_routes_are_held_to_their_limits() -> None:
    cost = {"routes": 10_000, "compile_ms": 900.0, "match_ns": 1_200.0}
    assert "one found in 1200 ns (allowed 1000): **not met**" in page.summary(result(routes=cost))


def test_the_page_says_what_failed_and_what_was_skipped() -> None:
    text = page.page(result(failures=["envoy did not start\nmore"], skipped=["skipped relay-io_uring: refused"]))
    assert "**failed: envoy did not start**\n" in text
    assert "\nskipped relay-io_uring: refused\n" in text
    assert "Model, 2 CPUs, Linux 6.18. Measured 2026-01-02, in 20 minutes." in text


@pytest.mark.parametrize(
    ("latest", "kept", "taken"),
    [
        ({"whole": True, "time": "2026-01-02"}, None, True),
        ({"whole": True, "time": "2026-01-02"}, {"time": "2026-01-01"}, True),
        ({"whole": True, "time": "2026-01-02"}, {"time": "2026-01-02"}, False),
        ({"whole": False, "time": "2026-01-02"}, {"time": "2026-01-01"}, False),
        (None, {"time": "2026-01-01"}, False),
    ],
)
def test_a_newer_whole_run_is_taken_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    latest: dict[str, object] | None,
    kept: dict[str, object] | None,
    taken: bool,
) -> None:
    for name, content in (("LATEST", latest), ("KEPT", kept)):
        path = tmp_path / name
        monkeypatch.setattr(page, name, path)
        if content is not None:
            path.write_text(json.dumps(content))
    assert page.take_over() is taken
    assert not taken or json.loads((tmp_path / "KEPT").read_text()) == latest


def test_a_kept_result_has_a_row_a_line() -> None:
    whole = result(*rows(series("haproxy", [10.0]), series("pannier", [8.0])), failures=["a", "b"])
    text = page.one_a_line(whole)
    assert json.loads(text) == whole
    assert [line[2:6] for line in text.splitlines() if '"scenario"' in line] == ['{"sc'] * 2


def test_the_page_in_docs_is_what_its_figures_come_to() -> None:
    text = page.KEPT.read_text()
    assert len(text) < 150_000
    assert page.PAGE.read_text() == page.page(json.loads(text)), "stale: run `make docs`"


def test_a_run_with_one_wrong_answer_still_has_a_row() -> None:
    found = series("pannier", [10.0])
    found.samples[0] = found.samples[0].__class__(0, load(errors=1), 1, 1, 1)
    assert "**1 errors**" in page.summary(result(*rows(found)))
