"""Where we mean to differ from Envoy. Each is shown on both, so that the list in `docs/envoy.md` stays true."""

from __future__ import annotations

import time

from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.resilience.config import Budget, RateLimit, Retry
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.config import Config, Cors, Match, Mirror, Redirect, Rewrite, Route

from tests.conformance.bootstrap import EXTENSIONS, Envoy, Json, circuit_breakers, http_filter, percent
from tests.conformance.conftest import Compare
from tests.conformance.conversations import hang, hang_up
from tests.conformance.sides import CALLEE, Instance, Side
from tests.proxy.origin import Origin
from tests.proxy.wire import answer

UNAVAILABLE = "503 Service Unavailable"


def limits(**service: object) -> resilience.Config:
    """What resilience says of calls to the callee."""
    return resilience.Config(services={CALLEE: resilience.Service(**service)})  # type: ignore[arg-type]


def all_take(route: Json, **cluster: object) -> Envoy:
    """One route of Envoy's, for every request."""
    return Envoy(
        routes=[{"match": {"prefix": "/"}, "route": {"cluster": CALLEE, **route}}],
        clusters={CALLEE: dict(cluster)},
    )


def retrying(on: str) -> Json:
    """One retry, soon."""
    return {"retry_policy": {"retry_on": on, "num_retries": 1, "retry_back_off": {"base_interval": "0.001s"}}}


def refuse(side: Side, *fields: str) -> Origin:
    """The only origin answers 503, with these fields."""
    (origin,) = side.origins[CALLEE]
    origin.answer = lambda _: answer(b"", *fields, status=UNAVAILABLE)
    return origin


# --- what is tried again ------------------------------------------------------------------------------------------


def test_only_idempotent_requests_are_repeated(compare: Compare) -> None:
    both = compare(limits=limits(failure_policy="none"), envoy=all_take(retrying("gateway-error")))

    def observe(side: Side) -> int:
        origin = refuse(side)
        side.ask("/", method="POST", body=b"hello")
        return len(origin.requests)

    assert both.each(observe) == (1, 2)


def test_a_refused_connection_needs_no_retry_policy(compare: Compare) -> None:
    both = compare(
        [Instance(refuses=True), Instance()],
        routes=Config(services={CALLEE: traffic.Service(balance="round_robin")}),
    )
    assert both.each(lambda side: {side.ask().status for _ in range(4)}) == ({200}, {200, 503})


def test_retry_after_is_obeyed(compare: Compare) -> None:
    both = compare(limits=limits(failure_policy="none"), envoy=all_take(retrying("gateway-error")))

    def observe(side: Side) -> int:
        origin = refuse(side, "retry-after: whenever")
        side.ask()
        return len(origin.requests)

    assert both.each(observe) == (1, 2)


def test_a_budget_counts_the_requests_of_ten_seconds(compare: Compare) -> None:
    """Envoy's counts what is under way: one request after another may all be retried."""
    budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 1}
    both = compare(
        limits=limits(
            failure_policy="none",
            retry=Retry(budget=Budget(percent=20, min_per_second=0), backoff_min="1ms", backoff_max="5ms"),
        ),
        envoy=all_take(retrying("gateway-error"), **circuit_breakers(retry_budget=budget)),
    )

    def observe(side: Side) -> int:
        origin = refuse(side)
        for _ in range(50):
            side.ask()
        return len(origin.requests)

    assert both.each(observe) == (60, 100)


def test_a_large_body_is_sent_once(compare: Compare) -> None:
    both = compare(limits=limits(failure_policy="none"), envoy=all_take(retrying("gateway-error")))

    def observe(side: Side) -> int:
        origin = refuse(side)
        side.ask("/", method="PUT", body=b"x" * 100_000)
        return len(origin.requests)

    assert both.each(observe) == (1, 2)


# --- who is taken out ---------------------------------------------------------------------------------------------


def test_an_open_breaker_is_not_panicked_away(compare: Compare) -> None:
    """The breaker has no like in Envoy; what comes closest is ejection."""
    outlier = {"consecutive_5xx": 7, "max_ejection_percent": 100, "base_ejection_time": "60s"}
    both = compare(
        limits=limits(failure_policy="breaker", breaker=resilience.Breaker(penalty_min="60s"), retry=Retry(attempts=0)),
        envoy=all_take({}, outlier_detection=outlier),
    )

    def observe(side: Side) -> tuple[int, set[tuple[int, str | None]]]:
        origin = refuse(side)
        verdicts = {side.verdict(side.ask()) for _ in range(20)}
        return len(origin.requests), verdicts

    pannier, envoy = both.each(observe)
    assert pannier == (7, {(503, None), (503, "UO")})
    assert envoy == (20, {(503, None)})


# --- where a request goes -----------------------------------------------------------------------------------------


def test_a_request_id_decides_the_split(compare: Compare) -> None:
    both = compare(
        [Instance({"version": "v1"}), Instance({"version": "v2"})],
        routes=Config(
            services={
                CALLEE: traffic.Service(
                    subsets={"v1": {"version": "v1"}, "v2": {"version": "v2"}}, split={"v1": 50, "v2": 50}
                )
            }
        ),
        envoy=all_take({}, lb_policy="RANDOM"),
    )
    same = [f"x-request-id: {'7' * 32}"] * 40
    assert both.each(lambda side: len({side.ask("/", field).body for field in same})) == (1, 2)


def test_latency_decides_by_default(compare: Compare) -> None:
    both = compare([Instance()] * 2)

    def observe(side: Side) -> bool:
        slow, quick = side.origins[CALLEE]
        slow.answer = lambda _: answer_after(0.03)
        for _ in range(30):
            side.ask()
        return len(quick.requests) > 2 * len(slow.requests)

    assert both.each(observe) == (True, False)


def answer_after(seconds: float) -> bytes:
    """The answer of an origin that works so long."""
    time.sleep(seconds)
    return answer()


def test_a_port_is_no_part_of_a_hosts_name(compare: Compare) -> None:
    assert compare().each(lambda side: side.ask("/", host="orders:8080").status) == (200, 404)


def test_a_mirror_is_called_by_the_same_name(compare: Compare) -> None:
    both = compare(
        others=["shadow"],
        routes=Config(services={CALLEE: traffic.Service(mirror=Mirror(to="shadow"))}),
        envoy=all_take({"request_mirror_policies": [{"cluster": "shadow"}]}),
    )

    def observe(side: Side) -> str | None:
        (shadow,) = side.origins["shadow"]
        side.ask()
        shadow.wait_requests()
        return shadow.only.get("host")

    assert both.each(observe) == ("orders", "orders-shadow")


def test_copies_are_what_is_left_out_first(compare: Compare) -> None:
    """Of 80 copies to an origin that never answers, 64 are under way at once."""
    both = compare(
        others=["shadow"],
        routes=Config(services={CALLEE: traffic.Service(mirror=Mirror(to="shadow"))}),
        envoy=all_take({"request_mirror_policies": [{"cluster": "shadow"}]}),
    )

    def copies(side: Side, expected: int) -> int:
        (shadow,) = side.origins["shadow"]
        shadow.converse = hang
        for _ in range(80):
            assert side.ask().status == 200
        shadow.wait_requests(expected)
        return len(shadow.requests)

    assert copies(both.pannier, 64) == 64
    assert copies(both.envoy, 80) == 80


def test_only_what_is_here_whole_is_copied(compare: Compare) -> None:
    both = compare(
        others=["shadow"],
        routes=Config(services={CALLEE: traffic.Service(mirror=Mirror(to="shadow"))}),
        envoy=all_take({"request_mirror_policies": [{"cluster": "shadow"}]}),
    )
    sizes = [1_000_000, 10]

    def copies(side: Side, expected: int) -> list[int]:
        (shadow,) = side.origins["shadow"]
        for size in sizes:
            assert side.ask("/", method="POST", body=b"x" * size).status == 200
        shadow.wait_requests(expected)
        return sorted(len(copy.body) for copy in shadow.requests)

    assert copies(both.pannier, 1) == [10]
    assert copies(both.envoy, 2) == [10, 1_000_000]


def test_a_prefix_rewritten_to_the_root_leaves_one_slash(compare: Compare) -> None:
    both = compare(
        routes=Config(
            routes=[Route(name="api", matches=[Match(prefix="/api")], to={CALLEE: 1}, rewrite=Rewrite(prefix="/"))]
        ),
        envoy=Envoy(
            routes=[{"match": {"path_separated_prefix": "/api"}, "route": {"cluster": CALLEE, "prefix_rewrite": "/"}}]
        ),
    )

    def observe(side: Side) -> str:
        (origin,) = side.origins[CALLEE]
        side.ask("/api/v1")
        return origin.only.target

    assert both.each(observe) == ("/v1", "//v1")


def test_a_redirect_leaves_out_a_port_that_goes_without_saying(compare: Compare) -> None:
    both = compare(
        routes=Config(routes=[Route(name="away", redirect=Redirect(scheme="https", port=443))]),
        envoy=Envoy([{"match": {"prefix": "/"}, "redirect": {"scheme_redirect": "https", "port_redirect": 443}}]),
    )
    expected = ("https://orders/a", "https://orders:443/a")
    assert both.each(lambda side: side.ask("/a").get("location")) == expected


# --- what is said -------------------------------------------------------------------------------------------------


def test_an_answer_that_never_came_is_502(compare: Compare) -> None:
    both = compare()

    def observe(side: Side) -> tuple[int, str | None]:
        (origin,) = side.origins[CALLEE]
        origin.converse = hang_up
        return side.verdict(side.ask())

    assert both.each(observe) == ((502, "UC"), (503, "UC"))


def test_a_preflight_has_no_content_and_says_what_it_varies_by(compare: Compare) -> None:
    envoys = {
        "@type": f"{EXTENSIONS}.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": "https://a.example"}],
        "allow_methods": "GET",
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": CALLEE},
        "typed_per_filter_config": {"envoy.filters.http.cors": envoys},
    }
    both = compare(
        routes=Config(routes=[Route(name="cors", to={CALLEE: 1}, cors=Cors(origins=["https://a.example"]))]),
        envoy=Envoy([route], filters=[http_filter("cors", "Cors")]),
    )

    def observe(side: Side) -> tuple[int, str | None]:
        got = side.ask("/", "origin: https://a.example", "access-control-request-method: GET", method="OPTIONS")
        return got.status, got.get("vary")

    assert both.each(observe) == ((204, "origin"), (200, None))


def test_a_rate_limit_says_when_to_come_back(compare: Compare) -> None:
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "60s"}
    enabled = {"filter_enabled": {"default_value": percent(100)}, "filter_enforced": {"default_value": percent(100)}}
    told = http_filter("local_ratelimit", "LocalRateLimit", stat_prefix="limit", token_bucket=bucket, **enabled)
    both = compare(limits=limits(rate_limit=RateLimit(max=1, fill=1, interval="60s")), envoy=Envoy(filters=[told]))

    def observe(side: Side) -> set[str]:
        side.ask()
        refused = side.ask()
        assert refused.status == 429
        return {name for name in refused.names if "ratelimit" in name or name == "retry-after"}

    pannier, envoy = both.each(observe)
    assert {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} <= pannier
    assert envoy == set()


def test_a_deadline_travels_in_a_field_of_its_own(compare: Compare) -> None:
    """Both hear how long the caller waits and tell the origin what is left, each in a field of its own."""
    asked = ("x-pannier-deadline: 2000", "x-envoy-upstream-rq-timeout-ms: 2000")
    told = ("x-pannier-deadline", "x-envoy-expected-rq-timeout-ms")
    both = compare(routes=Config())

    def observe(side: Side) -> list[bool]:
        (origin,) = side.origins[CALLEE]
        side.ask("/", *asked)
        left = [origin.only.get(name) for name in told]
        return [value is not None and 0 < int(value) <= 2000 for value in left]

    pannier, envoy = both.each(observe)
    assert pannier == [True, False]
    assert envoy == [True, True]
