"""The ledger: what it says against a flow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.faults.ledger import Ledger, faults


def test_the_entries_of_all_origins_are_one_ledger_that_grows(tmp_path: Path) -> None:
    one, two = tmp_path / "1.ledger", tmp_path / "2.ledger"
    one.write_bytes(b"GET /a 000000000001\nGET /b 000000000001\n")
    two.write_bytes(b"POST /a 000000000002\nPOST /a 0000")
    ledger = Ledger(tmp_path)
    assert ledger.seen("/a") == {1: 1, 2: 1}
    with two.open("ab") as stream:
        stream.write(b"00000002\n")
    assert ledger.seen("/a") == {1: 1, 2: 2}
    assert ledger.seen("/b") == {1: 1}
    assert ledger.seen("/never") == {}


def test_a_number_that_came_twice_speaks_against_a_post_alone() -> None:
    seen = Counter({1: 1, 2: 2, 3: 3})
    assert faults(seen, answered=3, idempotent=True) == []
    assert faults(seen, answered=3, idempotent=False) == ["2 numbers that may come once came twice, the first is 2"]


def test_an_answer_that_no_origin_gave_speaks_against_any_flow() -> None:
    seen = Counter({1: 2, 2: 1})
    assert faults(seen, answered=2, idempotent=True) == []
    assert faults(seen, answered=3, idempotent=True) == ["3 requests were answered, 2 came to an origin"]
