"""The translation of routes, where a table says more than a client: hosts, shares, expressions, bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.hosts import Hosts
from pannier.sidecars.pilot.xds.hosts import routes as put_together
from pannier.sidecars.pilot.xds.matches import is_re2
from pannier.sidecars.pilot.xds.resources import Type
from pannier.sidecars.pilot.xds.routes import route_configuration, targets
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.shares import MOST, shares
from pannier.sidecars.pilot.xds.words import Json
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.config import Match, Redirect, Route


def policy(*routes: Route, **services: traffic.Service) -> Policy:
    """A policy of traffic alone."""
    return Policy(traffic=traffic.Config(routes=list(routes), services=services))


def hosts(told: Json) -> Mapping[str, Sequence[str]]:
    """The names of the routes of each virtual host, in order."""
    return {host["name"]: [route["name"] for route in host["routes"]] for host in told["virtual_hosts"]}


def test_a_route_stands_in_the_virtual_host_of_each_host_that_it_applies_to() -> None:
    told, unmapped = route_configuration(
        policy(
            Route(name="exact", hosts=["API.example.com"], to={"a": 1}),
            Route(name="longer", hosts=["*.eu.example.com"], to={"a": 1}),
            Route(name="suffix", hosts=["*.example.com"], to={"b": 1}),
            Route(name="any", matches=[Match(path="/x")], to={"c": 1}),
            Route(name="marked", request=traffic.Headers(set={"x-a": "1"})),
            Route(name="away", matches=[Match(path="/y")], redirect=Redirect(host="a.example")),
            Route(name="nobody", hosts=["not.there"], retries=1),
            Route(name="odd", hosts=["a b", "a:80"], to={"a": 1}),
        ),
        ["orders"],
        name="outbound",
    )
    assert hosts(told) == {
        "orders": ["any", "marked", "away", "default"],
        "api.example.com": ["exact", "suffix", "any", "away"],
        "not.there": ["any", "away"],
        "*.eu.example.com": ["longer", "suffix", "any", "away"],
        "*.example.com": ["suffix", "any", "away"],
        "*": ["any", "away"],
    }
    domains = {host["name"]: host["domains"] for host in told["virtual_hosts"]}
    assert domains["orders"] == ["orders", "orders:*"]
    assert domains["*.example.com"] == ["*.example.com"]
    assert targets(told) == {"orders", "a", "b", "c"}
    said = {(one.where, one.what) for one in unmapped}
    assert {("traffic.routes[6].hosts", "not.there"), ("traffic.routes[7].hosts", "a b")} <= said
    assert ("traffic.routes[7].hosts", "a:80") in said


def test_a_policy_that_says_nothing_leads_everybody_to_his_service() -> None:
    told, _ = route_configuration(Policy(), ["a", "b"], name="outbound")
    assert hosts(told) == {"a": ["default"], "b": ["default"]}
    assert targets(told) == {"a", "b"}
    assert route_configuration(Policy(), [], name="x")[0] == {"name": "x", "virtual_hosts": []}


@pytest.mark.parametrize(
    ("to", "split", "expected"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 7}, {}, {"a": 1}),
        ({"a": 1}, {"v1": 90, "v2": 10}, {"a/v1": 90, "a/v2": 10}),
        ({"a": 1}, {"v1": 5, "v2": 0}, {"a/v1": 1}),
        ({"a": 50, "b": 50}, {"v1": 60, "v2": 40}, {"a/v1": 3000, "a/v2": 2000, "b": 5000}),
        ({"a/v1": 20, "b": 80}, {"v1": 60, "v2": 40}, {"a/v1": 20, "b": 80}),
        ({"a": 50, "a/v1": 50}, {"v1": 50, "v2": 50}, {"a/v1": 7500, "a/v2": 2500}),
        ({"a": 1, "b": 0}, {}, {"a": 1}),
        ({"a": 0, "b": 0}, {}, {}),
    ],
)
def test_shares_are_exact(to: Mapping[str, int], split: Mapping[str, int], expected: Mapping[str, int]) -> None:
    subsets = {name: {"version": name} for name in split}
    of = shares(policy(a=traffic.Service(split=dict(split), subsets=subsets)), to)
    assert {share.cluster: share.weight for share in of} == expected


def test_weights_have_room() -> None:
    """Envoy and gRPC refuse a sum beyond 32 bits."""
    services = {
        name: traffic.Service(split={"x": 9973 - number, "y": 10_000 - number}) for number, name in enumerate("abcde")
    }
    of = shares(policy(**services), {"a": 9999, "b": 1, "c": 10_000, "d": 17, "e": 3})
    assert len(of) == 10
    assert sum(share.weight for share in of) <= MOST
    assert min(share.weight for share in of) >= 1
    whole = sum(share.weight for share in of)
    assert abs(of[0].weight / whole - 9999 / 20020 * 9973 / 19973) < 1e-5


def test_a_route_all_of_whose_weights_are_0_is_left_out() -> None:
    told, unmapped = route_configuration(policy(Route(name="none", to={"a": 0})), ["orders"], name="x")
    assert hosts(told) == {"orders": ["default"]}
    assert "traffic.routes[0].to" in {one.where for one in unmapped}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("/a--b/[0-9]+", True),
        ("/a&&b~~c", True),
        ("[[:alpha:]_-]+", True),
        (r"(?i)/a(?P<n>\d{1,999})\pL\p{Lu}", True),
        ("[a-z&&[^b]]", False),
        ("[a-z--b]", False),
        ("[a[bc]]", False),
        (r"\u0041", False),
        (r"\b{start}a", False),
        (r"\<a\>", False),
        (r"\p{Alphabetic}", False),
        (r"\p{sc=Greek}", False),
        ("(?x) a b", False),
        ("(?<name>a)", False),
        ("a{1001}", False),
        ("a{5,2000}", False),
    ],
)
def test_an_expression_that_a_client_may_refuse_is_left_out(expression: str, expected: bool) -> None:
    assert is_re2(expression) == expected
    told, unmapped = route_configuration(
        policy(Route(name="one", matches=[Match(regex=expression)], to={"a": 1})), ["orders"], name="x"
    )
    assert ("one" in hosts(told)["orders"]) == expected
    assert any(re.search(r"matches\[0\]\.regex", one.where) for one in unmapped) != expected


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (resilience.Service(breaker=resilience.Breaker(success_rate=1.0)), 1),
        (resilience.Service(breaker=resilience.Breaker(success_rate=0.8)), 20),
        (
            resilience.Service(failure_policy="outlier", outlier=resilience.Outlier(failure_percentage=0.2)),
            1,
        ),
        (resilience.Service(failure_policy="outlier", outlier=resilience.Outlier()), None),
    ],
)
def test_a_percentage_of_failures_is_never_0(service: resilience.Service, expected: int | None) -> None:
    """That would be everybody."""
    limits = Policy(resilience=resilience.Config(services={"a": service}))
    ((cluster,), _) = clusters(limits, "a", subsets=[])
    detection = cluster["outlier_detection"]
    assert detection.get("failure_percentage_threshold") == expected
    assert detection["enforcing_failure_percentage"] == (0 if expected is None else 100)


@pytest.mark.parametrize("client", list(Client))
def test_hosts_that_are_made_alone_are_those_that_are_made_together(client: Client) -> None:
    services = ["a", "b", "orders"]
    told = policy(
        Route(name="shared", matches=[Match(prefix="/x")], to={"a": 1, "b": 1}),
        Route(name="own", timeouts=traffic.RouteTimeouts(request="1s"), matches=[Match(path="/y")]),
        Route(name="away", hosts=["*.example.com", "orders"], redirect=Redirect(scheme="https")),
        a=traffic.Service(subsets={"v1": {"version": "1"}}, split={"v1": 1}),
    )
    made = Hosts().of(told, "staging", client, services)
    response = MESSAGES["envoy.service.discovery.v3.DiscoveryResponse"].FromString(put_together("x", made).as_any)
    alone = MESSAGES[Type.ROUTES.value].FromString(response.resources[0].value)
    together = MESSAGES.from_json(
        Type.ROUTES.value, route_configuration(told, services, name="outbound", client=client.value)[0]
    )
    by_name = {host.name: host for host in together.virtual_hosts}
    assert {host.name: host for host in alone.virtual_hosts} == by_name
    assert len(alone.virtual_hosts) == len(together.virtual_hosts) == 5
    assert made["orders"].targets == {"a/v1", "b", "orders"}
