"""What the pilot serves to Envoy does what Pannier does with the same policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol

import pytest
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.config import Headers, Match, Redirect, Rewrite, Route, Text

from tests.conformance.conversations import hang, hang_up, held
from tests.conformance.sides import CALLEE, Instance, Side, Sides
from tests.conformance.test_splitting import SUBSETS, V1, V2, ask_many, assert_share
from tests.conformance.xds.mapped import start_mapped
from tests.proxy.origin import Origin
from tests.proxy.process import wait_until
from tests.proxy.wire import answer

UNAVAILABLE = "503 Service Unavailable"
TO_CALLEE = {CALLEE: 1}


class Mapped(Protocol):
    """Starts Pannier and an Envoy that is told what the pilot makes of the same policy."""

    def __call__(
        self,
        instances: Sequence[Instance] = (Instance(),),
        others: Sequence[str] = (),
        *,
        routes: traffic.Config | None = None,
        limits: resilience.Config | None = None,
    ) -> Sides: ...


@pytest.fixture
def mapped(short_path: Path) -> Iterator[Mapped]:
    """Starts both, to end with the test."""
    with ExitStack() as stack:

        def start(
            instances: Sequence[Instance] = (Instance(),),
            others: Sequence[str] = (),
            *,
            routes: traffic.Config | None = None,
            limits: resilience.Config | None = None,
        ) -> Sides:
            services: Mapping[str, Sequence[Instance]] = {CALLEE: instances} | {name: [Instance()] for name in others}
            return start_mapped(stack, short_path, services, Policy(traffic=routes, resilience=limits))

        yield start


def only(service: resilience.Service) -> resilience.Config:
    """What resilience says of the callee."""
    return resilience.Config(services={CALLEE: service})


def test_the_same_route_is_taken(mapped: Mapped) -> None:
    matches = {
        "exact": Match(path="/a/exact"),
        "regex": Match(regex="/a/[0-9]+"),
        "method": Match(prefix="/a/m", method="PUT"),
        "header": Match(headers={"x-user": Text(exact="ann"), "X-Kind": Text(regex="b[0-9]+")}),
        "absent": Match(prefix="/absent", headers={"x-user": Text(present=False)}),
        "query": Match(query={"v": Text(exact="1"), "w": Text(regex="[a-c]+"), "x": Text(present=True)}),
        "unasked": Match(path="/unasked", query={"v": Text(present=False)}),
        "port": Match(port=8080),
        "usual": Match(path="/usual", port=80),
        "prefix": Match(prefix="/a/"),
    }
    both = mapped(
        others=[*matches, "outside", "suffix"],
        routes=traffic.Config(
            routes=[
                *(Route(name=name, hosts=[CALLEE], matches=[match], to={name: 1}) for name, match in matches.items()),
                Route(name="outside", hosts=["api.example.com"], to={"outside": 1}),
                Route(name="suffix", hosts=["*.example.com"], to={"suffix": 1}),
            ]
        ),
    )
    expected = {
        ("GET", CALLEE, "/a/exact?q=1"): "exact",
        ("GET", CALLEE, "/a/exact/"): "prefix",
        ("GET", CALLEE, "/a/12?q"): "regex",
        ("GET", CALLEE, "/a/12x"): "prefix",
        ("PUT", CALLEE, "/a/m/1"): "method",
        ("PUT", CALLEE, "/a/m1"): "prefix",
        ("GET", CALLEE, "/a/m"): "prefix",
        ("GET", CALLEE, "/a"): "prefix",
        ("GET", CALLEE, "/a?q"): "prefix",
        ("GET", CALLEE, "/ab"): CALLEE,
        ("GET", CALLEE, "/", "x-user: ann", "x-kind: b1"): "header",
        ("GET", CALLEE, "/", "x-user: ann", "x-kind: b1c"): CALLEE,
        ("GET", CALLEE, "/absent"): "absent",
        ("GET", CALLEE, "/absent", "x-user: ann"): CALLEE,
        ("GET", CALLEE, "/?x&w=abc&v=1"): "query",
        ("GET", CALLEE, "/?x&w=abcd&v=1"): CALLEE,
        ("GET", CALLEE, "/?w=abc&v=1"): CALLEE,
        ("GET", CALLEE, "/unasked?w=1"): "unasked",
        ("GET", CALLEE, "/unasked?v=1"): CALLEE,
        ("GET", "orders:8080", "/"): "port",
        ("GET", "orders:80", "/usual"): "usual",
        ("GET", CALLEE, "/usual"): "usual",
        ("GET", "orders:81", "/usual"): CALLEE,
        ("GET", "ORDERS", "/a/exact"): "exact",
        ("GET", "api.example.com", "/"): "outside",
        ("GET", "www.example.com", "/"): "suffix",
    }

    def observe(side: Side) -> dict[tuple[str, ...], str]:
        return {
            (method, host, target, *fields): side.ask(target, *fields, method=method, host=host)
            .body.decode()
            .removesuffix("-0")
            for method, host, target, *fields in expected
        }

    assert both.agree(observe) == expected


def test_the_same_is_changed(mapped: Mapped) -> None:
    edits = Headers(
        remove=["x-removed", "x-renewed"],
        set={"x-set": "50%", "x-empty": ""},
        add={"x-added": "%REQ(X-A)%", "x-renewed": "new"},
    )
    changes = {
        "/prefix": Route(name="prefix", rewrite=Rewrite(prefix="/new")),
        "/root": Route(name="root", rewrite=Rewrite(prefix="/")),
        "/whole": Route(name="whole", rewrite=Rewrite(path=r"/new\1", host="inner.example:81")),
        "/edits": Route(name="edits", request=edits, response=edits),
    }
    routes = [
        Route(
            name=route.name,
            hosts=[CALLEE],
            matches=[Match(prefix=prefix)],
            rewrite=route.rewrite,
            request=route.request,
            response=route.response,
        )
        for prefix, route in changes.items()
    ]
    both = mapped(routes=traffic.Config(routes=routes))
    fields = ["X-Removed: old", "X-Renewed: old", "X-Set: old", "x-set: older", "X-Added: old", "x-a: secret"]
    names = ["x-removed", "x-renewed", "x-set", "x-empty", "x-added"]
    edited = [[], ["new"], ["50%"], [""], ["old", "%REQ(X-A)%"]]
    expected = {
        "/prefix/a/b?q=1": ("/new/a/b?q=1", "orders"),
        "/prefix": ("/new", "orders"),
        "/prefix/": ("/new/", "orders"),
        "/prefix?q": ("/new?q", "orders"),
        "/root": ("/", "orders"),
        "/root/a": ("/a", "orders"),
        "/root?q": ("/?q", "orders"),
        "/whole/a?q=1&r": (r"/new\1?q=1&r", "inner.example:81"),
    }

    def observe(side: Side) -> tuple[dict[str, tuple[str, str | None]], list[list[str]], list[list[str]]]:
        (origin,) = side.origins[CALLEE]
        for target in expected:
            assert side.ask(target).status == 200
        seen = [(request.target, request.get("host")) for request in origin.requests]
        origin.answer = lambda _: answer(b"hello", *fields)
        got = side.ask("/edits", *fields)
        asked = origin.requests[-1]
        return (
            dict(zip(expected, seen, strict=True)),
            [asked.all(name) for name in names],
            [got.all(name) for name in names],
        )

    assert both.agree(observe) == (expected, edited, edited)


def test_the_same_is_answered_without_the_callee(mapped: Mapped) -> None:
    redirects = {
        "/host": Redirect(host="new.example"),
        "/path": Redirect(status=301, path="/new"),
        "/prefix": Redirect(status=307, prefix="/new"),
        "/root": Redirect(prefix="/"),
        "/scheme": Redirect(status=308, scheme="https"),
        "/port": Redirect(status=303, host="new.example", port=8080),
        "/named": Redirect(host="new.example:81"),
    }
    cors = traffic.Cors(origins=["*"], methods=["GET", "PUT"], headers=["x-one"], expose=["x-two"], max_age="10m")
    both = mapped(
        routes=traffic.Config(
            routes=[
                *(
                    Route(name=prefix[1:], matches=[Match(prefix=prefix)], redirect=redirect)
                    for prefix, redirect in redirects.items()
                ),
                Route(name="cors", matches=[Match(prefix="/cors")], cors=cors),
                Route(name="fault", matches=[Match(prefix="/fault")], fault=traffic.Injected(abort=418, delay="1ms")),
            ]
        )
    )
    expected = {
        "/host/a?q=1": (302, "http://new.example/host/a?q=1"),
        "/path/a?q=1": (301, "http://orders/new?q=1"),
        "/prefix/a?q=1": (307, "http://orders/new/a?q=1"),
        "/prefix": (307, "http://orders/new"),
        "/root": (302, "http://orders/"),
        "/root/a": (302, "http://orders/a"),
        "/scheme/a": (308, "https://orders/scheme/a"),
        "/port/a": (303, "http://new.example:8080/port/a"),
        "/named/a": (302, "http://new.example:81/named/a"),
        "/fault": (418, None),
    }
    origin, preflight = "origin: https://a.example", "access-control-request-method: PUT"

    def observe(side: Side) -> tuple[dict[str, tuple[int, str | None]], list[dict[str, str]]]:
        answers = {target: side.ask(target) for target in expected}
        crossing = [side.ask("/cors", origin, preflight, method="OPTIONS"), side.ask("/cors", origin)]
        return {target: (got.status, got.get("location")) for target, got in answers.items()}, [
            {name.lower(): value for name, value in got.fields if name.lower().startswith("access-control-")}
            for got in crossing
        ]

    pannier, envoy = both.each(observe)
    assert pannier[0] == envoy[0] == expected
    assert both.agree(Side.attempts) == [1]
    for said, mapped_to in zip(pannier[1], envoy[1], strict=True):
        # Any origin: Pannier says `*`, Envoy repeats the one that asks.
        assert said.pop("access-control-allow-origin") == "*"
        assert mapped_to.pop("access-control-allow-origin") == "https://a.example"
        assert said == mapped_to


def test_the_same_share_goes_to_each(mapped: Mapped) -> None:
    both = mapped(
        [V1, V2],
        ["legacy", "shadow"],
        routes=traffic.Config(
            services={
                CALLEE: traffic.Service(subsets=SUBSETS, split={"v1": 60, "v2": 40}),
                "legacy": traffic.Service(mirror=traffic.Mirror(to="shadow")),
            },
            routes=[
                Route(name="nested", matches=[Match(path="/nested")], to={CALLEE: 50, "legacy": 50}),
                Route(name="second", matches=[Match(path="/second")], to={"orders/v2": 1}),
            ],
        ),
    )

    def observe(side: Side) -> None:
        count = 600
        ask_many(side, count)
        first, second = side.attempts()
        assert first + second == count
        assert_share(second, count, 0.4)
        for _ in range(count):
            side.ask("/nested")
        first, second = (after - before for after, before in zip(side.attempts(), (first, second), strict=True))
        assert_share(first, count, 0.3)
        assert_share(second, count, 0.2)
        assert side.ask("/second").body == b"orders-1"
        legacy = side.attempts("legacy")[0]
        assert side.ask("/", host="legacy").status == 200
        side.origins["shadow"][0].wait_requests()
        assert side.origins["shadow"][0].requests[-1].get("host") == "legacy"
        assert side.attempts("legacy") == [legacy + 1]

    both.each(observe)


def test_a_session_stays_where_it_was(mapped: Mapped) -> None:
    both = mapped(
        [V1, V2, V1, V2],
        routes=traffic.Config(
            services={
                CALLEE: traffic.Service(
                    subsets=SUBSETS, split={"v1": 50, "v2": 50}, affinity=traffic.Affinity(header="x-user")
                )
            }
        ),
    )

    def observe(side: Side) -> int:
        users = [f"x-user: {number}" for number in range(40)]
        first = [side.ask("/", user).body for user in users]
        assert [side.ask("/", user).body for user in users] == first
        return len(set(first))

    assert both.agree(observe) == 4


def test_a_cookie_leads_back(mapped: Mapped) -> None:
    service = traffic.Service(balance="ring_hash", affinity=traffic.Affinity(cookie="session"))
    both = mapped([Instance()] * 4, routes=traffic.Config(services={CALLEE: service}))

    def observe(side: Side) -> bool:
        first = side.ask()
        given = first.get("set-cookie")
        assert given is not None and given.startswith("session=")
        cookie = given.partition(";")[0]
        assert {side.ask("/", f"cookie: {cookie}").body for _ in range(10)} == {first.body}
        return "max-age" in given.lower()

    assert both.agree(observe) is False


@pytest.mark.parametrize(
    ("on", "method", "status", "expected"),
    [
        ("gateway-error", "GET", UNAVAILABLE, (200, 2)),
        ("gateway-error", "POST", UNAVAILABLE, (503, 1)),
        ("gateway-error", "GET", "500 Internal Server Error", (500, 1)),
        ("5xx", "PUT", "500 Internal Server Error", (200, 2)),
        ("429", "DELETE", "429 Too Many Requests", (200, 2)),
        ("429", "GET", UNAVAILABLE, (503, 1)),
    ],
)
def test_the_same_is_tried_again(mapped: Mapped, on: str, method: str, status: str, expected: tuple[int, int]) -> None:
    both = mapped(limits=only(resilience.Service(failure_policy="none", retry=resilience.Retry(on=[on]))))

    def observe(side: Side) -> tuple[int, int]:
        (origin,) = side.origins[CALLEE]
        left = [status, "200 OK"]
        origin.answer = lambda _: answer(status=left.pop(0) if len(left) > 1 else left[0])
        return side.ask("/", method=method, body=b"" if method in ("POST", "PUT") else None).status, *side.attempts()

    assert both.agree(observe) == expected


def test_a_lost_connection_is_no_status(mapped: Mapped) -> None:
    """Envoy's own `5xx` and `gateway-error` would try it again."""
    retry = resilience.Retry(on=["gateway-error", "5xx"])
    both = mapped(limits=only(resilience.Service(failure_policy="none", retry=retry)))

    def observe(side: Side) -> list[int]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang_up
        assert side.ask().status in (502, 503)
        return side.attempts()

    assert both.agree(observe) == [1]


def test_a_refused_connection_is_tried_elsewhere(mapped: Mapped) -> None:
    """Whatever the method, and without resilience."""
    both = mapped(
        [Instance(refuses=True), Instance()],
        routes=traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")}),
    )

    def observe(side: Side) -> set[int]:
        return {side.ask("/", method=method, body=b"").status for method in ("POST", "PUT") * 4}

    assert both.agree(observe) == {200}


def test_the_same_timeouts_hold(mapped: Mapped) -> None:
    retry = resilience.Retry(on=["timeout"], attempts=2, budget=None, backoff_min="1ms", backoff_max="2ms")
    both = mapped(
        routes=traffic.Config(
            routes=[
                Route(
                    name="attempts",
                    matches=[Match(path="/attempts")],
                    timeouts=traffic.RouteTimeouts(request="10s", backend_request="100ms"),
                ),
                Route(name="whole", matches=[Match(path="/whole")], timeouts=traffic.RouteTimeouts(request="100ms")),
            ]
        ),
        limits=only(resilience.Service(failure_policy="none", retry=retry)),
    )

    def observe(side: Side) -> list[tuple[tuple[int, str | None], int]]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang
        seen = []
        for target in ("/attempts", "/whole"):
            before = side.attempts()[0]
            seen.append((side.verdict(side.ask(target)), side.attempts()[0] - before))
        return seen

    assert both.agree(observe) == [((504, "UT"), 3), ((504, "UT"), 1)]


def test_the_same_bucket_is_emptied(mapped: Mapped) -> None:
    limit = resilience.RateLimit(max=3, fill=1, interval="1h")
    both = mapped(limits=only(resilience.Service(failure_policy="none", rate_limit=limit)))

    def observe(side: Side) -> tuple[list[int], bool, list[int]]:
        answers = [side.ask() for _ in range(5)]
        said = any(name.lower().endswith("ratelimit-limit") for name, _ in answers[-1].fields)
        return [got.status for got in answers], said, side.attempts()

    assert both.agree(observe) == ([200, 200, 200, 429, 429], True, [3])


def test_so_many_requests_are_under_way(mapped: Mapped) -> None:
    """The lower of the two limits holds."""
    service = resilience.Service(
        failure_policy="none", bulkhead=resilience.Bulkhead(concurrent=2), resources=resilience.Resources(requests=5)
    )
    both = mapped(limits=only(service))

    def observe(side: Side) -> list[tuple[int, str | None]]:
        (origin,) = side.origins[CALLEE]
        with held(origin):
            wires = [side.start() for _ in range(2)]
            origin.wait_requests(2)
            refused = side.verdict(side.ask())
        served = [side.verdict(wire.read_answer()) for wire in wires]
        for wire in wires:
            wire.close()
        return [refused, *served]

    assert both.agree(observe) == [(503, "UO"), (200, None), (200, None)]


@pytest.mark.parametrize("policy", ["outlier", "breaker"])
def test_who_fails_in_a_row_is_left_out(mapped: Mapped, policy: Literal["outlier", "breaker"]) -> None:
    service = resilience.Service(
        failure_policy=policy,
        retry=resilience.Retry(attempts=0),
        outlier=resilience.Outlier(consecutive_5xx=4, max_ejected_percent=50),
        breaker=resilience.Breaker(consecutive_failures=4, penalty_min="60s"),
    )
    both = mapped(
        [Instance()] * 2,
        routes=traffic.Config(services={CALLEE: traffic.Service(balance="round_robin")}),
        limits=only(service),
    )

    def observe(side: Side) -> bool:
        bad, good = side.origins[CALLEE]

        def spares(*origins: Origin) -> bool:
            """Whether some requests come to none of them; Envoy's worker hears of an ejection a moment later."""
            before = [len(origin.requests) for origin in origins]
            for _ in range(4):
                side.ask()
            return [len(origin.requests) for origin in origins] == before

        bad.answer = lambda _: answer(status=UNAVAILABLE)
        wait_until(lambda: spares(bad))
        assert {side.ask().status for _ in range(4)} == {200}
        good.answer = bad.answer
        if policy == "breaker":
            wait_until(lambda: spares(bad, good))
        else:
            for _ in range(20):
                side.ask()
        return spares(bad, good)

    # Nobody is left where breakers are open; an ejection leaves the last one in.
    assert both.agree(observe) == (policy == "breaker")
