"""Which routes are taken by earlier ones, checked against a plain reading of what a match means."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.traffic import shadowing
from pannier.sidecars.traffic.config import Match, Route, Text
from pannier.sidecars.traffic.shadowing import Shadowed, TooMuch, shadowed


def taken(first: Match, second: Match) -> bool:
    routes = [Route(name="a", matches=[first]), Route(name="b", matches=[second])]
    return list(shadowed(routes)) == [Shadowed(1, 1, 1, [0])]


EXACT, PRESENT, ABSENT = Text(exact="1"), Text(present=True), Text(present=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Match(), Match()),
        (Match(), Match(path="/a", method="GET")),
        (Match(prefix="/"), Match()),
        (Match(prefix="/"), Match(regex="/a.*")),
        (Match(prefix="/a"), Match(prefix="/a/b")),
        (Match(prefix="/a"), Match(prefix="/a/")),
        (Match(prefix="/a/"), Match(prefix="/a")),
        (Match(prefix="/a/"), Match(path="/a")),
        (Match(prefix="/a"), Match(path="/a")),
        (Match(prefix="/a"), Match(path="/a/b/c")),
        (Match(path="/a"), Match(path="/a", headers={"x": EXACT})),
        (Match(regex="/a.*"), Match(regex="/a.*")),
        (Match(method="GET"), Match(method="GET", port=80)),
        (Match(headers={"X-A": PRESENT}), Match(headers={"x-a": EXACT})),
        (Match(headers={"x-a": PRESENT}), Match(headers={"x-a": Text(regex="1+"), "x-b": ABSENT})),
        (Match(query={"q": ABSENT}), Match(query={"q": ABSENT}, source="stock")),
        (Match(headers={"x": Text(regex="1+")}), Match(headers={"x": Text(regex="1+")})),
    ],
)
def test_what_an_earlier_match_takes(first: Match, second: Match) -> None:
    assert taken(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Match(path="/a", method="GET"), Match()),
        (Match(prefix="/a/b"), Match(prefix="/a")),
        (Match(prefix="/a"), Match(prefix="/ab")),
        (Match(prefix="/a"), Match(path="/ab")),
        (Match(path="/a"), Match(prefix="/a")),
        (Match(path="/A"), Match(path="/a")),
        (Match(method="GET"), Match(method="HEAD")),
        (Match(method="GET"), Match()),
        (Match(headers={"x": EXACT}), Match(headers={"x": PRESENT})),
        (Match(headers={"x": EXACT}), Match(headers={"x": Text(exact="2")})),
        (Match(headers={"x": ABSENT}), Match(headers={"x": PRESENT})),
        (Match(headers={"x": ABSENT}), Match()),
        (Match(query={"Q": PRESENT}), Match(query={"q": PRESENT})),
        (Match(query={"x": PRESENT}), Match(headers={"x": PRESENT})),
        (Match(regex="/a.*"), Match(path="/a")),
        (Match(regex="/a.*"), Match(regex="/a.+")),
        (Match(port=80), Match(port=81)),
        (Match(source="a"), Match(source="b")),
    ],
)
def test_what_it_leaves(first: Match, second: Match) -> None:
    assert not taken(first, second)


def test_hosts_and_sides_stand_apart() -> None:
    routes = [
        Route(name="a", hosts=["x"]),
        Route(name="b"),
        Route(name="c", side="inbound"),
        Route(name="d", hosts=["X", "y", "x"]),
    ]
    assert list(shadowed(routes)) == [Shadowed(3, 2, 2, [0, 1])]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("*.shop.example", "a.shop.example", True),
        ("*.shop.example", "*.a.shop.example", True),
        ("*.shop.example", "*.SHOP.example", True),
        ("*", "*.shop.example", True),
        ("*.shop.example", "shop.example", False),
        ("*.a.shop.example", "*.shop.example", False),
        ("*.shop.example", "*", False),
    ],
)
def test_hosts_with_a_star(first: str, second: str, expected: bool) -> None:
    assert bool(list(shadowed([Route(name="a", hosts=[first]), Route(name="b", hosts=[second])]))) == expected


def test_a_match_that_repeats_its_own_route_is_not_taken_by_another() -> None:
    assert list(shadowed([Route(name="a", matches=[Match(prefix="/a"), Match(path="/a/b")])])) == []


@dataclass(frozen=True)
class Asked:
    path: str
    method: str
    header: str | None


ASKED = [
    Asked(*one)
    for one in product(
        ["/", "/a", "/ab", "/a/", "/a/b", "/a/b/c", "/a/bc", "/b", "/b/c"], ["GET", "HEAD"], [None, "1", "2", "3"]
    )
]


def holds(match: Match, asked: Asked) -> bool:
    if match.path is not None and asked.path != match.path:
        return False
    if match.prefix is not None:
        prefix = match.prefix.rstrip("/")
        if asked.path != prefix and not asked.path.startswith(prefix + "/"):
            return False
    if match.method is not None and asked.method != match.method:
        return False
    text = match.headers.get("x")
    if text is None:
        return True
    return asked.header == text.exact if text.exact is not None else (asked.header is not None) == text.present


paths = st.sampled_from(["/", "/a", "/a/", "/a/b", "/b"])
matches = st.builds(
    lambda path, method, text: Match(**path, method=method, headers={} if text is None else {"x": text}),
    st.one_of(st.just({}), st.builds(lambda p: {"path": p}, paths), st.builds(lambda p: {"prefix": p}, paths)),
    st.sampled_from([None, "GET", "HEAD"]),
    st.sampled_from([None, EXACT, Text(exact="2"), PRESENT, ABSENT]),
)


@given(st.lists(st.lists(matches, min_size=1, max_size=3), max_size=6))
def test_what_is_said_is_true(lists: list[list[Match]]) -> None:
    routes = [Route(name=f"r{number}", matches=found) for number, found in enumerate(lists)]
    reached = {
        next((n for n, route in enumerate(routes) if any(holds(m, asked) for m in route.matches)), None)
        for asked in ASKED
    }
    for one in shadowed(routes):
        if one.taken == one.parts:
            assert one.route not in reached


@given(matches, matches)
def test_one_match_is_taken_exactly_if_no_request_is_left_for_it(first: Match, second: Match) -> None:
    left = [asked for asked in ASKED if holds(second, asked) and not holds(first, asked)]
    assert taken(first, second) == (not left)


def test_what_is_built_to_be_compared_for_long_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "BUDGET", 5000)

    def hard(number: int) -> Match:
        return Match(headers={f"h{n}": Text(exact=str(number * n)) for n in range(12)})

    routes = [Route(name="all", hosts=["x"]), Route(name="never", hosts=["x"])]
    routes += [Route(name=f"r{number}", matches=[hard(number)]) for number in range(500)]
    found = shadowed(routes)
    assert next(found).route == 1
    with pytest.raises(TooMuch) as caught:
        list(found)
    assert 50 < caught.value.route < 500
