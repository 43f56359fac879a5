"""Where a request goes, and what the proxy says when it goes nowhere."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from pannier.sidecars.resilience import config as resilience

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import PATIENCE_S, Message, Wire, answer, request

StartOrigin = Callable[..., Origin]
OPEN = 1


def assert_refused(got: Message, status: int, flag: str) -> None:
    """An answer of the proxy's own: status, reason, and one line of JSON that repeats both."""
    assert (got.status, got.get("x-pannier-reason")) == (status, flag)
    assert got.get("content-type") == "application/json"
    assert got.body.count(b"\n") == 1
    assert got.body.endswith(b"\n")
    said = json.loads(got.body)
    assert (said["status"], said["reason"]) == (status, flag)
    assert said["message"]


def named(origin: Origin, name: str) -> Origin:
    origin.answer = lambda _: answer(name.encode())
    return origin


def dead_address() -> str:
    """An address that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def spread(proxy: Proxy, count: int, host: str = "up") -> Counter[bytes]:
    """Who answers so many requests."""
    bodies: Counter[bytes] = Counter()
    with proxy.call(outbound=True) as caller:
        for _ in range(count):
            caller.send(request(host=host))
            got = caller.read_answer()
            assert got.status == 200, got
            bodies[got.body] += 1
    return bodies


# --- inbound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["svc", "SVC:1234", "localhost", "127.0.0.1:80", "[::1]", "extra.example", "10.1.2.3"])
def test_inbound_serves_the_services_names(start_proxy: StartProxy, origin: Origin, host: str) -> None:
    proxy = start_proxy(inbound={"hosts": ["Extra.Example"]})
    assert proxy.fetch(host=host).status == 200
    assert origin.only.get("host") == host


@pytest.mark.parametrize("host", ["evil.example", "up", "svc.evil", "svc.", "127.0.0.1.nip.io"])
def test_inbound_refuses_every_other_name(proxy: Proxy, origin: Origin, host: str) -> None:
    with proxy.call() as caller:
        caller.send(request(host=host))
        assert_refused(caller.read_answer(), 404, "NR")
        caller.send(request(f"http://{host}/", host="svc"))
        assert_refused(caller.read_answer(), 404, "NR")
        caller.send(request())
        assert caller.read_answer().status == 200, "the connection is as good as before"
    assert len(origin.requests) == 1


def test_inbound_serves_all_names_if_told_to(start_proxy: StartProxy) -> None:
    assert start_proxy(inbound={"hosts": ["*"]}).fetch(host="whatever.example").status == 200


def test_a_service_without_an_app(start_proxy: StartProxy) -> None:
    assert_refused(start_proxy(app=None).fetch(), 503, "UH")


def test_an_app_on_a_unix_socket(start_proxy: StartProxy, start_origin: StartOrigin, short_path: Path) -> None:
    app = named(start_origin(unix=short_path / "app.sock"), "unix")
    proxy = start_proxy(app=app.address)
    assert proxy.fetch().body == b"unix"
    app.close()
    assert_refused(proxy.fetch(), 503, "UF")


# --- outbound ------------------------------------------------------------------------------------------------------


def test_outbound_goes_to_the_cluster_of_that_name(start_proxy: StartProxy, start_origin: StartOrigin) -> None:
    one, two = named(start_origin(), "one"), named(start_origin(), "two")
    clusters = [{"name": n, "endpoints": [{"address": o.address}]} for n, o in (("one", one), ("Two.ns", two))]
    proxy = start_proxy(clusters=clusters)
    for host, expected in (("one", b"one"), ("ONE:8080", b"one"), ("two.NS", b"two")):
        assert proxy.fetch(host=host, outbound=True).body == expected
    assert proxy.fetch("http://two.ns/", host="one", outbound=True).body == b"two"


def test_the_endpoints_table_wins_until_it_is_withdrawn(
    proxy: Proxy, origin: Origin, start_origin: StartOrigin
) -> None:
    named(origin, "base")
    other = named(start_origin(), "discovered")
    with proxy.call(outbound=True) as caller:

        def ask(host: str = "up") -> Message:
            caller.send(request(host=host))
            return caller.read_answer()

        assert ask().body == b"base"
        assert ask("more").status == 404
        proxy.publish_endpoints(up=[{"address": other.address}], more=[{"address": other.address}])
        assert (ask().body, ask("more").body) == (b"discovered", b"discovered")
        proxy.publish_endpoints(more=[{"address": other.address}])
        assert (ask().body, ask("more").body) == (b"base", b"discovered")
        proxy.withdraw("endpoints")
        assert ask().body == b"base"
        assert ask("more").status == 404


def test_a_cluster_without_endpoints(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(up=[])
    assert_refused(proxy.fetch(host="up", outbound=True), 503, "UH")
    assert origin.connections == 0


def test_an_unknown_authority_is_refused_under_deny(proxy: Proxy, origin: Origin) -> None:
    assert_refused(proxy.fetch(host="nobody", outbound=True), 404, "NR")
    assert_refused(proxy.fetch(host=origin.address, outbound=True), 404, "NR")
    assert_refused(proxy.fetch(host="app", outbound=True), 404, "NR")
    assert origin.connections == 0


def test_an_unknown_authority_passes_through_if_it_may(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(outbound={"unknown": "passthrough"})
    for host in (origin.address, f"localhost:{origin.port}"):
        assert proxy.fetch(host=host, outbound=True).status == 200
        assert origin.requests[-1].get("host") == host
    got = proxy.fetch(f"http://{origin.address}/a?b", host=origin.address, outbound=True)
    assert (got.status, origin.requests[-1].target) == (200, "/a?b")
    assert_refused(proxy.fetch(host=dead_address(), outbound=True), 503, "UF")
    assert_refused(proxy.fetch(host="no-such-name.invalid", outbound=True), 503, "UF")


FORBIDDEN = (
    "169.254.169.254",
    "169.254.1.1:8080",
    "100.100.100.200",
    "0.0.0.0",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[::]",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
)


@pytest.mark.parametrize("host", FORBIDDEN)
def test_link_local_and_metadata_addresses_are_never_reached(start_proxy: StartProxy, host: str) -> None:
    assert_refused(start_proxy(outbound={"unknown": "passthrough"}).fetch(host=host, outbound=True), 403, "DN")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1"])
def test_the_proxys_own_ports_are_never_reached(start_proxy: StartProxy, origin: Origin, host: str) -> None:
    proxy = start_proxy(outbound={"unknown": "passthrough"})
    for _, port in (proxy.outbound, proxy.inbound):
        assert_refused(proxy.fetch(host=f"{host}:{port}", outbound=True), 403, "DN")
    assert origin.connections == 0


def test_a_refusal_repeats_nothing_of_the_request_that_could_harm(proxy: Proxy) -> None:
    got = proxy.fetch("/<script>", "X-A: <b>", host="a" * 250 + ".ex", outbound=True)
    assert_refused(got, 404, "NR")
    assert len(got.body) < 512
    assert b"script" not in got.body


def test_a_refusal_of_head_has_no_body(proxy: Proxy) -> None:
    with proxy.call() as caller:
        caller.send(request(method="HEAD", host="evil"))
        got = caller.read_answer("HEAD")
        assert (got.status, got.get("x-pannier-reason")) == (404, "NR")
        caller.send(request())
        assert caller.read_answer().status == 200


# --- balancing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def three(start_origin: StartOrigin) -> list[Origin]:
    """Origins that answer 0, 1 and 2."""
    return [named(start_origin(), str(i)) for i in range(3)]


def test_round_robin_keeps_weights(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=[{"address": o.address, "weight": i + 1} for i, o in enumerate(three)])
    assert spread(proxy, 60) == {b"0": 10, b"1": 20, b"2": 30}


def test_p2c_spreads_what_is_in_flight(proxy: Proxy, three: list[Origin]) -> None:
    proxy.publish_endpoints(up=[{"address": o.address} for o in three])
    everybody = threading.Barrier(30)

    def hold(name: bytes) -> Callable[[Message], bytes]:
        def when_all_have_arrived(_: Message) -> bytes:
            everybody.wait(PATIENCE_S)
            return answer(name)

        return when_all_have_arrived

    for i, origin in enumerate(three):
        origin.answer = hold(str(i).encode())
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call(outbound=True)) for _ in range(30)]
        for caller in callers:
            caller.send(request(host="up"))
        counts = Counter(caller.read_answer().body for caller in callers)
    assert min(counts[name] for name in (b"0", b"1", b"2")) >= 5, counts


def test_p2c_tries_an_endpoint_that_is_new(proxy: Proxy, three: list[Origin]) -> None:
    proxy.publish_endpoints(up=[{"address": o.address} for o in three])
    assert set(spread(proxy, 60)) == {b"0", b"1", b"2"}


def read_and(last_words: bytes) -> Callable[[Origin, Wire], None]:
    """Reads one request, says something and ends."""

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(last_words)

    return converse


QUICK_FAILURES = {
    "it ends without an answer": (502, b""),
    "it says that it cannot": (503, answer(b"", "Connection: close", status="503 Service Unavailable")),
    "it says that it may not": (429, answer(b"", "Connection: close", status="429 Too Many Requests")),
    "it speaks another protocol": (502, b"nonsense\r\n\r\n"),
}


@pytest.mark.parametrize("failure", QUICK_FAILURES)
def test_an_endpoint_that_fails_quickly_attracts_no_load(proxy: Proxy, start_origin: StartOrigin, failure: str) -> None:
    """It is always the first to be done, which is no merit."""
    bad, good, slowly = start_origin(), start_origin(), threading.Event()

    def answer_slowly(_: Message) -> bytes:
        assert not slowly.wait(0.005)
        return answer()

    good.answer = answer_slowly
    status, last_words = QUICK_FAILURES[failure]
    bad.converse = read_and(last_words)
    proxy.publish_endpoints(up=[{"address": bad.address}, {"address": good.address}])
    statuses = Counter(proxy.fetch(host="up", outbound=True, method="POST", body=b"").status for _ in range(30))
    assert statuses[200] + statuses[status] == 30
    assert 1 <= statuses[status] <= 2, statuses


def test_a_slow_upload_is_not_held_against_its_endpoint(proxy: Proxy, three: list[Origin]) -> None:
    quick, slow, _ = three
    pause = threading.Event()

    def answer_slowly(_: Message) -> bytes:
        assert not pause.wait(0.1)
        return answer(b"1")

    slow.answer = answer_slowly
    proxy.publish_endpoints(up=[{"address": quick.address}, {"address": slow.address}])
    assert spread(proxy, 4)[b"0"] >= 3
    with proxy.call(outbound=True) as caller:
        caller.send(request("/", "Content-Length: 10", method="POST", host="up") + b"first")
        assert not pause.wait(0.3)
        caller.send(b"later")
        assert caller.read_answer().body == b"0"
    assert spread(proxy, 20)[b"0"] > 15


def test_an_unhealthy_endpoint_is_left_out(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=[{"address": o.address, "healthy": i != 1} for i, o in enumerate(three)])
    assert spread(proxy, 20) == {b"0": 10, b"2": 10}


def test_below_half_healthy_all_are_used(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=[{"address": o.address, "healthy": i == 1} for i, o in enumerate(three)])
    assert spread(proxy, 30) == {b"0": 10, b"1": 10, b"2": 10}


def test_an_open_hot_word_keeps_an_endpoint_out_until_it_runs_out(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    proxy.publish_endpoints(up=[{"address": o.address, "incarnation": 7} for o in three])
    proxy.publish_limits(resilience.Config(services={"*": resilience.Service(failure_policy="outlier")}))

    def until(milliseconds: int) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + milliseconds

    proxy.set_hot_word(1, OPEN, 7, until(60_000))
    assert spread(proxy, 20) == {b"0": 10, b"2": 10}
    proxy.set_hot_word(1, OPEN, 6, until(60_000))
    assert spread(proxy, 30)[b"1"] == 10, "it speaks of an endpoint that held the slot before"
    proxy.set_hot_word(1, 9, 7, until(60_000))
    assert spread(proxy, 30)[b"1"] == 10, "damage reads as closed"
    proxy.set_hot_word(1, OPEN, 7, until(5 * 3_600_000))
    assert spread(proxy, 30)[b"1"] == 10, "no word may reach so far"
    proxy.set_hot_word(1, OPEN, 7, until(300))
    assert b"1" not in spread(proxy, 10)
    wait_until(lambda: b"1" in spread(proxy, 3))
    proxy.set_hot_word(1, OPEN, 7, until(60_000))
    proxy.withdraw("limits")
    assert spread(proxy, 30)[b"1"] == 10, "without resilience nobody is out"


def test_a_refused_connection_moves_on_to_the_next_endpoint(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    three[0].refuse()
    proxy.publish_endpoints(up=[{"address": o.address} for o in three[:2]])
    assert spread(proxy, 20) == {b"1": 20}
    body = b"not even a POST is lost"
    for _ in range(4):
        assert proxy.fetch(host="up", outbound=True, method="POST", body=body).body == b"1"
    assert [r.body for r in three[1].requests[-4:]] == [body] * 4


def test_when_every_endpoint_refuses_the_caller_is_told(proxy: Proxy) -> None:
    proxy.publish_endpoints(up=[{"address": dead_address()} for _ in range(3)])
    with proxy.call(outbound=True) as caller:
        for method in ("GET", "POST"):
            caller.send(request(host="up", method=method, body=b"abc"))
            assert_refused(caller.read_answer(), 503, "UF")


def test_a_body_that_is_still_to_come_is_never_read_as_a_request(proxy: Proxy, origin: Origin) -> None:
    """The answer comes before the body, so the connection has to end: what follows would be taken for requests."""
    smuggled = request("/smuggled", host="up")
    proxy.publish_endpoints(gone=[{"address": dead_address()}], empty=[])
    for host, status in (("gone", 503), ("empty", 503), ("unknown", 404)):
        with proxy.call(outbound=True) as caller:
            caller.send(request(f"/{host}", f"Content-Length: {len(smuggled)}", method="POST", host=host))
            got = caller.read_answer()
            assert (got.status, got.get("connection")) == (status, "close")
            caller.send(smuggled)
            assert caller.has_ended()
    assert origin.requests == []
