from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.supervisor.difference import NOTHING, differences, leaves, within

TREE = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b c"]),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def shown(old: Any, new: Any) -> list[str]:
    return [str(difference) for difference in differences(old, new)]


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": {"b": 7}}, {"a": {"b": 5}}, ["a.b 7 → 5"]),
        ({"a": 1}, {"b": 1}, ["a 1 → none", "b none → 1"]),
        ({"a": None}, {"a": True}, ["a none → true"]),
        ({"a": "x y"}, {"a": ""}, ['a "x y" → ""']),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a [1, 2] → [2, 1]"]),
        ({"svc.a": {"b": 1}}, {"svc.a": {"b": 2}}, ['"svc.a".b 1 → 2']),
        ({"a": {"b": 1}}, {}, ['a {"b": 1} → none']),
        ({"a": []}, {"a": [{"name": "x", "to": 1}]}, ['a.x none → {"name": "x", "to": 1}']),
    ],
)
def test_what_differs(old: Any, new: Any, lines: list[str]) -> None:
    assert shown(old, new) == lines


def test_entries_with_names_are_compared_under_their_names_and_by_their_order() -> None:
    first, second, third = ({"name": name, "to": 1} for name in ("one", "two", "three"))
    assert shown({"r": [first, second]}, {"r": [first, {**second, "to": 2}]}) == ["r.two.to 1 → 2"]
    assert shown({"r": [first, second]}, {"r": [third, first, second]}) == ['r.three none → {"name": "three", "to": 1}']
    assert shown({"r": [first, second]}, {"r": [second, first]}) == ['r ["one", "two"] → ["two", "one"]']


def test_entries_of_one_name_are_no_table() -> None:
    twice = [{"name": "one"}, {"name": "one"}]
    assert len(shown({"r": twice}, {"r": twice[:1]})) == 1


def test_a_long_value_and_a_hostile_one_are_cut() -> None:
    (line,) = shown({"a": 1}, {"a": "\x1b[2J" + "x" * 1000})
    assert "\x1b" not in line
    assert len(line) < 100


@given(TREE, TREE)
def test_equal_trees_have_none_and_others_have_some(old: Any, new: Any) -> None:
    assert not list(differences(old, old))
    # 1 == True in Python, and the entries of two lists may be equal in another sense only here
    assert bool(list(differences(old, new))) == (old != new)


def test_leaves_and_paths() -> None:
    tree = {"a": {"b": 1, "c": {}}, "d": [1]}
    assert dict(leaves(tree)) == {("a", "b"): 1, ("a", "c"): {}, ("d",): [1]}
    assert within(tree, ("a", "b")) == 1
    assert within(tree, ("a", "x")) is NOTHING
    assert within(tree, ("d", "x")) is NOTHING
    assert within({"r": [{"name": "x", "to": 1}]}, ("r", "x", "to")) == 1
