"""The history on disk: names that are the content's own, damage that hides nothing else, and bounds."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.runtime import state_dir
from pannier.supervisor.history import MOST, PENDING, TAKEN_BACK, Content, History, identify, summary

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(st.text(), values, max_size=5)


def content(number: int, **below: Any) -> Content:
    return Content("dev", {"number": number, **below}, {})


def add(history: History, number: int, **more: Any) -> None:
    history.add(content(number), at_ms=number, by="profile set", lines=[f"number → {number}"], **more)


def folder() -> Path:
    return state_dir() / "history" / "orders"


def states(history: History) -> list[str]:
    return [each.state for each in history.revisions()]


@settings(deadline=None)
@given(tables, tables)
def test_the_same_content_has_the_same_name_in_any_order(below: dict[str, Any], live: dict[str, Any]) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(list(value))}
        return [turned(each) for each in value] if isinstance(value, list) else value

    assert identify(Content("dev", turned(below), turned(live))) == identify(Content("dev", below, live))
    assert identify(Content("test", below, live)) != identify(Content("dev", below, live))


def test_what_was_said_comes_back_as_it_was() -> None:
    said = Content("canary", {"sidecars": {"traffic": {"zone": "ä"}}, "x": [1, 2.5, None, True]}, {"proxy": {"a": "b"}})
    History("orders").add(said, ("/p.toml", ("a=1",)), at_ms=7, by="profile use canary", lines=["a", "b", "c", "d"])
    (entry,) = History("orders").entries
    assert History("orders").content(entry) == said
    assert (entry.number, entry.at_ms, entry.source, entry.assignments) == (1, 7, "/p.toml", ("a=1",))
    assert entry.summary == "a; b (+2)"


def test_it_is_for_the_owner_alone() -> None:
    add(History("orders"), 1)
    assert stat.S_IMODE(folder().stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder().iterdir()} == {0o600}


def test_what_stands_is_the_newest_that_was_not_taken_back() -> None:
    history = History("orders")
    for number in (1, 2, 3):
        add(history, number, state=PENDING if number == 3 else "in force")
    assert states(history) == ["replaced", "replaced", "pending"]
    history.mark(3, TAKEN_BACK)
    assert states(history) == ["replaced", "in force", "taken back"]
    assert states(History("orders")) == states(history)


def test_a_revision_is_found_by_number_or_by_how_its_name_begins() -> None:
    history = History("orders")
    for number in (1, 2, 1):
        add(history, number)
    first, second, third = history.entries
    assert first.id == third.id != second.id
    assert history.find("2") == second
    assert history.find(second.id[:4].upper()) == second
    assert history.find(first.id) == third, "of the same content the newest"
    for text in ("4", "0", "-1", "", first.id[:3], "../../etc", "zzzz"):
        with pytest.raises(UsageError, match="there is no revision"):
            history.find(text)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"number": 2}', b"null", b"[" * 100_000])
def test_an_entry_that_is_damaged_is_left_out_and_said(damage: bytes) -> None:
    for number in (1, 2, 3):
        add(History("orders"), number)
    (folder() / "00000002.entry").write_bytes(damage)
    history = History("orders")
    assert [entry.number for entry in history.entries] == [1, 3]
    assert len(history.problems) == 1 and "00000002.entry is left out" in history.problems[0]
    add(history, 4)
    assert history.entries[-1].number == 4


def test_the_number_of_a_damaged_entry_is_not_given_again() -> None:
    for number in (1, 2):
        add(History("orders"), number)
    (folder() / "00000002.entry").write_bytes(b"torn")
    add(history := History("orders"), 3)
    assert [entry.number for entry in history.entries] == [1, 3]


def test_an_entry_under_another_number_is_not_believed() -> None:
    add(History("orders"), 1)
    (folder() / "00000001.entry").rename(folder() / "00000009.entry")
    history = History("orders")
    assert history.entries == [] and "it is about revision 1" in history.problems[0]


@pytest.mark.parametrize("damage", [None, b"", b'{"profile":"dev","below":{"number":666},"live":{}}', b"\x00" * 99])
def test_a_content_that_is_not_what_its_name_says_is_refused(damage: bytes | None) -> None:
    add(history := History("orders"), 1)
    (path,) = folder().glob("*.content")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(PannierError, match="what revision 1 said cannot be read"):
        history.content(history.entries[0])
    add(history, 1)
    assert history.content(history.entries[0]) == content(1), "it is written again when it comes again"


def test_old_entries_and_contents_are_cleared_away() -> None:
    history = History("orders")
    for number in range(1, MOST + 21):
        add(history, number % 7 if number > 10 else number)
    assert [entry.number for entry in history.entries] == list(range(21, MOST + 21))
    files = sorted(path.name for path in folder().iterdir())
    assert len([name for name in files if name.endswith(".entry")]) == MOST
    assert len([name for name in files if name.endswith(".content")]) == 7
    assert History("orders").problems == []


def test_a_draft_that_was_never_finished_is_no_entry() -> None:
    add(History("orders"), 1)
    (folder() / "00000002.new").write_bytes(b"half")
    history = History("orders")
    assert (len(history.entries), history.problems) == (1, [])
    add(history, 2)
    assert not (folder() / "00000002.new").exists()


def test_a_folder_that_cannot_be_written_is_said() -> None:
    state_dir().mkdir(exist_ok=True)
    (state_dir() / "history").write_text("in the way")
    history = History("orders")
    with pytest.raises(PannierError):
        add(history, 1)
    assert [entry.number for entry in history.entries] == [1], "it holds all the same"


def test_lines_become_one() -> None:
    assert summary([]) == ""
    assert summary(["~ a"]) == "~ a"
    assert len(summary(["x" * 500, "y", "z"])) <= 240
    assert summary(["x" * 500, "y", "z"]).endswith(" (+1)")
