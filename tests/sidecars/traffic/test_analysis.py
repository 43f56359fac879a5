"""What is said about configurations that contradict themselves, and that good ones are left alone."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from pannier.shared.explain import Finding, dotted
from pannier.sidecars.traffic.config import Config

SUBSETS = """
[services.orders.subsets]
v1 = { version = "1" }
v2 = { version = "2" }
"""


def findings(text: str) -> list[Finding]:
    return msgspec.convert(tomllib.loads(text), Config).contradictions()


def said(text: str) -> list[tuple[str, str, str]]:
    return [(dotted(one.path), one.code, one.severity) for one in findings(text)]


GOOD = """
allow = ["fault", "mirror"]
[services.orders]
balance = "ring_hash"
affinity = { cookie = "session" }
split = { v1 = 90, v2 = 10 }
shift = { to = "v2" }
mirror = { to = "orders/v2", percent = 5 }
fault = { delay = "1s", percent = 1 }
subsets = { v1 = { version = "1" }, v2 = { version = "2" } }
[services.stock]
subsets = { a = { zone = "a" }, b = { zone = "b" } }
split = { a = 500, b = 500 }
[[routes]]
name = "testers"
hosts = ["orders"]
matches = [{ headers = { x-tester = { present = true } } }]
to = { "orders/v2" = 1 }
[[routes]]
name = "old"
hosts = ["orders"]
matches = [{ prefix = "/v1" }]
rewrite = { prefix = "/" }
timeouts = { request = "3s", backend_request = "1s" }
retries = 2
[[routes]]
name = "moved"
hosts = ["orders"]
matches = [{ path = "/here" }]
redirect = { path = "/there" }
[[routes]]
name = "rest"
to = { orders = 7 }
[[routes]]
name = "public"
side = "inbound"
"""


def test_a_good_one_is_left_alone() -> None:
    assert findings(GOOD) == []
    assert findings("") == []


@pytest.mark.semantics("traffic", "A fault or a mirror that the stage does not allow is refused", "allow")
def test_an_experiment_that_the_stage_does_not_permit() -> None:
    text = GOOD.replace('allow = ["fault", "mirror"]', 'allow = ["mirror"]')
    assert said(text) == [("services.orders.fault", "PAN0201", "error")]
    [finding] = findings(text)
    assert "`sidecars.traffic.allow`" in finding.message
    text = '[[routes]]\nname = "a"\nmirror = { to = "stock" }\nfault = { abort = 503 }\n'
    assert said(text) == [("routes[0].mirror", "PAN0201", "error"), ("routes[0].fault", "PAN0201", "error")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[services.orders]\nsplit = { v1 = 50, v3 = 50 }", "services.orders.split.v3"),
        ('[services.orders]\nshift = { to = "v3" }', "services.orders.shift.to"),
        ('allow = ["mirror"]\n[services.orders]\nmirror = { to = "orders/v3" }', "services.orders.mirror.to"),
        ('[[routes]]\nname = "a"\nto = { "orders/v3" = 1 }', 'routes[0].to."orders/v3"'),
        ('allow = ["mirror"]\n[[routes]]\nname = "a"\nmirror = { to = "orders/v3" }', "routes[0].mirror.to"),
    ],
)
def test_a_subset_that_nobody_defined(text: str, path: str) -> None:
    [finding] = findings(text + SUBSETS)
    assert (dotted(finding.path), finding.code, finding.severity) == (path, "PAN0202", "error")
    assert finding.message == "orders has no subset v3"
    assert finding.expectation == "known: v1, v2"


def test_a_subset_that_is_nearly_one() -> None:
    text = '[services.orders]\nsplit = { stabel = 1 }\nsubsets = { stable = { version = "1" } }'
    [finding] = findings(text)
    assert (finding.near, finding.at_key) == ("stable", True)


def test_a_subset_of_a_service_without_any() -> None:
    [finding] = findings('[[routes]]\nname = "a"\nto = { "stock/a" = 1 }')
    assert finding.expectation == "expected it under services.stock.subsets"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("{ v1 = 0, v2 = 0 }", ("PAN0203", "error")),
        ("{ v1 = 0 }", ("PAN0203", "error")),
        ("{ v1 = 90, v2 = 20 }", ("PAN0204", "warning")),
        ("{ v1 = 1 }", None),
        ("{ v1 = 995, v2 = 5 }", None),
        ("{}", None),
    ],
)
def test_weights(split: str, expected: tuple[str, str] | None) -> None:
    wanted = [] if expected is None else [("services.orders.split", *expected)]
    assert said(f"[services.orders]\nsplit = {split}{SUBSETS}") == wanted
    route = split.replace("v1", '"orders/v1"').replace("v2", '"orders/v2"')
    wanted = [] if expected is None else [("routes[0].to", *expected)]
    assert said(f'[[routes]]\nname = "a"\nto = {route}{SUBSETS}') == wanted


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ('{ to = "v2", abort_on = "success<100.1%" }', ("services.orders.shift.abort_on", "PAN0213", "error")),
        ('{ to = "v2", abort_on = "success<0%" }', ("services.orders.shift.abort_on", "PAN0213", "warning")),
    ],
)
def test_shifts_that_cannot_be_meant(shift: str, expected: tuple[str, str, str]) -> None:
    assert said(f"[services.orders]\nshift = {shift}{SUBSETS}") == [expected]


def test_a_shift_with_nobody_to_shift_from() -> None:
    text = '[services.orders]\nshift = { to = "v2" }\nsubsets = { v2 = { version = "2" } }'
    assert said(text) == [("services.orders.shift.to", "PAN0213", "error")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('timeouts = { request = "1s", backend_request = "1s" }', "routes[0].timeouts.backend_request"),
        ('timeouts = { request = "1s", backend_request = "400ms" }\nretries = 2', "routes[0].timeouts.request"),
        ('timeouts = { request = "1s", backend_request = "500ms" }\nretries = 1', None),
        ('timeouts = { request = "0s", backend_request = "9s" }\nretries = 9', None),
        ('timeouts = { request = "1s", backend_request = "0s" }\nretries = 9', None),
        ('timeouts = { request = "1s" }\nretries = 9', None),
    ],
)
def test_timeouts(fields: str, expected: str | None) -> None:
    assert said(f'[[routes]]\nname = "a"\n{fields}') == ([(expected, "PAN0209", "warning")] if expected else [])


def test_a_redirect_sends_nothing_on() -> None:
    text = """
    [[routes]]
    name = "a"
    to = { stock = 1 }
    rewrite = { host = "x" }
    redirect = { host = "y" }
    """
    assert said(text) == [("routes[0].to", "PAN0210", "warning"), ("routes[0].rewrite", "PAN0210", "warning")]


@pytest.mark.parametrize("change", ["rewrite", "redirect"])
@pytest.mark.parametrize(
    ("matches", "severity"),
    [
        ("[]", "error"),
        ('[{ path = "/a" }]', "error"),
        ('[{ prefix = "/a" }]', None),
        ('[{ prefix = "/a" }, { path = "/b" }]', "warning"),
    ],
)
def test_a_prefix_that_is_not_there(change: str, matches: str, severity: str | None) -> None:
    text = f'[[routes]]\nname = "a"\nmatches = {matches}\n{change} = {{ prefix = "/b" }}'
    assert said(text) == ([(f"routes[0].{change}.prefix", "PAN0214", severity)] if severity else [])


def test_a_mirror_to_where_the_request_goes() -> None:
    text = """
    allow = ["mirror"]
    [services.orders]
    mirror = { to = "orders" }
    [[routes]]
    name = "a"
    to = { stock = 1 }
    mirror = { to = "stock" }
    """
    assert said(text) == [
        ("services.orders.mirror.to", "PAN0211", "warning"),
        ("routes[0].mirror.to", "PAN0211", "warning"),
    ]


@pytest.mark.parametrize("balance", ["ring_hash", "maglev"])
def test_hashing_without_a_key(balance: str) -> None:
    text = f'[services.orders]\nbalance = "{balance}"\n'
    assert said(text) == [("services.orders.balance", "PAN0212", "warning")]
    assert said(text + 'affinity = { header = "x-user" }') == []


def test_methods_and_retries_that_nobody_makes() -> None:
    text = """
    [[routes]]
    name = "a"
    side = "inbound"
    retries = 1
    matches = [{ method = "GTE" }, { method = "PATCH" }]
    """
    assert said(text) == [
        ("routes[0].matches[0].method", "PAN0215", "warning"),
        ("routes[0].retries", "PAN0216", "warning"),
    ]
    assert findings(text)[0].near == "GET"


def test_two_routes_of_one_name() -> None:
    text = '[[routes]]\nname = "a"\nhosts = ["x"]\n[[routes]]\nname = "a"\nhosts = ["y"]\n'
    assert said(text) == [("routes[1].name", "PAN0205", "error")]


def test_routes_that_are_never_reached() -> None:
    text = """
    [[routes]]
    name = "all"
    hosts = ["orders"]
    [[routes]]
    name = "some"
    hosts = ["orders", "stock"]
    [[routes]]
    name = "none"
    hosts = ["stock"]
    matches = [{ prefix = "/x" }]
    """
    assert said(text) == [("routes[1]", "PAN0207", "warning"), ("routes[2]", "PAN0206", "warning")]
    some, none = findings(text)
    assert some.message == "1 of its 2 hosts and matches never reached: all before it takes them"
    assert none.message == "never reached: some before it takes all that it matches"


def test_all_findings_at_once() -> None:
    data: dict[str, Any] = {
        "services": {"orders": {"split": {"v1": 0}, "fault": {"abort": 503}, "balance": "maglev"}},
        "routes": [{"name": "a"}, {"name": "a", "retries": 2, "side": "inbound"}],
    }
    codes = [one.code for one in msgspec.convert(data, Config).contradictions()]
    assert codes == ["PAN0203", "PAN0202", "PAN0201", "PAN0212", "PAN0216", "PAN0205"]


def test_what_the_data_path_refuses_is_found_with_its_place() -> None:
    text = """
    allow = ["mirror"]
    [services.orders]
    subsets = { v1 = { version = "1" }, v2 = { version = "2" } }
    split = { v1 = 1, v2 = 99 }
    mirror = { to = "stock/a" }
    [services.stock]
    subsets = { a = { zone = "a" } }
    slow_start = "48h"
    [[routes]]
    name = "good"
    hosts = ["x"]
    to = { "orders/v2" = 1 }
    [[routes]]
    name = "regex"
    matches = [{ regex = "(" }]
    [[routes]]
    name = "framing"
    matches = [{ path = "/a" }]
    request = { set = { content-length = "3" } }
    """
    found = [one for one in findings(text) if one.code == "PAN0217"]
    assert [dotted(one.path) for one in found] == ["routes[1]", "routes[2]"]
    assert all(one.severity == "error" for one in found)
    assert "regular expression" in found[0].message
    assert "content-length" in found[1].message


def test_what_is_too_much_in_all_is_said_of_the_whole() -> None:
    routes = [{"name": f"r{number}", "matches": [{"regex": f"/{number}"}]} for number in range(600)]
    [finding] = msgspec.convert({"routes": routes}, Config).contradictions()
    assert (finding.path, finding.code) == ((), "PAN0217")
    assert "600 regular expressions" in finding.message


def test_what_is_known_to_be_wrong_is_not_said_twice() -> None:
    assert said('[[routes]]\nname = "a"\nto = { "orders/v1" = 0 }') == [
        ("routes[0].to", "PAN0203", "error"),
        ('routes[0].to."orders/v1"', "PAN0202", "error"),
    ]
