"""What a route changes of a request and of its answer."""

from __future__ import annotations

from collections.abc import Mapping

from pannier.sidecars.traffic.config import Config, Cors, Headers, Match, Redirect, Rewrite, Route

from tests.conformance.bootstrap import EXTENSIONS, Envoy, Json, http_filter
from tests.conformance.conftest import Compare
from tests.conformance.sides import CALLEE, Side
from tests.proxy.wire import answer


def under(prefix: str, **route: object) -> Json:
    """A route of Envoy's to the callee for a prefix."""
    return {"match": {"path_separated_prefix": prefix}, "route": {"cluster": CALLEE, **route}}


def test_paths_and_hosts_are_rewritten(compare: Compare) -> None:
    rewrites: Mapping[str, Rewrite] = {
        "/prefix": Rewrite(prefix="/new"),
        "/whole": Rewrite(path="/new"),
        "/host": Rewrite(host="inner.example"),
        "/both": Rewrite(prefix="/new", host="inner.example:81"),
    }
    whole = {"pattern": {"regex": "^/.*$"}, "substitution": "/new"}
    both = compare(
        routes=Config(
            routes=[
                Route(name=prefix[1:], matches=[Match(prefix=prefix)], to={CALLEE: 1}, rewrite=rewrite)
                for prefix, rewrite in rewrites.items()
            ]
        ),
        envoy=Envoy(
            routes=[
                under("/prefix", prefix_rewrite="/new"),
                under("/whole", regex_rewrite=whole),
                under("/host", host_rewrite_literal="inner.example"),
                under("/both", prefix_rewrite="/new", host_rewrite_literal="inner.example:81"),
            ]
        ),
    )
    expected = {
        "/prefix/a/b?q=1": ("/new/a/b?q=1", "orders"),
        "/prefix": ("/new", "orders"),
        "/prefix/": ("/new/", "orders"),
        "/prefix?q": ("/new?q", "orders"),
        "/whole/a?q=1&r": ("/new?q=1&r", "orders"),
        "/host/a": ("/host/a", "inner.example"),
        "/both/a": ("/new/a", "inner.example:81"),
    }

    def observe(side: Side) -> dict[str, tuple[str, str | None]]:
        for target in expected:
            assert side.ask(target).status == 200
        (origin,) = side.origins[CALLEE]
        seen = [(request.target, request.get("host")) for request in origin.requests]
        return dict(zip(expected, seen, strict=True))

    assert both.agree(observe) == expected


def test_redirects(compare: Compare) -> None:
    redirects = {
        "/host": Redirect(host="new.example"),
        "/path": Redirect(status=301, path="/new"),
        "/prefix": Redirect(status=307, prefix="/new"),
        "/scheme": Redirect(status=308, scheme="https"),
        "/port": Redirect(status=303, host="new.example", port=8080),
    }
    envoys: Mapping[str, Json] = {
        "/host": {"host_redirect": "new.example", "response_code": "FOUND"},
        "/path": {"path_redirect": "/new", "response_code": "MOVED_PERMANENTLY"},
        "/prefix": {"prefix_rewrite": "/new", "response_code": "TEMPORARY_REDIRECT"},
        "/scheme": {"scheme_redirect": "https", "response_code": "PERMANENT_REDIRECT"},
        "/port": {"host_redirect": "new.example", "port_redirect": 8080, "response_code": "SEE_OTHER"},
    }
    both = compare(
        routes=Config(
            routes=[
                Route(name=prefix[1:], matches=[Match(prefix=prefix)], redirect=redirect)
                for prefix, redirect in redirects.items()
            ]
        ),
        envoy=Envoy(
            routes=[
                {"match": {"path_separated_prefix": prefix}, "redirect": redirect}
                for prefix, redirect in envoys.items()
            ]
        ),
    )
    expected = {
        "/host/a?q=1": (302, "http://new.example/host/a?q=1"),
        "/path/a?q=1": (301, "http://orders/new?q=1"),
        "/prefix/a?q=1": (307, "http://orders/new/a?q=1"),
        "/scheme/a": (308, "https://orders/scheme/a"),
        "/port/a": (303, "http://new.example:8080/port/a"),
    }

    def observe(side: Side) -> dict[str, tuple[int, str | None]]:
        answers = {target: side.ask(target) for target in expected}
        return {target: (got.status, got.get("location")) for target, got in answers.items()}

    assert both.agree(observe) == expected
    assert both.agree(Side.attempts) == [0]


def test_headers_are_removed_then_set_then_added(compare: Compare) -> None:
    edits = Headers(
        remove=["x-removed", "x-renewed"],
        set={"x-set": "new", "x-set-anew": "new"},
        add={"x-added": "new", "x-renewed": "new"},
    )
    replaced = [option("x-set", "OVERWRITE_IF_EXISTS_OR_ADD"), option("x-set-anew", "OVERWRITE_IF_EXISTS_OR_ADD")]
    added = [option("x-added", "APPEND_IF_EXISTS_OR_ADD"), option("x-renewed", "APPEND_IF_EXISTS_OR_ADD")]
    both = compare(
        routes=Config(routes=[Route(name="edits", to={CALLEE: 1}, request=edits, response=edits)]),
        envoy=Envoy(
            routes=[
                {
                    "match": {"prefix": "/"},
                    "route": {"cluster": CALLEE},
                    "request_headers_to_remove": edits.remove,
                    "request_headers_to_add": replaced + added,
                    "response_headers_to_remove": edits.remove,
                    "response_headers_to_add": replaced + added,
                }
            ]
        ),
    )
    fields = ["X-Removed: old", "X-Renewed: old", "X-Set: old", "x-set: older", "X-Added: old", "X-Kept: old"]
    expected = {
        "x-removed": [],
        "x-renewed": ["new"],
        "x-set": ["new"],
        "x-set-anew": ["new"],
        "x-added": ["old", "new"],
        "x-kept": ["old"],
    }

    def observe(side: Side) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        (origin,) = side.origins[CALLEE]
        origin.answer = lambda _: answer(b"hello", *fields)
        got = side.ask("/", *fields)
        return {name: origin.only.all(name) for name in expected}, {name: got.all(name) for name in expected}

    assert both.agree(observe) == (expected, expected)


def test_other_origins_may_read_what_cors_allows(compare: Compare) -> None:
    ours = Cors(
        origins=["https://a.example"],
        methods=["GET", "PUT"],
        headers=["x-one"],
        expose=["x-two"],
        credentials=True,
        max_age="10m",
    )
    envoys = {
        "@type": f"{EXTENSIONS}.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": "https://a.example"}],
        "allow_methods": "GET, PUT",
        "allow_headers": "x-one",
        "expose_headers": "x-two",
        "allow_credentials": True,
        "max_age": "600",
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": CALLEE},
        "typed_per_filter_config": {"envoy.filters.http.cors": envoys},
    }
    both = compare(
        routes=Config(routes=[Route(name="cors", to={CALLEE: 1}, cors=ours)]),
        envoy=Envoy([route], filters=[http_filter("cors", "Cors")]),
    )
    allowed, other = "origin: https://a.example", "origin: https://b.example"
    put, delete = "access-control-request-method: PUT", "access-control-request-method: DELETE"
    questions = [
        ("OPTIONS", (allowed, put)),
        ("OPTIONS", (allowed, delete)),
        ("OPTIONS", (other, put)),
        ("OPTIONS", (allowed,)),
        ("GET", (allowed,)),
        ("GET", (other,)),
        ("GET", ()),
    ]

    def observe(side: Side) -> list[dict[str, str]]:
        answers = [side.ask("/", *fields, method=method) for method, fields in questions]
        return [
            {name.lower(): value for name, value in got.fields if name.lower().startswith("access-control-")}
            for got in answers
        ]

    preflight, refused, foreign, options, marked, unmarked, plain = both.agree(observe)
    assert (
        preflight
        == refused
        == {
            "access-control-allow-origin": "https://a.example",
            "access-control-allow-methods": "GET, PUT",
            "access-control-allow-headers": "x-one",
            "access-control-allow-credentials": "true",
            "access-control-expose-headers": "x-two",
            "access-control-max-age": "600",
        }
    )
    assert options == marked
    assert set(marked) == {
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-expose-headers",
    }
    assert foreign == unmarked == plain == {}
    assert both.agree(Side.attempts) == [5]


def option(name: str, action: str) -> Json:
    """Envoy's HeaderValueOption with the value `new`."""
    return {"header": {"key": name, "value": "new"}, "append_action": action}
