"""A host and a Central, both real, between an app and what it calls."""

from __future__ import annotations

import signal
import threading
from collections import Counter

import pytest
from pannier.sidecars.traffic import config as traffic

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.origin import Origin
from tests.proxy.process import wait_until
from tests.proxy.wire import Ended, Wire, answer, request

METHODS = ("GET", "POST")


@pytest.fixture
def gateway(start_gateway: StartMeshed, origin: Origin) -> Meshed:
    """A Central that knows the service `up`."""
    proxy = start_gateway(base={"service": "central"}, workers=2)
    proxy.publish_endpoints(up=[{"address": origin.address}])
    return proxy


@pytest.fixture
def host(start_host: StartMeshed, gateway: Meshed, origin: Origin) -> Meshed:
    """A host that leans on it."""
    proxy = start_host(addresses=["{}:{}".format(*gateway.door)], workers=2)
    route = traffic.Route(name="mine", to={"up": 1}, response=traffic.Headers(set={"x-route": "mine"}))
    proxy.publish_routes(traffic.Config(routes=[route]))
    proxy.wait_state(lambda state: state.granted_rps > 0)
    return proxy


def raw(line: str, *fields: str, body: str = "") -> bytes:
    """A request that is the last of its connection."""
    return "\r\n".join([line, "Host: up", "Connection: close", *fields, "", body]).encode()


CHUNKED = "Transfer-Encoding: chunked"
#: Requests; what the app is told, and what its upstream sees, is the same by either way.
ASKED = {
    "a GET": raw("GET /a?b=c%20d HTTP/1.1", "X-Odd:  two  spaces ", "Accept: a", "Accept: b"),
    "a HEAD": raw("HEAD /head HTTP/1.1"),
    "a body": raw("POST /body HTTP/1.1", "Content-Length: 5", body="hello"),
    "chunks": raw("POST /chunks HTTP/1.1", CHUNKED, body="5;x=1\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"),
    "a body that waits": raw("PUT /waits HTTP/1.1", "Content-Length: 5", "Expect: 100-continue", body="hello"),
    "HTTP/1.0": raw("GET /old HTTP/1.0"),
    "OPTIONS *": raw("OPTIONS * HTTP/1.1"),
    "a long target": raw(f"GET /{'x' * 6000} HTTP/1.1"),
    "many fields": raw("GET /many HTTP/1.1", *(f"X-{i}: {i}" for i in range(80))),
    "a port": raw("GET /port HTTP/1.1").replace(b"Host: up", b"Host: UP:80"),
    "fields of a hop": raw("GET /hop HTTP/1.1", "TE: trailers", "Keep-Alive: 1", "Proxy-Connection: x"),
    "a route that answers": raw("GET /moved HTTP/1.1"),
    "a forged deadline": raw("GET /deadline HTTP/1.1", "X-Request-Timeout: 1h", "X-Request-Id: mine"),
    "nobody": raw("GET / HTTP/1.1").replace(b"Host: up", b"Host: nobody"),
    "no length that holds": raw("POST /bad HTTP/1.1", "Content-Length: 5", "Content-Length: 6", body="hello"),
    "bytes that are none": raw("GET /\x00 HTTP/1.1"),
}
ANSWERS = {
    "/head": answer(b"hello"),
    "/chunks": b"HTTP/1.1 201 Made\r\n%s\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n" % CHUNKED.encode(),
    "/waits": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"late"),
    "/hop": b"HTTP/1.1 204 No Content\r\nKeep-Alive: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
}


def test_the_same_by_either_way(host: Meshed, gateway: Meshed, origin: Origin) -> None:
    moved = traffic.Route(
        name="moved", matches=[traffic.Match(path="/moved")], redirect=traffic.Redirect(host="elsewhere")
    )
    mine = traffic.Route(name="mine", to={"up": 1}, response=traffic.Headers(set={"x-route": "mine"}))
    host.publish_routes(traffic.Config(routes=[moved, mine]))
    origin.answer = lambda message: ANSWERS.get(message.target, answer(message.body or b"nothing", "X-A:  b "))

    def said() -> dict[str, bytes]:
        found = {}
        for name, asked in ASKED.items():
            with host.call(outbound=True) as wire:
                wire.send(asked)
                found[name] = wire.read_to_end()
        return found

    def seen() -> list[tuple[str, list[tuple[str, str]], bytes]]:
        """All but the ids that the proxy has made up."""
        found = []
        for message in origin.requests:
            fields = [field for field in message.fields if field[0] != "x-request-id" or field[1] == "mine"]
            found.append((message.start, fields, message.body))
        origin.requests.clear()
        return found

    here, at_origin = said(), seen()
    assert all(answer.startswith(b"HTTP/1.1 ") for answer in here.values())
    host.force(100.0)
    goes_there(host, gateway)
    origin.requests.clear()
    before = gateway.requests_counted()
    there = said()
    wait_until(lambda: gateway.requests_counted() >= before + len(at_origin))
    for name in ASKED:
        assert there[name] == here[name], name
    assert seen() == at_origin


def goes_there(host: Meshed, gateway: Meshed) -> None:
    """Waits until whatever is asked leaves: the Central knows the policy of now, and takes what comes under it."""

    def does() -> bool:
        before = gateway.requests_counted()
        answers = [host.fetch(host="up", outbound=True) for _ in range(20)]
        return {got.get("x-route") for got in answers} == {"mine"} and gateway.requests_counted() >= before + 20

    wait_until(does)


def test_a_tunnel_through_both_outlives_the_weight_and_the_link(host: Meshed, origin: Origin) -> None:
    def converse(there: Origin, wire: Wire) -> None:
        there.take(wire.read_head())
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while True:
            wire.send(wire.read(4).upper())

    origin.converse = converse
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request("/ws", "Connection: Upgrade", "Upgrade: websocket", host="up"))
        assert wire.read_head().status == 101
        for meanwhile in (lambda: host.force(0.0), lambda: host.withdraw("central"), lambda: None):
            wire.send(b"ping")
            assert wire.read(4) == b"PING"
            meanwhile()


def test_another_generation_of_a_central_takes_over(host: Meshed, gateway: Meshed) -> None:
    host.force(100.0)
    wait_until(lambda: host.fetch(host="up", outbound=True).status == 200 and gateway.requests_counted() > 0)
    gateway.wait_state(lambda state: state.gateway is not None and state.gateway.served > 0)
    old = gateway.process
    assert old is not None
    gateway.spawn()
    try:
        wait_until(lambda: len(gateway.counters.central()) == 2)
        old.send_signal(signal.SIGUSR1)
        gateway.wait_state(
            lambda state: state.gateway is not None and (state.gateway.hosts, state.gateway.served) == (1, 0)
        )
        host.wait_state(lambda state: state.weight == 100.0)
        before = gateway.requests_counted()
        assert host.fetch(host="up", outbound=True).status == 200
        wait_until(lambda: gateway.requests_counted() > before)
    finally:
        old.kill()
        old.wait()


def test_nothing_is_lost_and_nothing_twice_while_it_goes_and_comes(
    host: Meshed, gateway: Meshed, origin: Origin
) -> None:
    """Requests are numbered. When the Central is killed, only what must not be repeated may be lost."""
    done, killed = threading.Event(), threading.Event()
    sent: list[str] = []
    lost: list[tuple[str, bool]] = []

    def load(who: int) -> None:
        turn = 0
        while not done.is_set():
            with host.call(outbound=True) as wire:
                for _ in range(30):
                    method, target = METHODS[turn % 2], f"/{who}/{turn}"
                    turn += 1
                    sent.append(target)
                    try:
                        wire.send(request(target, host="up", method=method, body=b"x" if method == "POST" else None))
                        got = wire.read_answer()
                    except (Ended, ConnectionError):
                        lost.append((target, killed.is_set()))
                        break
                    if got.status != 200:
                        lost.append((f"{target}: {got}", killed.is_set()))
                    if got.get("connection") == "close":
                        break

    threads = [threading.Thread(target=load, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    try:
        for weight in (100.0, 0.0, 50.0, 100.0, 10.0, 100.0):
            host.force(weight)
        wait_until(lambda: gateway.requests_counted() > 100)
        killed.set()
        gateway.kill()
        host.wait_state(lambda state: state.weight == 0.0)
        gateway.start()
        host.wait_state(lambda state: state.weight == 100.0)
        before = gateway.requests_counted()
        wait_until(lambda: gateway.requests_counted() > before)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert [target for target, was_killed in lost if not was_killed] == []
    assert len(lost) <= len(threads), "what was under way, and nothing later"
    times = Counter(message.target for message in origin.requests)
    assert {
        message.target for message in origin.requests if message.method == "POST" and times[message.target] > 1
    } == set()
    assert set(sent) - {target for target, _ in lost} <= set(times)
