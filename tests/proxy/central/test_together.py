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
from tests.proxy.wire import Ended, Wire, request

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


def test_the_same_answer_by_either_way(host: Meshed, gateway: Meshed) -> None:
    def answered() -> tuple[int, bytes, str | None]:
        got = host.fetch("/same", host="up", outbound=True)
        return got.status, got.body, got.get("x-route")

    expected = (200, b"hello", "mine")
    assert answered() == expected
    host.force(100.0)
    wait_until(lambda: answered() == expected and gateway.requests_counted() > 0)

    def goes_there() -> bool:
        before = gateway.requests_counted()
        return all(answered() == expected for _ in range(20)) and gateway.requests_counted() >= before + 20

    wait_until(goes_there)
    state = gateway.wait_state(lambda state: state.gateway is not None and state.gateway.served > 0)
    assert state.gateway is not None
    assert state.gateway.hosts == 1


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
