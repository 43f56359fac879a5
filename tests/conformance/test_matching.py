"""Which route a request takes."""

from __future__ import annotations

import pytest
from pannier.sidecars.traffic.config import Config, Match, Route, Text

from tests.conformance.bootstrap import Envoy, Json
from tests.conformance.conftest import Compare
from tests.conformance.sides import CALLEE, Side

ELSE: Json = {"match": {"prefix": "/"}, "route": {"cluster": CALLEE}}


def ours(*routes: tuple[str, list[Match]]) -> Config:
    """Routes to these services, in this order."""
    return Config(
        routes=[
            Route(name=f"{number}-{service}", hosts=[CALLEE], matches=matches, to={service: 1})
            for number, (service, matches) in enumerate(routes)
        ]
    )


def envoys(*routes: tuple[str, Json]) -> Envoy:
    """The same for Envoy; what matches none goes to the callee, as with us."""
    return Envoy(routes=[*({"match": match, "route": {"cluster": service}} for service, match in routes), ELSE])


def header(name: str, **condition: object) -> Json:
    """Any path, with a condition on a header."""
    return {"prefix": "/", "headers": [{"name": name, **condition}]}


def query(name: str, **condition: object) -> Json:
    """Any path, with a condition on a parameter."""
    return {"prefix": "/", "query_parameters": [{"name": name, **condition}]}


def test_the_first_path_that_matches_wins(compare: Compare) -> None:
    both = compare(
        others=["one", "two", "three"],
        routes=ours(
            ("one", [Match(path="/a/exact")]),
            ("two", [Match(regex="/a/[0-9]+")]),
            ("three", [Match(prefix="/a")]),
            ("one", [Match(path="/a/late")]),
        ),
        envoy=envoys(
            ("one", {"path": "/a/exact"}),
            ("two", {"safe_regex": {"regex": "/a/[0-9]+"}}),
            ("three", {"path_separated_prefix": "/a"}),
            ("one", {"path": "/a/late"}),
        ),
    )
    expected = {
        "/a/exact": b"one-0",
        "/a/exact?q=1": b"one-0",
        "/a/exact/": b"three-0",
        "/a/12": b"two-0",
        "/a/12?q=x": b"two-0",
        "/a/12x": b"three-0",
        "/a/12/": b"three-0",
        "/a/late": b"three-0",
        "/a": b"three-0",
        "/a?q": b"three-0",
        "/a/": b"three-0",
        "/ab": b"orders-0",
        "/A/exact": b"orders-0",
        "/": b"orders-0",
    }
    assert both.agree(lambda side: {path: side.ask(path).body for path in expected}) == expected


def test_any_of_several_fields_is_matched(compare: Compare) -> None:
    """A caller cannot hide a value behind another."""
    both = compare(
        others=["ann"],
        routes=Config(
            routes=[Route(name="ann", matches=[Match(headers={"x-user": Text(exact="ann")})], to={"ann": 1})]
        ),
        envoy=Envoy(
            routes=[
                {
                    "match": {"prefix": "/", "headers": [{"name": "x-user", "string_match": {"exact": "ann"}}]},
                    "route": {"cluster": "ann"},
                },
                {"match": {"prefix": "/"}, "route": {"cluster": CALLEE}},
            ]
        ),
    )
    assert both.each(lambda side: side.ask("/", "x-user: bob", "x-user: ann").body) == (b"ann-0", b"ann-0")


def test_headers(compare: Compare) -> None:
    both = compare(
        others=["exact", "regex", "present", "absent"],
        routes=ours(
            ("exact", [Match(headers={"x-user": Text(exact="ann")})]),
            ("regex", [Match(headers={"X-User": Text(regex="b[0-9]+")})]),
            ("present", [Match(headers={"x-user": Text(present=True), "x-other": Text(exact="1")})]),
            ("absent", [Match(headers={"x-user": Text(present=False)})]),
        ),
        envoy=envoys(
            ("exact", header("x-user", string_match={"exact": "ann"})),
            ("regex", header("X-User", string_match={"safe_regex": {"regex": "b[0-9]+"}})),
            (
                "present",
                {
                    "prefix": "/",
                    "headers": [
                        {"name": "x-user", "present_match": True},
                        {"name": "x-other", "string_match": {"exact": "1"}},
                    ],
                },
            ),
            ("absent", header("x-user", present_match=False)),
        ),
    )
    expected = {
        ("X-USER: ann",): b"exact-0",
        ("x-user: Ann",): b"orders-0",
        ("x-user: ann ",): b"exact-0",
        ("x-user: b12",): b"regex-0",
        ("x-user: b12c",): b"orders-0",
        ("x-user: carl", "x-other: 1"): b"present-0",
        ("x-user: carl", "x-other: 2"): b"orders-0",
        (): b"absent-0",
    }
    assert both.agree(lambda side: {fields: side.ask("/", *fields).body for fields in expected}) == expected


def test_query_parameters(compare: Compare) -> None:
    both = compare(
        others=["exact", "regex", "present"],
        routes=ours(
            ("exact", [Match(query={"v": Text(exact="1"), "w": Text(exact="2")})]),
            ("regex", [Match(query={"v": Text(regex="[a-c]+")})]),
            ("present", [Match(query={"debug": Text(present=True)})]),
        ),
        envoy=envoys(
            (
                "exact",
                {
                    "prefix": "/",
                    "query_parameters": [
                        {"name": "v", "string_match": {"exact": "1"}},
                        {"name": "w", "string_match": {"exact": "2"}},
                    ],
                },
            ),
            ("regex", query("v", string_match={"safe_regex": {"regex": "[a-c]+"}})),
            ("present", query("debug", present_match=True)),
        ),
    )
    expected = {
        "/?v=1&w=2": b"exact-0",
        "/p?w=2&x=3&v=1": b"exact-0",
        "/?v=1": b"orders-0",
        "/?v=12&w=2": b"orders-0",
        "/?v=abc": b"regex-0",
        "/?v=abcd": b"orders-0",
        "/?debug": b"present-0",
        "/?debug=": b"present-0",
        "/?debug=yes": b"present-0",
        "/?bug": b"orders-0",
        "/?v=1&v=3&w=2": b"exact-0",
        "/?v=3&v=1&w=2": b"orders-0",
        "/?v=%31&w=2": b"orders-0",
        "/?v=+1&w=2": b"orders-0",
        "/debug": b"orders-0",
    }
    assert both.agree(lambda side: {target: side.ask(target).body for target in expected}) == expected


def test_methods(compare: Compare) -> None:
    both = compare(
        others=["writes"],
        routes=ours(("writes", [Match(method="POST"), Match(method="PUT", prefix="/a")])),
        envoy=envoys(
            ("writes", header(":method", string_match={"exact": "POST"})),
            (
                "writes",
                {
                    "path_separated_prefix": "/a",
                    "headers": [{"name": ":method", "string_match": {"exact": "PUT"}}],
                },
            ),
        ),
    )
    expected = {
        ("POST", "/"): b"writes-0",
        ("PUT", "/a/1"): b"writes-0",
        ("PUT", "/"): b"orders-0",
        ("GET", "/a"): b"orders-0",
        ("DELETE", "/"): b"orders-0",
    }

    def observe(side: Side) -> dict[tuple[str, str], bytes]:
        return {(method, path): side.ask(path, method=method, body=b"").body for method, path in expected}

    assert both.agree(observe) == expected


@pytest.mark.parametrize("host", ["nobody", "orders.example", "10.0.0.1"])
def test_a_host_that_nobody_knows(compare: Compare, host: str) -> None:
    both = compare()
    assert both.agree(lambda side: side.verdict(side.ask("/", host=host))) == (404, "NR")
    assert both.agree(Side.attempts) == [0]


def test_the_case_of_a_host_does_not_matter(compare: Compare) -> None:
    assert compare().agree(lambda side: side.ask("/", host="Orders").status) == 200
