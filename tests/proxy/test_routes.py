"""Which route a request follows, and which service or subset it reaches by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Headers, Match, Route, Service, Text
from pannier.sidecars.traffic.table import routes_table

from tests.proxy.census import StartOrigin, call, named, refusal, spread, start_named, versions, who
from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import answer, request

V = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}


def marked(name: str, *matches: Match, **rest: Any) -> Route:
    """A route to `up` whose answers carry its name."""
    response = Headers(set={"x-route": name})
    return Route(name=name, matches=list(matches), response=response, **{"to": {"up": 1}} | rest)


def route_of(proxy: Proxy, target: str = "/", *fields: str, **rest: Any) -> str | None:
    """The name of the route that a request follows; none if it follows none."""
    got = call(proxy, target, *fields, **rest)
    assert got.status == 200, got
    return got.get("x-route")


# --- matching ------------------------------------------------------------------------------------------------------


#: Routes that match nothing. The data path looks for a match among few otherwise than among many.
NONE: list[Route] = []
MANY = [marked(f"none-{i}", Match(path=f"/none/{i}"), hosts=["*", "up", "*.example.com"]) for i in range(20)]


@pytest.mark.semantics(
    "traffic", "The first route that matches wins, in the order of the file, whatever kind of match it is"
)
@pytest.mark.parametrize("others", [NONE, MANY], ids=["few", "many"])
def test_the_first_match_in_file_order_wins_whatever_its_kind(proxy: Proxy, others: list[Route]) -> None:
    proxy.publish_routes(
        Config(
            routes=[
                *others,
                marked("prefix", Match(prefix="/orders/special"), hosts=["up"]),
                marked("regex", Match(regex="/orders/[0-9]+")),
                marked("path", Match(path="/orders/7"), hosts=["up"]),
                marked("suffix", hosts=["*.example.com"]),
                marked("header", Match(headers={"x-a": Text(present=True)})),
                marked("host", hosts=["up"]),
                marked("rest"),
            ]
        )
    )
    for target, host, expected in (
        ("/orders/7", "up", "regex"),
        ("/orders/special", "up", "prefix"),
        ("/orders/special/7", "up", "prefix"),
        ("/orders/7", "a.example.com", "regex"),
        ("/orders/x", "a.example.com", "suffix"),
        ("/orders/x", "up", "host"),
        ("/orders/x", "other", "rest"),
    ):
        assert route_of(proxy, target, host=host) == expected
    assert route_of(proxy, "/orders/x", "X-A: 1", host="a.example.com") == "suffix"
    assert route_of(proxy, "/orders/x", "X-A: 1") == "header"


@pytest.mark.semantics("traffic", "What matches no route goes where its host says")
def test_a_request_that_matches_no_route_goes_where_its_host_says(proxy: Proxy) -> None:
    proxy.publish_routes(Config(routes=[marked("other", Match(path="/other"))]))
    assert route_of(proxy, "/") is None
    assert refusal(call(proxy, host="nobody")) == (404, "NR")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ("up", "a.example.com", "10.1.2.3:80", "[::1]"), ()),
        ("up", ("up", "UP", "Up:8080"), ("u", "upp", "a.up", "up.")),
        ("Up", ("up", "UP:1"), ("other",)),
        ("*.example.com", ("a.example.com", "A.B.Example.Com:81"), ("example.com", "aexample.com", "a.example.com.eu")),
        ("10.1.2.3", ("10.1.2.3", "10.1.2.3:99"), ("10.1.2.4",)),
    ],
)
def test_hosts(proxy: Proxy, pattern: str, matching: tuple[str, ...], others: tuple[str, ...]) -> None:
    proxy.publish_routes(Config(routes=[marked("it", hosts=[pattern]), marked("rest")]))
    assert [route_of(proxy, host=host) for host in matching] == ["it"] * len(matching)
    assert [route_of(proxy, host=host) for host in others] == ["rest"] * len(others)


CONDITIONS: dict[str, tuple[Match, tuple[str, ...], tuple[str, ...]]] = {
    "a path is the whole of it, without the query": (
        Match(path="/a/b"),
        ("/a/b", "/a/b?c", "/a/b?/c"),
        ("/a", "/a/b/", "/a/b/c", "/A/b", "/x?/a/b"),
    ),
    "a prefix is one of whole segments": (
        Match(prefix="/a"),
        ("/a", "/a/", "/a/b", "/a?b", "/a/b?c"),
        ("/", "/ab", "/b/a", "/A", "/?/a"),
    ),
    "a prefix may end with a slash": (Match(prefix="/a/"), ("/a", "/a/b"), ("/ab",)),
    "the shortest prefix is of every path": (Match(prefix="/"), ("/", "/a", "/a/b?c"), ()),
    "a regex is over the whole path": (
        Match(regex="/a/[0-9]+"),
        ("/a/1", "/a/12?x", "/a/1?/x"),
        ("/a/1x", "/x/a/1", "/a/", "/a/1/", "/x?/a/1"),
    ),
    "each alternative of a regex is over the whole path": (Match(regex="/a|/b"), ("/a", "/b"), ("/ab", "/a/b", "/b/a")),
    "a parameter has a value": (
        Match(query={"v": Text(exact="2")}),
        ("/?v=2", "/?a&v=2&b", "/?v=2&v=3"),
        ("/", "/?v", "/?v=", "/?v=22", "/?w=2", "/?xv=2", "/?V=2", "/v=2"),
    ),
    "a parameter's value matches a regex as a whole": (
        Match(query={"v": Text(regex="[0-9]+")}),
        ("/?v=12",),
        ("/?v=1a", "/?v=", "/"),
    ),
    "a parameter is there": (Match(query={"v": Text(present=True)}), ("/?v", "/?v=", "/?a&v=1"), ("/", "/?w", "/v")),
    "a parameter is not there": (Match(query={"v": Text(present=False)}), ("/", "/?w"), ("/?v", "/?v=1")),
}


@pytest.mark.semantics(
    "traffic", "A prefix is one of whole segments: `/a` is not `/ab`; a regular expression is over the whole path"
)
@pytest.mark.parametrize("what", CONDITIONS)
def test_paths_and_parameters(proxy: Proxy, what: str) -> None:
    match, matching, others = CONDITIONS[what]
    for among in (NONE, MANY):
        proxy.publish_routes(Config(routes=[*among, marked("it", match)]))
        assert [target for target in (*matching, *others) if route_of(proxy, target) == "it"] == list(matching)


def test_a_method(proxy: Proxy) -> None:
    proxy.publish_routes(Config(routes=[marked("it", Match(method="POST"))]))
    assert [route_of(proxy, method=m) for m in ("POST", "GET", "HEAD", "post")] == ["it", None, None, None]


def test_headers(proxy: Proxy) -> None:
    a = "X-Kind"
    proxy.publish_routes(
        Config(
            routes=[
                marked("exact", Match(headers={a: Text(exact="gold")})),
                marked("regex", Match(headers={a: Text(regex="[a-z]+-[0-9]+")})),
                marked("present", Match(headers={a: Text(present=True)})),
                marked("absent", Match(headers={a: Text(present=False)})),
            ]
        )
    )
    for fields, expected in (
        (["x-kind: gold"], "exact"),
        (["X-Kind: silver", "X-Kind: gold"], "exact"),
        (["X-KIND:  gold  "], "exact"),
        (["X-Kind: Gold"], "present"),
        (["X-Kind: gold-7"], "regex"),
        (["X-Kind: gold-7 "], "regex"),
        (["X-Kind: a gold-7"], "present"),
        (["X-Kind:"], "present"),
        (["X-Kinder: gold"], "absent"),
        ([], "absent"),
    ):
        assert route_of(proxy, "/", *fields) == expected, fields


def test_a_port_is_that_of_the_authority(proxy: Proxy) -> None:
    proxy.publish_routes(Config(routes=[marked("it", Match(port=8080)), marked("usual", Match(port=80))]))
    hosts = ("up:8080", "up", "up:80", "up:81")
    assert [route_of(proxy, host=host) for host in hosts] == ["it", "usual", "usual", None]


def test_a_source_is_the_service_that_calls(proxy: Proxy) -> None:
    routes = [marked("theirs", Match(source="other")), marked("ours", Match(source="svc"))]
    proxy.publish_routes(Config(routes=routes))
    assert route_of(proxy) == "ours"


def test_who_calls_from_outside_is_not_known_and_cannot_be_asked_for(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="who calls from outside is not known"):
        proxy.publish_routes(Config(routes=[marked("ours", Match(source="svc"), side="inbound", to={})]))


@pytest.mark.semantics("traffic", "All of a match must hold, and one match of a route")
def test_all_of_a_match_must_hold_and_one_match_of_a_route(proxy: Proxy) -> None:
    strict = Match(
        prefix="/a", method="POST", headers={"x-b": Text(exact="1")}, query={"c": Text(present=True)}, port=80
    )
    proxy.publish_routes(Config(routes=[marked("it", strict, Match(path="/z"), Match(source="other", path="/y"))]))
    assert route_of(proxy, "/a?c", "X-B: 1", method="POST") == "it"
    assert route_of(proxy, "/z") == "it"
    assert route_of(proxy, "/y") is None
    for target, fields, rest in (
        ("/b?c", ["X-B: 1"], {"method": "POST"}),
        ("/a?c", ["X-B: 1"], {"method": "GET"}),
        ("/a?c", ["X-B: 2"], {"method": "POST"}),
        ("/a?d", ["X-B: 1"], {"method": "POST"}),
        ("/a?c", ["X-B: 1"], {"method": "POST", "host": "up:81"}),
    ):
        assert route_of(proxy, target, *fields, **rest) is None


@pytest.mark.semantics("traffic", "A route applies to its side alone", "routes[].side")
def test_a_route_applies_to_its_side_alone(proxy: Proxy) -> None:
    proxy.publish_routes(Config(routes=[marked("inbound", side="inbound", to={}), marked("outbound")]))
    assert proxy.fetch(host="svc").get("x-route") == "inbound"
    assert route_of(proxy) == "outbound"


def test_ten_thousand_routes(proxy: Proxy) -> None:
    matches = [Match(path=f"/p{i}") if i % 2 else Match(prefix=f"/p{i}") for i in range(10_000)]
    routes = [marked(f"r{i}", match, hosts=["up", f"h{i}"]) for i, match in enumerate(matches)]
    proxy.publish_routes(Config(routes=routes))
    for i in (0, 1, 4_999, 9_998, 9_999):
        assert route_of(proxy, f"/p{i}") == f"r{i}"
        assert route_of(proxy, f"/p{i}", host=f"h{i}") == f"r{i}"
    assert route_of(proxy, "/p10000") is None


# --- tables that are refused ---------------------------------------------------------------------------------------


@pytest.mark.semantics("traffic", "What is no regular expression of linear time is refused, with its route's name")
@pytest.mark.parametrize("bad", ["(", "a{1000}{1000}{1000}", r"\p{Greek}", "[z-a]", "(?<=a)b", r"(a)\1"])
@pytest.mark.parametrize("where", ["path", "header", "query"])
def test_a_regex_that_is_none_is_refused_with_its_routes_name(bad: str, where: str) -> None:
    text = Text(regex=bad)
    match = {"path": Match(regex=bad), "header": Match(headers={"x": text}), "query": Match(query={"x": text})}[where]
    with pytest.raises(ValueError, match='route "culprit": regular expression') as error:
        _native.validate("routes", routes_table(Config(routes=[marked("fine"), marked("culprit", match)]), {}))
    assert "\n" not in str(error.value)


def test_what_is_a_regex_only_within_another_is_refused() -> None:
    """It would be no alternative of the whole path, but of a part of ours."""
    with pytest.raises(ValueError, match='route "culprit": regular expression'):
        _native.validate("routes", routes_table(Config(routes=[marked("culprit", Match(regex="/a)|(?:/b"))]), {}))


@pytest.mark.semantics("traffic", "Routes that name an unknown subset are refused whole; those before stay in force")
def test_an_unknown_subset_is_refused_and_what_was_in_force_stays(proxy: Proxy, origin: Origin) -> None:
    services = {"up": Service(subsets={"v1": {"version": "v1"}})}
    generation = proxy.publish_routes(Config(services=services, routes=[marked("old")]))
    for target in ("up/v2", "other/v1"):
        with pytest.raises(ValueError, match=target):
            proxy.publish_routes(Config(services=services, routes=[marked("new", to={target: 1})]))
    with pytest.raises(ValueError, match="up/v2"):
        proxy.publish_routes(Config(services={"up": Service(subsets=services["up"].subsets, split={"v2": 1})}))
    assert (route_of(proxy), proxy.in_force()["routes"], proxy.rejected_tables()) == ("old", generation, 0)


# --- where it goes -------------------------------------------------------------------------------------------------


def split_config(**weights: int) -> Config:
    return Config(services={"up": Service(subsets=V, split=weights)})


@pytest.fixture
def two(start_origin: StartOrigin) -> list[Origin]:
    """Origins that answer v1 and v2."""
    return start_named(start_origin, "v1", "v2")


@pytest.fixture
def split_proxy(start_proxy: StartProxy, two: list[Origin]) -> Proxy:
    """A proxy whose `up` has an endpoint of v1 and one of v2, which take turns unless a table says otherwise."""
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=versions(v1=two[0], v2=two[1]))
    return proxy


def requests_with_ids(count: int) -> list[bytes]:
    return [request("/", f"X-Request-Id: request-{i}", host="up") for i in range(count)]


@pytest.mark.semantics("traffic", "A split shares calls by weight, within sampling error", "services.*.split")
def test_a_service_is_split_by_weights_within_sampling_error(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(split_config(v1=90, v2=10))
    assert 100 < spread(split_proxy, 1500)["v2"] < 200, "4.3 standard deviations, of ids that the proxy made"
    assert 100 < spread(split_proxy, requests_with_ids(1500))["v2"] < 200, "of ids that the caller made"


@pytest.mark.semantics("traffic", "The request's id draws the share, so a retry stays with its subset")
def test_the_same_request_id_goes_to_the_same_subset(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(split_config(v1=50, v2=50))
    ids = requests_with_ids(20)
    homes = [spread(split_proxy, [one] * 3) for one in ids]
    assert all(len(home) == 1 for home in homes)
    assert len({name for home in homes for name in home}) == 2


def test_a_weight_of_0_gets_nothing(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(split_config(v1=0, v2=1))
    assert spread(split_proxy, 50) == {"v2": 50}


@pytest.mark.semantics("traffic", "The request's id draws the share, so a retry stays with its subset")
def test_a_retry_stays_in_its_subset(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    proxy = start_proxy(balance="round_robin")
    bad, good, other = start_named(start_origin, "v1", "v1", "v2")
    proxy.publish_endpoints(up=[*versions(v1=bad), *versions(v1=good, v2=other)])
    proxy.publish_routes(split_config(v1=50, v2=50))
    ids = requests_with_ids(40)
    homes = [spread(proxy, [one]) for one in ids]
    bad.answer = lambda _: answer(b"", status="503 Service Unavailable")
    proxy.publish_limits(resilience.Config(services={"*": resilience.Service(failure_policy="none")}))
    assert [spread(proxy, [one]) for one in ids] == homes
    assert proxy.totals("retries") > 0


def test_a_route_shares_requests_among_services_and_subsets(proxy: Proxy, start_origin: StartOrigin) -> None:
    one, v1, v2 = start_named(start_origin, "one", "v1", "v2")
    proxy.publish_endpoints(one=[{"address": one.address}], two=versions(v1=v1, v2=v2))
    route = Route(name="r", hosts=["any"], to={"one": 50, "two/v2": 50})
    proxy.publish_routes(Config(services={"two": Service(subsets=V)}, routes=[route]))
    counts = spread(proxy, 600, host="any")
    assert set(counts) == {"one", "v2"}
    assert 240 < counts["one"] < 360


def test_a_services_split_holds_whoevers_route_leads_there(split_proxy: Proxy) -> None:
    route = Route(name="r", hosts=["alias"], to={"up": 1})
    split_proxy.publish_routes(Config(services=split_config(v1=0, v2=1).services, routes=[route]))
    assert spread(split_proxy, 30, host="alias") == {"v2": 30}


def test_a_route_to_a_subset_is_not_split_again(split_proxy: Proxy) -> None:
    route = Route(name="r", hosts=["alias"], to={"up/v1": 1})
    split_proxy.publish_routes(Config(services=split_config(v1=0, v2=1).services, routes=[route]))
    assert spread(split_proxy, 30, host="alias") == {"v1": 30}


def test_the_shares_of_a_route_and_of_the_service_it_leads_to_are_independent(
    split_proxy: Proxy, start_origin: StartOrigin, two: list[Origin]
) -> None:
    (other,) = start_named(start_origin, "other")
    split_proxy.publish_endpoints(up=versions(v1=two[0], v2=two[1]), other=[{"address": other.address}])
    route = Route(name="r", hosts=["alias"], to={"other": 50, "up": 50})
    split_proxy.publish_routes(Config(services=split_config(v1=50, v2=50).services, routes=[route]))
    counts = spread(split_proxy, 800, host="alias")
    assert 320 < counts["other"] < 480
    assert min(counts["v1"], counts["v2"]) > 130, "each is a quarter"


def test_a_subset_has_the_endpoints_with_all_of_its_labels(proxy: Proxy, start_origin: StartOrigin) -> None:
    names = ("a", "b", "c", "d")
    labels: tuple[dict[str, str], ...] = ({"v": "2", "tier": "gold"}, {"v": "2"}, {"v": "22", "tier": "gold"}, {})
    origins = start_named(start_origin, *names)
    proxy.publish_endpoints(
        up=[{"address": o.address, "metadata": m} for o, m in zip(origins, labels, strict=True)],
    )
    subsets = {"gold2": {"v": "2", "tier": "gold"}, "two": {"v": "2"}, "all": {}}
    for subset, expected in (("gold2", {"a"}), ("two", {"a", "b"}), ("all", {"a", "b", "c", "d"})):
        route = Route(name="r", to={f"up/{subset}": 1})
        proxy.publish_routes(Config(services={"up": Service(balance="round_robin", subsets=subsets)}, routes=[route]))
        assert set(spread(proxy, 12)) == expected


def test_static_endpoints_have_subsets_too(start_proxy: StartProxy, two: list[Origin]) -> None:
    proxy = start_proxy(clusters=[{"name": "up", "endpoints": versions(v1=two[0], v2=two[1])}])
    proxy.publish_routes(split_config(v1=0, v2=1))
    assert spread(proxy, 20) == {"v2": 20}


def test_a_subset_that_nobody_is_in_is_refused_by_name(split_proxy: Proxy, two: list[Origin]) -> None:
    split_proxy.publish_routes(split_config(v1=0, v2=1))
    split_proxy.publish_endpoints(up=versions(v1=two[0]))
    got = call(split_proxy)
    assert refusal(got) == (503, "UH")
    assert b"up" in got.body
    split_proxy.publish_endpoints(up=versions(v1=two[0], v2=two[1]))
    assert who(split_proxy) == "v2", "subsets are filled anew with each table of endpoints"


@pytest.mark.semantics(
    "traffic", "A route may name a service that nobody has announced yet: its calls alone get 503 `UH`"
)
def test_a_service_that_nobody_knows_fails_alone(proxy: Proxy, origin: Origin) -> None:
    named(origin, "up")
    proxy.publish_routes(
        Config(
            services={"ghost": Service(subsets=V, split={"v1": 1})},
            routes=[
                Route(name="to-nobody", hosts=["lost"], to={"nobody": 1}),
                Route(name="to-ghost", hosts=["ghosts"], to={"ghost/v2": 1}),
                marked("fine", to={"up": 1}),
            ],
        )
    )
    for host in ("lost", "nobody", "ghosts", "ghost"):
        got = call(proxy, host=host)
        assert refusal(got) == ((503, "UH") if host in ("lost", "ghosts") else (200, None)), host
    assert b"nobody" in call(proxy, host="lost").body, "the service is named, not only the host"
    assert route_of(proxy) == "fine"
    assert proxy.rejected_tables() == 0
    proxy.publish_endpoints(nobody=[{"address": origin.address}])
    assert who(proxy, host="lost") == "up", "from then on it is known"


# --- change --------------------------------------------------------------------------------------------------------


@pytest.mark.semantics("traffic", "Without traffic, calls go where their host says at once, on the same connections")
def test_removing_the_table_returns_to_the_plain_thing_at_once(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(Config(services=split_config(v1=0, v2=1).services, routes=[marked("it")]))
    with split_proxy.call(outbound=True) as caller:

        def ask(host: str) -> tuple[int, str | None, str]:
            caller.send(request(host=host))
            got = caller.read_answer()
            return got.status, got.get("x-route"), got.body.decode()

        assert [ask("up") for _ in range(10)] == [(200, "it", "v2")] * 10
        assert ask("anybody") == (200, "it", "v2")
        split_proxy.withdraw("routes")
        assert {ask("up") for _ in range(20)} == {(200, None, "v1"), (200, None, "v2")}
        assert ask("anybody")[0] == 404


def test_a_new_table_replaces_the_old_one_whole(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(Config(services=split_config(v1=0, v2=1).services, routes=[marked("old")]))
    assert (route_of(split_proxy), set(spread(split_proxy, 20))) == ("old", {"v2"})
    split_proxy.publish_routes(Config(routes=[marked("new", Match(path="/new"))]))
    assert (route_of(split_proxy), set(spread(split_proxy, 20))) == (None, {"v1", "v2"})


@pytest.mark.semantics("traffic", "Routes hold after the proxy is killed, though nobody publishes them again")
def test_routes_survive_their_writer_and_the_proxys_restart(split_proxy: Proxy) -> None:
    split_proxy.publish_routes(split_config(v1=0, v2=1))
    split_proxy.kill()
    split_proxy.start()
    assert spread(split_proxy, 10) == Counter(v2=10)
