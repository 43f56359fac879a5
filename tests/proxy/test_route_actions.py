"""What a route does to a request that matches it, and to the answer."""

from __future__ import annotations

from typing import Any

import pytest
from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Cors, Headers, Injected, Match, Redirect, Rewrite, Route, Text
from pannier.sidecars.traffic.table import routes_table

from tests.proxy.census import StartOrigin, call, refusal, start_named, who
from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Message, answer, request

SHOP, FOREIGN = "https://shop.example", "https://evil.example"


def publish(proxy: Proxy, *matches: Match, **what: Any) -> None:
    """One outbound route."""
    proxy.publish_routes(Config(routes=[Route(name="it", matches=list(matches), **what)]))


def publish_inbound(proxy: Proxy, *matches: Match, **what: Any) -> None:
    publish(proxy, *matches, side="inbound", **what)


# --- rewrite -------------------------------------------------------------------------------------------------------


@pytest.mark.semantics("traffic", "A rewrite replaces the path or the matched prefix; the query stays")
@pytest.mark.parametrize(
    ("match", "rewrite", "targets"),
    [
        ("/a", Rewrite(path="/x"), {"/a": "/x", "/a/b": "/x", "/a?q=/a": "/x?q=/a", "/a/b?": "/x?"}),
        ("/a", Rewrite(prefix="/x"), {"/a": "/x", "/a/": "/x/", "/a/b?q": "/x/b?q", "/a?q=/a": "/x?q=/a"}),
        ("/a/b", Rewrite(prefix="/"), {"/a/b": "/", "/a/b/c": "/c", "/a/b?q": "/?q", "/a/b/": "/"}),
        ("/", Rewrite(prefix="/x/y"), {"/": "/x/y/", "/a": "/x/y/a", "/?q": "/x/y/?q"}),
        ("/a/", Rewrite(prefix="/x/"), {"/a": "/x", "/a/b": "/x/b"}),
    ],
)
def test_a_path_or_a_prefix_is_replaced_and_the_query_stays(
    proxy: Proxy, origin: Origin, match: str, rewrite: Rewrite, targets: dict[str, str]
) -> None:
    publish(proxy, Match(prefix=match), rewrite=rewrite)
    for target in targets:
        assert call(proxy, target).status == 200
    assert [r.target for r in origin.requests] == list(targets.values())


def test_the_prefix_that_is_replaced_is_the_one_that_matched(proxy: Proxy, origin: Origin) -> None:
    special = Match(prefix="/a/b", headers={"x-special": Text(present=True)})
    publish(proxy, special, Match(prefix="/a"), rewrite=Rewrite(prefix="/x"))
    call(proxy, "/a/b/c", "X-Special: 1")
    call(proxy, "/a/b/c")
    assert [r.target for r in origin.requests] == ["/x/c", "/x/b/c"]


def test_a_rewritten_request_keeps_its_body_and_its_method(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, Match(path="/a"), rewrite=Rewrite(path="/x"))
    assert call(proxy, "/a?b", method="PUT", body=b"abc").status == 200
    assert (origin.only.start, origin.only.body) == ("PUT /x?b HTTP/1.1", b"abc")


def test_the_authority_is_replaced_but_not_where_the_request_goes(proxy: Proxy, start_origin: StartOrigin) -> None:
    up, other = start_named(start_origin, "up", "other")
    proxy.publish_endpoints(up=[{"address": up.address}], other=[{"address": other.address}])
    publish(proxy, rewrite=Rewrite(host="other:81"))
    assert who(proxy, host="up:80") == "up"
    assert up.only.all("host") == ["other:81"]


def test_authority_and_path_are_replaced_together(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, Match(prefix="/a"), rewrite=Rewrite(prefix="/x", host="new.example"))
    call(proxy, "/a/b?c")
    assert (origin.only.target, origin.only.get("host")) == ("/x/b?c", "new.example")


def test_an_authority_that_is_none_is_refused() -> None:
    for bad in ("a b", "u@h", "a:99999", "a/b", ""):
        for route in (Route(name="it", rewrite=Rewrite(host=bad)), Route(name="it", redirect=Redirect(host=bad))):
            with pytest.raises(ValueError, match='route "it"'):
                _native.validate("routes", routes_table(Config(routes=[route]), {}))


# --- redirect ------------------------------------------------------------------------------------------------------


@pytest.mark.semantics("traffic", "A redirect is answered without the callee", "routes[].redirect.status")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_of_ours(proxy: Proxy, origin: Origin, status: Any) -> None:
    publish(proxy, redirect=Redirect(status=status, path="/new"))
    with proxy.call(outbound=True) as caller:
        for _ in range(2):
            caller.send(request("/old?q", host="up", method="POST", body=b"abc"))
            got = caller.read_answer()
            assert (got.status, got.get("location"), got.body) == (status, "http://up/new?q", b"")
    assert origin.connections == 0


LOCATIONS = {
    "nothing": (Redirect(), {"/old/a?b": "http://up:8080/old/a?b"}),
    "the scheme": (Redirect(scheme="https"), {"/old?q": "https://up/old?q"}),
    "the scheme and the port": (Redirect(scheme="https", port=8443), {"/old": "https://up:8443/old"}),
    "a usual port": (Redirect(port=80), {"/old": "http://up/old"}),
    "the host": (Redirect(host="new.example"), {"/old/a?b": "http://new.example/old/a?b"}),
    "the host with its port": (Redirect(host="new.example:81"), {"/old": "http://new.example:81/old"}),
    "the path": (Redirect(path="/new"), {"/old/a?b": "http://up:8080/new?b"}),
    "the prefix": (
        Redirect(prefix="/new"),
        {"/old": "http://up:8080/new", "/old/a?b": "http://up:8080/new/a?b"},
    ),
}


@pytest.mark.parametrize("given", LOCATIONS)
def test_what_a_redirect_does_not_give_stays_as_it_was_asked_for(proxy: Proxy, given: str) -> None:
    redirect, locations = LOCATIONS[given]
    publish(proxy, Match(prefix="/old"), redirect=redirect)
    for target, location in locations.items():
        assert call(proxy, target, host="up:8080").get("location") == location


def test_a_redirects_port_is_not_added_to_one_that_its_host_has(proxy: Proxy) -> None:
    publish(proxy, redirect=Redirect(host="new.example:81", port=82))
    assert call(proxy).get("location") in ("http://new.example:81/", "http://new.example:82/")


def test_a_redirect_of_the_whole_server_leads_to_a_place_that_is_one(proxy: Proxy) -> None:
    publish(proxy, redirect=Redirect(host="new.example"))
    assert call(proxy, "*", method="OPTIONS").get("location") in ("http://new.example", "http://new.example/", None)


def test_a_redirect_keeps_the_brackets_of_an_address(proxy: Proxy) -> None:
    publish(proxy, redirect=Redirect(path="/new"))
    assert call(proxy, host="[::1]:81").get("location") == "http://[::1]:81/new"


def test_a_redirect_needs_nobody_who_could_answer(proxy: Proxy) -> None:
    publish(proxy, redirect=Redirect(host="new.example"))
    proxy.publish_endpoints(empty=[])
    for host in ("empty", "nobody"):
        assert call(proxy, host=host).get("location") == "http://new.example/"


def test_a_redirect_before_the_end_of_a_body_ends_the_connection(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, redirect=Redirect(path="/new"))
    smuggled = request("/smuggled", host="up")
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", f"Content-Length: {len(smuggled)}", method="POST", host="up"))
        got = caller.read_answer()
        assert (got.status, got.get("connection")) == (302, "close")
        caller.send(smuggled)
        assert caller.has_ended()
    assert origin.requests == []


def test_a_redirect_of_head_has_no_body(proxy: Proxy) -> None:
    publish(proxy, redirect=Redirect(path="/new"))
    assert call(proxy, method="HEAD").get("location") == "http://up/new"


# --- header edits --------------------------------------------------------------------------------------------------

EDITS = Headers(
    set={"X-Set": "new", "X-Both": "set", "X-Fresh": "1"},
    add={"X-Add": "new", "X-Both": "added", "X-Again": "new"},
    remove=["X-Remove", "X-Again"],
)
EDITED = [
    "x-set: a",
    "X-Set: b",
    "X-Add: old",
    "x-remove: 1",
    "X-REMOVE: 2",
    "X-Both: old",
    "X-Again: old",
    "X-Kept: 1",
]
AFTER = {
    "x-set": ["new"],
    "x-add": ["old", "new"],
    "x-remove": [],
    "x-both": ["set", "added"],
    "x-again": ["new"],
    "x-fresh": ["1"],
}


@pytest.mark.semantics("traffic", "Headers are removed, then set, then added")
def test_fields_are_removed_then_set_then_added(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"hello", *EDITED)
    publish(proxy, request=EDITS, response=EDITS)
    got = call(proxy, "/", *EDITED)
    for message in (origin.only, got):
        assert {name: message.all(name) for name in AFTER} == AFTER
    assert got.body == b"hello"


def test_a_field_keeps_its_framing_whatever_else_is_edited(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request=EDITS, response=EDITS)
    origin.answer = lambda r: answer(r.body)
    with proxy.call(outbound=True) as caller:
        for body in (b"", b"abc", b"x" * 100_000):
            caller.send(request("/", host="up", method="POST", body=body))
            assert caller.read_answer().body == body


def test_each_side_is_edited_alone(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request=Headers(set={"X-A": "1"}), response=Headers(set={"X-B": "2"}))
    got = call(proxy)
    assert (origin.only.get("x-a"), origin.only.get("x-b")) == ("1", None)
    assert (got.get("x-a"), got.get("x-b")) == (None, "2")


def test_a_route_applies_to_what_is_passed_through(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(outbound={"unknown": "passthrough"})
    publish(
        proxy,
        Match(path="/a"),
        hosts=["127.0.0.1"],
        rewrite=Rewrite(path="/x"),
        request=Headers(set={"X-A": "1"}),
        response=Headers(set={"X-B": "2"}),
    )
    got = call(proxy, "/a?q", host=origin.address)
    assert (got.status, got.get("x-b")) == (200, "2")
    assert (origin.only.target, origin.only.get("x-a"), origin.only.get("host")) == ("/x?q", "1", origin.address)


def test_an_interim_answer_is_not_edited(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer()
    publish(proxy, response=EDITS)
    with proxy.call(outbound=True) as caller:
        caller.send(request(host="up"))
        assert [caller.read_answer().get("x-set") for _ in range(2)] == [None, "new"]


def test_fields_that_identify_a_person_may_be_edited(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, request=Headers(set={"Authorization": "Bearer x"}, remove=["Cookie"]))
    call(proxy, "/", "Authorization: Basic y", "Cookie: a=b")
    assert (origin.only.all("authorization"), origin.only.all("cookie")) == (["Bearer x"], [])


FRAMING = [
    "Content-Length",
    "content_length",
    "Transfer-Encoding",
    "transfer_encoding",
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Upgrade",
    "Expect",
    "Host",
    "X-Request-Id",
    "Traceparent",
    "tracestate",
    "Grpc-Timeout",
    "X-Pannier-Reason",
    "x_pannier_deadline",
]


@pytest.mark.semantics("traffic", "Headers that frame or route a message cannot be edited")
@pytest.mark.parametrize("name", FRAMING)
def test_what_frames_or_routes_a_message_cannot_be_edited(name: str) -> None:
    for edits in (Headers(set={name: "1"}), Headers(add={name: "1"}), Headers(remove=[name])):
        for route in (Route(name="it", request=edits), Route(name="it", response=edits)):
            with pytest.raises(ValueError, match='route "it"'):
                _native.validate("routes", routes_table(Config(routes=[route]), {}))


# --- retries -------------------------------------------------------------------------------------------------------


def test_a_route_says_how_often_to_retry_where_resilience_is_there_to_do_it(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"", status="503 Service Unavailable")

    def attempts() -> int:
        origin.requests.clear()
        assert call(proxy).status == 503
        return len(origin.requests)

    publish(proxy, retries=3)
    assert attempts() == 1
    retry = resilience.Retry(attempts=1, backoff_min="1ms", backoff_max="1ms")
    proxy.publish_limits(
        resilience.Config(services={"*": resilience.Service(failure_policy="none", retry=retry)}),
    )
    assert attempts() == 4
    publish(proxy, retries=0)
    assert attempts() == 1
    publish(proxy)
    assert attempts() == 2


# --- CORS ----------------------------------------------------------------------------------------------------------

PREFLIGHT = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a")


def preflight(proxy: Proxy, origin: str, *fields: str) -> Message:
    return call(proxy, "/", f"Origin: {origin}", *(fields or PREFLIGHT), method="OPTIONS")


def granted(got: Message) -> dict[str, str | None]:
    """What an answer grants to other origins."""
    return {n.removeprefix("access-control-"): got.get(n) for n in got.names if n.startswith("access-control-")}


@pytest.mark.semantics(
    "traffic", "A CORS preflight is answered without the app", "routes[].cors.methods", "routes[].cors.max_age"
)
def test_a_preflight_is_answered_without_the_app(proxy: Proxy, origin: Origin) -> None:
    publish(
        proxy,
        cors=Cors(
            origins=["https://a.example", SHOP],
            methods=["GET", "PUT"],
            headers=["x-a", "x-b"],
            expose=["x-c"],
            credentials=True,
            max_age="10m",
        ),
    )
    got = preflight(proxy, SHOP)
    assert (got.status, got.body, got.get("vary")) == (204, b"", "origin")
    expected = {
        "allow-origin": SHOP,
        "allow-methods": "GET, PUT",
        "allow-headers": "x-a, x-b",
        "allow-credentials": "true",
        "max-age": "600",
    }
    assert expected.items() <= granted(got).items()
    assert origin.connections == 0


def test_a_preflight_says_nothing_that_was_not_given(proxy: Proxy) -> None:
    publish(proxy, cors=Cors(origins=[SHOP]))
    assert granted(preflight(proxy, SHOP)) == {"allow-origin": SHOP, "allow-methods": "GET, HEAD, POST"}


def test_answers_to_allowed_origins_are_marked(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"hello", "Vary: accept")
    publish(proxy, cors=Cors(origins=[SHOP], expose=["x-c", "x-d"], credentials=True, max_age="1m"))
    got = call(proxy, "/", f"Origin: {SHOP}")
    assert granted(got) == {"allow-origin": SHOP, "expose-headers": "x-c, x-d", "allow-credentials": "true"}
    assert (sorted(got.all("vary")), got.body) == (["accept", "origin"], b"hello")
    assert origin.only.get("origin") == SHOP


def test_foreign_origins_go_on_unmarked(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, cors=Cors(origins=[SHOP]))
    for foreign in (FOREIGN, "https://shop.example.eu", "http://shop.example", "https://shop.example:444", "null"):
        assert granted(call(proxy, "/", f"Origin: {foreign}")) == {}
        assert granted(preflight(proxy, foreign)) == {}
    assert len(origin.requests) == 10, "their preflights are answered by the app, which knows better"


def test_requests_of_no_origin_go_on_unmarked(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, cors=Cors(origins=["*"]))
    assert granted(call(proxy)) == {}
    assert granted(call(proxy, "/", *PREFLIGHT, method="OPTIONS")) == {}
    assert len(origin.requests) == 2


def test_any_origin_without_credentials(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, cors=Cors(origins=["*"]))
    got = call(proxy, "/", f"Origin: {FOREIGN}")
    assert (granted(got), got.get("vary")) == ({"allow-origin": "*"}, None)
    assert granted(preflight(proxy, FOREIGN))["allow-origin"] == "*"


def test_options_that_are_no_preflight_go_to_the_app(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, cors=Cors(origins=[SHOP]))
    got = preflight(proxy, SHOP, "X-A: 1")
    assert (got.body, granted(got)) == (b"hello", {"allow-origin": SHOP})
    assert origin.only.method == "OPTIONS"


def test_our_own_answers_are_marked_too(proxy: Proxy) -> None:
    """Else a browser hides from its page why the call failed."""
    publish(proxy, cors=Cors(origins=[SHOP]), fault=Injected(abort=503))
    got = call(proxy, "/", f"Origin: {SHOP}")
    assert refusal(got) == (503, "FI")
    assert granted(got) == {"allow-origin": SHOP}


def test_an_app_that_marks_its_answers_itself_is_not_contradicted(proxy: Proxy, origin: Origin) -> None:
    """A browser refuses an answer with two of these fields."""
    origin.answer = lambda _: answer(b"", f"Access-Control-Allow-Origin: {SHOP}")
    publish(proxy, cors=Cors(origins=[SHOP]))
    assert call(proxy, "/", f"Origin: {SHOP}").all("access-control-allow-origin") == [SHOP]


# --- inbound -------------------------------------------------------------------------------------------------------


def test_an_inbound_route_edits_and_rewrites_what_the_app_gets(proxy: Proxy, origin: Origin) -> None:
    publish_inbound(
        proxy,
        Match(prefix="/api"),
        request=Headers(set={"X-A": "1"}, remove=["X-B"]),
        response=Headers(add={"X-C": "3"}),
        rewrite=Rewrite(prefix="/", host="app.internal"),
    )
    got = proxy.fetch("/api/a?b", "X-B: 2")
    assert (got.status, got.get("x-c")) == (200, "3")
    sent = origin.only
    assert (sent.target, sent.get("host"), sent.get("x-a"), sent.get("x-b")) == ("/a?b", "app.internal", "1", None)
    assert proxy.fetch("/other").get("x-c") is None


def test_an_inbound_redirect(proxy: Proxy, origin: Origin) -> None:
    publish_inbound(proxy, hosts=["svc"], redirect=Redirect(scheme="https", status=308))
    got = proxy.fetch("/a?b", host="svc:8080")
    assert (got.status, got.get("location")) == (308, "https://svc/a?b")
    assert origin.connections == 0


def test_an_inbound_preflight(proxy: Proxy, origin: Origin) -> None:
    publish_inbound(proxy, cors=Cors(origins=[SHOP]))
    assert proxy.fetch("/", f"Origin: {SHOP}", *PREFLIGHT, method="OPTIONS").status == 204
    assert granted(proxy.fetch("/", f"Origin: {SHOP}")) == {"allow-origin": SHOP}
    assert len(origin.requests) == 1


def test_an_inbound_fault(proxy: Proxy, origin: Origin) -> None:
    publish_inbound(proxy, Match(path="/bad"), fault=Injected(abort=418))
    assert refusal(proxy.fetch("/bad")) == (418, "FI")
    assert proxy.fetch("/good").status == 200


def test_a_foreign_authority_gets_404_whatever_a_route_says(proxy: Proxy, origin: Origin) -> None:
    for what in ({"redirect": Redirect(path="/x")}, {"cors": Cors(origins=["*"])}, {"fault": Injected(abort=500)}):
        publish_inbound(proxy, hosts=["*", "evil.example"], **what)
        got = proxy.fetch("/", f"Origin: {SHOP}", *PREFLIGHT, host="evil.example", method="OPTIONS")
        assert refusal(got) == (404, "NR")
        assert not got.names & {"location", "access-control-allow-origin"}
    assert origin.connections == 0


def test_an_inbound_route_brings_in_nothing_that_is_ours(proxy: Proxy, origin: Origin) -> None:
    publish_inbound(proxy, request=Headers(set={"X-A": "1"}))
    proxy.fetch("/", "X-Pannier-Reason: UH", "x_pannier_criticality: critical")
    assert not [name for name in origin.only.names if "pannier" in name]


def test_an_inbound_redirect_needs_no_app(start_proxy: StartProxy) -> None:
    proxy = start_proxy(app=None)
    publish_inbound(proxy, Match(path="/old"), redirect=Redirect(path="/new"))
    assert proxy.fetch("/old", host="svc").get("location") == "http://svc/new"
    assert refusal(proxy.fetch("/", host="svc")) == (503, "UH")
