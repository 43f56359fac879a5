"""Mirrored requests and injected faults: what they do, and that they do nothing else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Headers, Injected, Match, Mirror, Rewrite, Route, Service

from tests.proxy.census import StartOrigin, call, dead_address, failures, named, refusal, versions, who
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until
from tests.proxy.test_timeouts import takes_at_least
from tests.proxy.wire import PATIENCE_S, Message, Wire, answer, chunk, request

V = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}


@pytest.fixture
def shadow(proxy: Proxy, origin: Origin, start_origin: StartOrigin) -> Origin:
    """The origin of a service `shadow`, beside the one of `up`."""
    shadow = start_origin()
    named(origin, "up")
    proxy.publish_endpoints(up=[{"address": origin.address}], shadow=[{"address": shadow.address}])
    return shadow


def publish(proxy: Proxy, *matches: Match, **what: Any) -> None:
    """One route."""
    proxy.publish_routes(Config(routes=[Route(name="it", matches=list(matches), **what)]))


def mirrors(proxy: Proxy) -> tuple[int, int, int]:
    """How many copies were answered, failed, and were not made."""
    totals = proxy.counters.totals()
    return totals["mirrored"], totals["mirrors_failed"], totals["mirrors_skipped"]


def wait_mirrors(proxy: Proxy, mirrored: int = 0, failed: int = 0, skipped: int = 0) -> None:
    """Waits until so much has become of copies, and no more."""
    wait_until(lambda: sum(mirrors(proxy)) >= mirrored + failed + skipped)
    assert mirrors(proxy) == (mirrored, failed, skipped)


# --- mirrors -------------------------------------------------------------------------------------------------------


@pytest.mark.semantics(
    "traffic",
    "A mirrored request changes nothing for the caller, whatever becomes of the copy",
    "services.*.mirror.percent",
)
def test_a_copy_is_the_request_and_its_answer_is_dropped(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    shadow.answer = lambda _: answer(b"wrong", "X-Shadow: 1", "Set-Cookie: a=b", status="500 Oops")
    publish(proxy, mirror=Mirror(to="shadow"), request=Headers(set={"X-A": "1"}), rewrite=Rewrite(path="/new"))
    with proxy.call(outbound=True) as caller:
        for number, body in enumerate((b"", b"abc", b"x" * 1000), 1):
            caller.send(request("/old?q", "Cookie: c=d", "X-Request-Id: mine", host="up", method="POST", body=body))
            got = caller.read_answer()
            assert (got.status, got.body, got.names) == (200, b"up", {"content-length"})
            wait_mirrors(proxy, mirrored=number)
    assert shadow.requests == origin.requests
    assert [r.start for r in shadow.requests] == ["POST /new?q HTTP/1.1"] * 3
    assert sum(series.count for series in proxy.wait_counted(3)) == 3, "a copy is no request of anybody's"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_copies_of_any_method_use_one_connection(proxy: Proxy, origin: Origin, shadow: Origin, method: str) -> None:
    shadow.answer = lambda r: answer(b"" if r.method == "HEAD" else b"dropped")
    publish(proxy, mirror=Mirror(to="shadow"))
    for number in range(1, 4):
        assert call(proxy, method=method).status == 200
        wait_mirrors(proxy, mirrored=number)
    assert ([r.method for r in shadow.requests], shadow.connections) == ([method] * 3, 1)


def test_nobody_waits_for_a_copy(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    """All of the answers are there before the first copy has its own."""
    go = threading.Event()

    def when_told(_: Message) -> bytes:
        assert go.wait(PATIENCE_S)
        return answer()

    shadow.answer = when_told
    publish(proxy, mirror=Mirror(to="shadow"))
    with proxy.call(outbound=True) as caller:
        for _ in range(5):
            caller.send(request(host="up"))
            assert caller.read_answer().body == b"up"
    shadow.wait_requests(5)
    assert mirrors(proxy) == (0, 0, 0)
    go.set()
    wait_mirrors(proxy, mirrored=5)


def test_a_copy_is_sent_while_the_answer_is_still_to_come(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    def after_the_copy(_: Message) -> bytes:
        shadow.wait_requests(1)
        return answer(b"up")

    origin.answer = after_the_copy
    publish(proxy, mirror=Mirror(to="shadow"))
    assert who(proxy) == "up"


def end_early(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())


def talk_nonsense(origin: Origin, wire: Wire) -> None:
    origin.take(wire.read_request())
    wire.send(b"nonsense\r\n\r\n")


@pytest.mark.semantics("traffic", "A mirrored request changes nothing for the caller, whatever becomes of the copy")
@pytest.mark.parametrize("how", ["it refuses", "it ends early", "it talks nonsense", "it has no endpoint", "unknown"])
def test_a_copy_that_fails_affects_nothing(proxy: Proxy, origin: Origin, shadow: Origin, how: str) -> None:
    up = [{"address": origin.address}]
    if how == "it refuses":
        proxy.publish_endpoints(up=up, shadow=[{"address": dead_address()}])
    elif how == "it has no endpoint":
        proxy.publish_endpoints(up=up, shadow=[])
    elif how == "unknown":
        proxy.publish_endpoints(up=up)
    else:
        shadow.converse = end_early if how == "it ends early" else talk_nonsense
    publish(proxy, mirror=Mirror(to="shadow"))
    with proxy.call(outbound=True) as caller:
        for number in range(1, 4):
            caller.send(request(host="up"))
            assert caller.read_answer().body == b"up"
            wait_mirrors(proxy, failed=number)


def test_a_body_that_is_still_to_come_is_not_copied(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    publish(proxy, mirror=Mirror(to="shadow"))
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", "Content-Length: 6", host="up", method="POST") + b"abc")
        origin.wait(lambda: origin.connections == 1)
        caller.send(b"def")
        assert caller.read_answer().body == b"up"
        caller.send(request("/", "Transfer-Encoding: chunked", host="up", method="POST"))
        wait_mirrors(proxy, skipped=2)
        caller.send(chunk(b"abc") + chunk(b""))
        assert caller.read_answer().body == b"up"
    assert (shadow.connections, [r.body for r in origin.requests]) == (0, [b"abcdef", b"abc"])


def test_a_chunked_body_that_is_here_whole_is_copied(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    publish(proxy, mirror=Mirror(to="shadow"))
    with proxy.call(outbound=True) as caller:
        head = request("/", "Transfer-Encoding: chunked", host="up", method="POST")
        caller.send(head + chunk(b"abc") + chunk(b"def") + chunk(b""))
        assert caller.read_answer().body == b"up"
    wait_mirrors(proxy, mirrored=1)
    assert shadow.only == origin.only


@pytest.mark.semantics("traffic", "At most 64 copies a worker are under way; further ones are left out and counted")
def test_under_load_copies_are_what_is_left_out(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    go = threading.Event()

    def when_told(_: Message) -> bytes:
        assert go.wait(PATIENCE_S)
        return answer()

    shadow.answer = when_told
    publish(proxy, mirror=Mirror(to="shadow"))
    with proxy.call(outbound=True) as caller:
        for _ in range(70):
            caller.send(request(host="up"))
            assert caller.read_answer().body == b"up"
    shadow.wait_requests(64)
    assert mirrors(proxy) == (0, 0, 6)
    go.set()
    wait_mirrors(proxy, mirrored=64, skipped=6)


OF_400 = [(0.0, range(1)), (25.0, range(65, 136)), (100.0, range(400, 401))]


@pytest.mark.parametrize(("percent", "expected"), OF_400)
def test_percent_of_the_requests_are_copied(
    proxy: Proxy, origin: Origin, shadow: Origin, percent: float, expected: range
) -> None:
    publish(proxy, mirror=Mirror(to="shadow", percent=percent))
    with proxy.call(outbound=True) as caller:
        for _ in range(400):
            caller.send(request(host="up"))
            assert caller.read_answer().status == 200
    wait_until(lambda: sum(mirrors(proxy)) in expected)
    assert len(shadow.requests) in expected


def test_a_service_is_mirrored_whoevers_route_leads_there(
    proxy: Proxy, origin: Origin, shadow: Origin, start_origin: StartOrigin
) -> None:
    v2 = named(start_origin(), "v2")
    proxy.publish_endpoints(up=versions(v1=origin, v2=v2), shadow=[{"address": shadow.address}])
    service = Service(subsets=V, split={"v1": 1}, mirror=Mirror(to="shadow"))
    routes = [Route(name="r", hosts=["second"], to={"up/v2": 1}), Route(name="alias", hosts=["alias"], to={"up": 1})]
    proxy.publish_routes(Config(services={"up": service}, routes=routes))
    for number, (host, expected) in enumerate((("up", "up"), ("second", "v2"), ("alias", "up")), 1):
        assert who(proxy, host=host) == expected
        wait_mirrors(proxy, mirrored=number)
    who(proxy, host="shadow")
    assert mirrors(proxy)[0] == 3


def test_a_routes_mirror_stands_in_place_of_the_services(
    proxy: Proxy, origin: Origin, shadow: Origin, start_origin: StartOrigin
) -> None:
    other = start_origin()
    proxy.publish_endpoints(
        up=[{"address": origin.address}], shadow=[{"address": shadow.address}], other=[{"address": other.address}]
    )
    route = Route(name="it", matches=[Match(path="/it")], mirror=Mirror(to="other"))
    proxy.publish_routes(Config(services={"up": Service(mirror=Mirror(to="shadow"))}, routes=[route]))
    call(proxy, "/it")
    call(proxy, "/rest")
    wait_mirrors(proxy, mirrored=2)
    assert (other.only.target, shadow.only.target) == ("/it", "/rest")


def test_copies_go_to_a_subset(proxy: Proxy, origin: Origin, start_origin: StartOrigin) -> None:
    v2 = named(start_origin(), "v2")
    proxy.publish_endpoints(up=versions(v1=origin, v2=v2))
    service = Service(subsets=V, split={"v1": 1}, mirror=Mirror(to="up/v2"))
    proxy.publish_routes(Config(services={"up": service}))
    assert who(proxy) == "hello"
    wait_mirrors(proxy, mirrored=1)
    assert v2.only.target == "/"


def test_copies_keep_to_the_split_of_the_service_that_they_go_to(
    proxy: Proxy, origin: Origin, start_origin: StartOrigin
) -> None:
    v1, v2 = start_origin(), start_origin()
    proxy.publish_endpoints(up=[{"address": origin.address}], shadow=versions(v1=v1, v2=v2))
    shadow = Service(subsets=V, split={"v1": 0, "v2": 1})
    routes = [Route(name="it", mirror=Mirror(to="shadow"))]
    proxy.publish_routes(Config(services={"shadow": shadow}, routes=routes))
    for _ in range(20):
        call(proxy)
    wait_mirrors(proxy, mirrored=20)
    assert (len(v1.requests), len(v2.requests)) == (0, 20)


def test_a_copy_does_not_fail_by_a_connection_that_went_stale(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    publish(proxy, mirror=Mirror(to="shadow"))
    for number in range(1, 4):
        call(proxy)
        wait_mirrors(proxy, mirrored=number)
        shadow.cut()


def test_what_comes_in_is_copied_without_what_is_ours(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    publish(proxy, side="inbound", mirror=Mirror(to="shadow"))
    assert proxy.fetch("/a", "X-Pannier-Reason: UH").body == b"up"
    wait_mirrors(proxy, mirrored=1)
    assert (shadow.only.target, shadow.only.get("x-pannier-reason")) == ("/a", None)


def test_a_copys_failures_are_its_endpoints_alone(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    shadow.answer = lambda _: answer(b"", status="500 Oops")
    proxy.publish_limits(resilience.Config())
    publish(proxy, mirror=Mirror(to="shadow"))
    for _ in range(3):
        assert who(proxy) == "up"
    wait_mirrors(proxy, mirrored=3)
    proxy.wait_counted(3)
    assert (failures(proxy, 0), failures(proxy, 1)) == (0, 3)
    assert proxy.totals("retries") == 0


# --- faults --------------------------------------------------------------------------------------------------------


def statuses(proxy: Proxy, count: int) -> Counter[int]:
    found: Counter[int] = Counter()
    with proxy.call(outbound=True) as caller:
        for _ in range(count):
            caller.send(request(host="up"))
            found[caller.read_answer().status] += 1
    return found


@pytest.mark.semantics("traffic", "A fault delays, then aborts with `FI`")
def test_an_abort_is_an_answer_of_ours(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry()
    publish(proxy, fault=Injected(abort=503))
    got = call(proxy, method="POST", body=b"abc")
    assert refusal(got) == (503, "FI")
    assert b"fault" in got.body
    assert origin.connections == 0
    ((line,), _) = proxy.drain(1)
    assert (line["status"], line["flags"]) == (503, "FI")
    assert proxy.totals("faults_injected") == 1


@pytest.mark.parametrize("status", [400, 418, 429, 500, 599])
def test_an_abort_may_have_any_status_of_an_error(proxy: Proxy, status: int) -> None:
    publish(proxy, fault=Injected(abort=status))
    assert statuses(proxy, 3) == {status: 3}


def test_a_delay_comes_before_the_upstream_is_asked(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry()
    publish(proxy, fault=Injected(delay="100ms"))
    with takes_at_least(0.1):
        got = call(proxy)
    assert (refusal(got), got.body) == ((200, None), b"hello")
    ((line,), _) = proxy.drain(1)
    assert (line["status"], line["flags"]) == (200, "DI")
    assert line["duration_ms"] >= 99


@pytest.mark.semantics("traffic", "A fault delays, then aborts with `FI`", "services.*.fault.percent")
def test_a_delay_comes_before_an_abort(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, fault=Injected(delay="100ms", abort=500))
    with takes_at_least(0.1):
        assert refusal(call(proxy)) == (500, "FI")
    assert origin.connections == 0


def test_a_delayed_request_delays_no_other(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, Match(path="/slow"), fault=Injected(delay="60s"))
    with proxy.call(outbound=True) as slow:
        slow.send(request("/slow", host="up"))
        wait_until(lambda: proxy.totals("faults_injected") == 1)
        assert call(proxy, "/quick").status == 200
        assert not slow.buffer


@pytest.mark.parametrize(("percent", "expected"), OF_400)
def test_percent_of_the_requests_are_faulted(proxy: Proxy, percent: float, expected: range) -> None:
    publish(proxy, fault=Injected(abort=500, percent=percent))
    found = statuses(proxy, 400)
    assert found[500] in expected
    assert found[200] + found[500] == 400
    assert proxy.totals("faults_injected") == found[500]


def test_a_fault_that_is_over_does_nothing(proxy: Proxy) -> None:
    for until in (0.0, time.time() - 1):
        publish(proxy, fault=Injected(abort=500, until=until))
        assert statuses(proxy, 5) == {200: 5}


@pytest.mark.semantics("traffic", "A fault stops by itself when its time is over", "services.*.fault.until")
def test_a_fault_stops_by_itself(proxy: Proxy) -> None:
    until = time.time() + 0.4
    publish(proxy, fault=Injected(abort=500, until=until))
    generation = proxy.in_force()["routes"]
    assert statuses(proxy, 5) == {500: 5}
    assert time.time() < until
    wait_until(lambda: statuses(proxy, 1)[200] == 1)
    assert until - 0.01 < time.time()
    assert statuses(proxy, 5) == {200: 5}
    assert proxy.in_force()["routes"] == generation


def test_a_services_fault_holds_whoevers_route_leads_there(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(up=versions(v1=origin, v2=origin), other=[{"address": origin.address}])
    service = Service(subsets=V, split={"v1": 1}, fault=Injected(abort=500))
    routes = [Route(name="r", hosts=["second"], to={"up/v2": 1}), Route(name="alias", hosts=["alias"], to={"up": 1})]
    proxy.publish_routes(Config(services={"up": service}, routes=routes))
    for host in ("up", "second", "alias"):
        assert refusal(call(proxy, host=host)) == (500, "FI")
    assert call(proxy, host="other").status == 200


def test_both_the_routes_and_the_services_fault_are_injected(proxy: Proxy) -> None:
    route = Route(name="it", fault=Injected(delay="100ms"))
    proxy.publish_routes(Config(services={"up": Service(fault=Injected(abort=500))}, routes=[route]))
    with takes_at_least(0.1):
        assert refusal(call(proxy)) == (500, "FI")


def test_what_is_aborted_is_not_mirrored_and_counts_against_nobody(
    proxy: Proxy, origin: Origin, shadow: Origin
) -> None:
    proxy.publish_limits(resilience.Config())
    publish(proxy, mirror=Mirror(to="shadow"), fault=Injected(abort=500))
    assert statuses(proxy, 3) == {500: 3}
    proxy.wait_counted(3)
    assert (shadow.connections, mirrors(proxy)) == (0, (0, 0, 0))
    assert (failures(proxy, 0), failures(proxy, 1)) == (0, 0)


def test_an_inbound_delay(proxy: Proxy, origin: Origin) -> None:
    publish(proxy, Match(path="/slow"), side="inbound", fault=Injected(delay="100ms"))
    with takes_at_least(0.1):
        assert proxy.fetch("/slow").status == 200
    assert refusal(call(proxy, "/slow")) == (200, None)
    assert proxy.totals("faults_injected") == 1


def test_experiments_end_with_the_table(proxy: Proxy, origin: Origin, shadow: Origin) -> None:
    publish(proxy, mirror=Mirror(to="shadow"), fault=Injected(abort=500))
    assert statuses(proxy, 3) == {500: 3}
    proxy.withdraw("routes")
    assert statuses(proxy, 3) == {200: 3}
    assert shadow.connections == 0
