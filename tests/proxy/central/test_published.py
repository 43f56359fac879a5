"""What a Central has its own discovery publish: itself, and the instances that are reached by way of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import Link, Preface
from tests.proxy.origin import Origin
from tests.proxy.wire import Message, Wire, answer

SHOP = Preface()
HEADROOM = "pannier-central-headroom"
OURS, HOSTS = "/v1/instances/central/c1.gateway", "/v1/instances/shop/one.c1"


def answer_once(origin: Origin, wire: Wire) -> None:
    """A server that ends each connection after its answer, as it was asked to."""
    wire.send(origin.answer(origin.take(wire.read_request())))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Origin]:
    """The local API of discovery, which is asked over a Unix socket."""
    with closing(Origin(unix=tmp_path / "api.sock")) as api:
        api.answer = lambda _: answer(b"{}", "Connection: close")
        api.converse = answer_once
        yield api


@pytest.fixture
def gateway(start_gateway: StartMeshed, api: Origin) -> Meshed:
    """A Central whose instance is `c1`."""
    return start_gateway(base={"service": "central"}, instance="c1", api=api.address.removeprefix("unix:"))


def said(api: Origin, path: str) -> list[tuple[str, Any]]:
    """Method and body of everything that was said of an instance."""
    found = [message for message in api.requests if message.target == path]
    return [(message.method, json.loads(message.body) if message.body else None) for message in found]


def wait_said(api: Origin, path: str, condition: Callable[[str, Any], bool]) -> Any:
    """Waits until the newest that was said of an instance fulfils a condition; its body."""
    api.wait(lambda: any(condition(*each) for each in said(api, path)[-1:]))
    return said(api, path)[-1][1]


def test_a_central_says_where_it_is_and_what_it_has_left(gateway: Meshed, api: Origin) -> None:
    body = wait_said(api, OURS, lambda method, _: method == "PUT")
    address = "{}:{}".format(*gateway.door)
    assert body == {"address": address, "ttl": "15s", "metadata": {HEADROOM: "100000"}}
    with Link(gateway.door, SHOP) as link:
        link.hello()
        link.policy()
        link.ask(rate=51_000.0)
        wait_said(api, OURS, lambda _, body: body["metadata"][HEADROOM] == "50000")


def test_an_instance_is_reached_by_way_of_it_while_it_has_a_weight(gateway: Meshed, api: Origin) -> None:
    def weighs(points: str) -> Callable[[str, Any], bool]:
        return lambda method, body: method == "PUT" and body["metadata"]["pannier-central-weight"] == points

    with Link(gateway.door, SHOP) as link:
        link.hello(passthrough="127.0.0.1:18080")
        link.policy()
        link.ask(inbound=True, weight=40.0)
        body = wait_said(api, HOSTS, weighs("40"))
        assert body["address"] == "{}:{}".format(*gateway.door)
        assert body["metadata"]["pannier-central-of"] == "one"
        link.ask(inbound=True, weight=100.0)
        wait_said(api, HOSTS, weighs("100"))
        link.ask(inbound=True, weight=0.0)
        wait_said(api, HOSTS, lambda method, _: method == "DELETE")
        link.ask(inbound=True, weight=7.0)
        wait_said(api, HOSTS, weighs("7"))
    wait_said(api, HOSTS, lambda method, _: method == "DELETE")


def test_who_does_not_want_that_or_has_no_way_in_is_not_published(gateway: Meshed, api: Origin) -> None:
    two, three = replace(SHOP, instance="two"), replace(SHOP, instance="three")
    with Link(gateway.door, SHOP) as one, Link(gateway.door, two) as other, Link(gateway.door, three) as last:
        for link, passthrough, inbound in (
            (one, "127.0.0.1:18080", False),
            (other, None, True),
            (last, "127.0.0.1:18080", True),
        ):
            link.hello(passthrough=passthrough)
            link.policy()
            link.ask(inbound=inbound)
        wait_said(api, "/v1/instances/shop/three.c1", lambda method, _: method == "PUT")
        assert {message.target for message in api.requests} == {OURS, "/v1/instances/shop/three.c1"}


def test_what_discovery_did_not_take_is_told_and_said_again(gateway: Meshed, api: Origin) -> None:
    def refuse(message: Message) -> bytes:
        is_first = message.target == HOSTS and len(said(api, HOSTS)) < 2
        return answer(b"not now", "Connection: close", status="503 No" if is_first else "200 OK")

    api.answer = refuse
    with Link(gateway.door, SHOP) as link:
        link.hello(passthrough="127.0.0.1:18080")
        link.policy()
        link.ask(inbound=True)
        api.wait(lambda: len(said(api, HOSTS)) >= 2)
        gateway.wait_state(lambda state: "discovery does not take shop/one.c1: not now" in state.trouble)
