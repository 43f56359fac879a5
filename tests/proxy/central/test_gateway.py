"""A Central at its door: whom it lets in, and whose policy holds for what comes in there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.resilience.table import limits_table
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.table import routes_table

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import (
    ACCEPTED,
    CONTROL,
    HOPS,
    INBOUND,
    PASS_THROUGH,
    REVISION,
    ROLE,
    SERVICE,
    SIGNATURE,
    Link,
    Preface,
    dial,
    frame,
    header,
    is_accepted,
    read_preface,
    tlv,
)
from tests.proxy.origin import Origin, held
from tests.proxy.process import wait_until
from tests.proxy.wire import Ended, Message, Wire, request

SHOP = Preface()


@pytest.fixture
def gateway(start_gateway: StartMeshed, origin: Origin) -> Meshed:
    """A Central that knows the origin as the service `up`, and has a policy of its own for it."""
    proxy = start_gateway(base={"service": "central"})
    proxy.publish_endpoints(up=[{"address": origin.address}])
    proxy.publish_headers({"direction": "outbound", "response": {"set": {"x-policy": "the central's"}}})
    return proxy


@contextmanager
def linked(gateway: Meshed, preface: Preface = SHOP, source: str = "127.0.0.1", **policy: Any) -> Iterator[Link]:
    """A link of a host that has handed over its policy and may send."""
    with Link(gateway.door, preface, source=source) as link:
        link.hello()
        link.policy(services=("up",), **policy)
        granted = link.ask()
        assert granted["knows_policy"], granted
        assert granted["rate"] > 0
        assert granted["trouble"] == ""
        yield link


def enter(gateway: Meshed, preface: Preface = SHOP) -> Wire:
    """A connection that was accepted."""
    wire = dial(gateway.door, preface.encode())
    assert is_accepted(wire)
    return wire


def ask(wire: Wire, target: str = "/", *fields: str, **rest: Any) -> Message:
    """The answer to one request on a connection."""
    wire.send(request(target, *fields, host="up", **rest))
    return wire.read_answer()


def ends(answer: Message) -> bool:
    """Whether the other side wants no further request on this connection."""
    return answer.get("connection") == "close"


# --- whose policy ---------------------------------------------------------------------------------------------------


def routed(name: str) -> bytes:
    """A route that marks its answers."""
    route = traffic.Route(name=name, to={"up": 1}, response=traffic.Headers(set={"x-route": name}))
    table: bytes = routes_table(traffic.Config(routes=[route]), {})
    return table


def limited(calls: int) -> bytes:
    """No more calls of `up` in a minute than these."""
    service = resilience.Service(rate_limit=resilience.RateLimit(max=calls, fill=calls, interval="1m"))
    table: bytes = limits_table(resilience.Config(services={"up": service}), {})
    return table


def test_what_comes_in_is_under_the_policy_of_who_sent_it(gateway: Meshed, origin: Origin) -> None:
    edits = {"rules": [{"direction": "outbound", "request": {"set": {"x-sent-by": "shop"}}}]}
    with linked(gateway, routes=routed("of-shop"), headers=msgspec.msgpack.encode(edits)), enter(gateway) as wire:
        got = ask(wire, "/a")
        assert (got.status, got.get("x-route"), got.get("x-policy")) == (200, "of-shop", None)
    assert origin.only.get("x-sent-by") == "shop"
    assert gateway.fetch(host="up", outbound=True).get("x-policy") == "the central's"


def test_two_services_have_their_own_each(gateway: Meshed) -> None:
    other = Preface(service="stock", instance="two")
    with (
        linked(gateway, routes=routed("of-shop")),
        linked(gateway, other, routes=routed("of-stock")),
        enter(gateway) as ours,
        enter(gateway, other) as theirs,
    ):
        assert ask(ours).get("x-route") == "of-shop"
        assert ask(theirs).get("x-route") == "of-stock"


def test_a_time_limit_of_the_caller_holds(gateway: Meshed, origin: Origin) -> None:
    with held(origin), linked(gateway, base={"timeouts": {"request_ms": 60}}), enter(gateway) as wire:
        got = ask(wire)
        assert (got.status, got.get("x-pannier-reason")) == (504, "UT")


def test_a_rate_limit_of_the_caller_holds_over_its_connections(gateway: Meshed) -> None:
    with linked(gateway, limits=limited(2)), enter(gateway) as one, enter(gateway) as two:
        assert [ask(wire).status for wire in (one, two, one, two)] == [200, 200, 429, 429]


def test_instances_of_a_service_have_the_same_policy_and_a_limit_each(gateway: Meshed) -> None:
    """As at home: that they are served in one place is no reason to give them less."""
    two = replace(SHOP, instance="two")
    with (
        linked(gateway, limits=limited(2)),
        linked(gateway, two, limits=limited(2)),
        enter(gateway) as ours,
        enter(gateway, two) as theirs,
    ):
        assert [ask(wire).status for wire in (ours, ours, theirs, theirs)] == [200] * 4
        assert [ask(wire).status for wire in (ours, theirs)] == [429] * 2


def test_what_was_counted_survives_what_a_central_learns(gateway: Meshed, origin: Origin) -> None:
    with linked(gateway, limits=limited(2)), enter(gateway) as wire:
        assert [ask(wire).status for _ in range(2)] == [200, 200]
        gateway.publish_endpoints(up=[{"address": origin.address}], other=[{"address": origin.address}])
        assert ask(wire).status == 429


def test_what_is_unknown_is_denied_even_if_the_caller_passes_it_through(gateway: Meshed) -> None:
    with linked(gateway, base={"outbound": {"unknown": "passthrough"}}), enter(gateway) as wire:
        wire.send(request(host="127.0.0.1:9"))
        assert wire.read_answer().status == 404


def test_a_line_says_that_it_was_served_by_way_of_a_central(gateway: Meshed) -> None:
    gateway.publish_telemetry()
    with linked(gateway), enter(gateway) as wire:
        assert ask(wire, "/line").status == 200
    (line,), _ = gateway.drain(1)
    assert (line["path"], line["status"], line["flags"]) == ("/line", 200, "CF")


# --- who is let in --------------------------------------------------------------------------------------------------


STRANGERS: list[dict[str, Any]] = [
    {"service": "stock"},
    {"instance": "two"},
    {"revision": 2},
    {"role": PASS_THROUGH},
    {"role": INBOUND},
    {"role": INBOUND, "instance": "two"},
]


def test_who_is_not_known_is_not_let_in(gateway: Meshed) -> None:
    with linked(gateway), enter(gateway) as known:
        for changes in STRANGERS:
            with dial(gateway.door, replace(SHOP, **changes).encode()) as wire:
                assert not is_accepted(wire), changes
        assert not ends(ask(known))


def test_who_is_not_let_in_is_counted(gateway: Meshed) -> None:
    with linked(gateway), ExitStack() as stack:
        for begin in (b"\r\nno", replace(SHOP, service="stock").encode(), request(host="up")):
            stack.enter_context(dial(gateway.door, begin)).has_ended()
        gateway.wait_state(lambda state: state.gateway is not None and state.gateway.strangers == 3)


@pytest.mark.parametrize("role", [CONTROL, b"o", INBOUND])
def test_what_has_come_through_a_central_before_is_told_so(gateway: Meshed, role: bytes) -> None:
    with linked(gateway), dial(gateway.door, replace(SHOP, role=role, hops=1).encode()) as wire:
        assert wire.read_answer().status == 508
        assert wire.has_ended()


GOOD = SHOP.encode()
GARBAGE = {
    "a signature that goes wrong": GOOD[:5] + b"x" + GOOD[6:],
    "version 1": header(GOOD[16:], version=0x11),
    "LOCAL": header(GOOD[16:], version=0x20),
    "a family": header(GOOD[16:], family=0x11),
    "too long": SIGNATURE + b"\x21\x00\xff\xff",
    "longer than is read": header(GOOD[16:] + tlv(0xEE, bytes(500))),
    "a part that is cut": header(GOOD[16:] + b"\xe0\x00\x09x"),
    "a role that is none": header(GOOD[16:] + tlv(ROLE, b"x")),
    "a name that is none": header(GOOD[16:] + tlv(SERVICE, b"a b")),
    "a revision that is no number": header(GOOD[16:] + tlv(REVISION, b"1")),
    "hops that are not one byte, and no role": header(tlv(HOPS, b"12")),
    "nothing": header(b""),
    "a handshake without a certificate here": b"\x16\x03\x01\x00\x05hello",
}


def test_garbage_is_not_answered(gateway: Meshed) -> None:
    with linked(gateway), enter(gateway) as known:
        for name, garbage in GARBAGE.items():
            with dial(gateway.door, garbage) as wire:
                assert not is_accepted(wire), name
        assert not ends(ask(known))


def test_a_preface_that_ends_too_early_is_not_answered(gateway: Meshed) -> None:
    with linked(gateway), ExitStack() as stack:
        for end in range(0, len(GOOD), 9):
            wire = stack.enter_context(dial(gateway.door, GOOD[:end]))
            wire.finish()
            assert not is_accepted(wire)


def test_a_preface_may_come_in_pieces_and_the_request_with_it(gateway: Meshed, origin: Origin) -> None:
    with linked(gateway), dial(gateway.door, b"") as wire:
        for at in range(len(GOOD) - 1):
            wire.send(GOOD[at : at + 1])
        wire.send(GOOD[-1:] + request("/at-once", host="up"))
        assert is_accepted(wire)
        assert wire.read_answer().status == 200
    assert origin.only.target == "/at-once"


def test_who_says_nothing_is_not_waited_for(gateway: Meshed) -> None:
    """Five seconds each, and all at the same time."""
    with ExitStack() as stack:
        begun = [b"", GOOD[:9], GOOD[:-1]]
        waiting = [stack.enter_context(dial(gateway.door, begin)) for begin in begun]
        waiting.append(stack.enter_context(linked(gateway)).wire)
        assert gateway.state().gateway is not None
        for wire in waiting:
            assert wire.has_ended()
        gateway.wait_state(lambda state: state.gateway is not None and state.gateway.hosts == 0)
        with dial(gateway.door, GOOD) as wire:
            assert not is_accepted(wire)


# --- what a kernel redirects ----------------------------------------------------------------------------------------


@contextmanager
def redirecting(gateway: Meshed, preface: Preface = SHOP, source: str = "127.0.0.1") -> Iterator[Link]:
    """A link of a host whose kernel may send connections."""
    with Link(gateway.door, preface, source=source) as link:
        link.hello(redirects=True)
        link.policy(services=("up",), routes=routed("of-shop"))
        yield link


def test_a_request_without_a_preface_is_known_by_its_address(gateway: Meshed) -> None:
    with redirecting(gateway) as link, dial(gateway.door, b"") as wire:
        assert link.ask()["takes_redirect"]
        got = ask(wire)
        assert (got.status, got.get("x-route")) == (200, "of-shop")


def test_who_is_not_known_by_his_address_is_misdirected(gateway: Meshed) -> None:
    """A host may be about to link, so that each is looked for again for a while; here all at the same time."""
    two, three = replace(SHOP, instance="two"), replace(SHOP, instance="three")
    alone, shared, calling, nowhere = (f"127.0.0.{n}" for n in range(5, 9))
    with ExitStack() as stack:
        links = [
            stack.enter_context(redirecting(gateway, preface, source=source))
            for preface, source in ((SHOP, alone), (two, shared), (three, shared))
        ]
        assert [link.ask()["takes_redirect"] for link in links] == [True, False, False]
        stack.enter_context(linked(gateway, replace(SHOP, instance="four"), source=calling))
        wires = [
            stack.enter_context(dial(gateway.door, request(host="up"), source=source))
            for source in (alone, shared, calling, nowhere)
        ]
        assert [wire.read_answer().status for wire in wires] == [200, 421, 421, 421]
        assert all(wire.has_ended() for wire in wires[1:])


# --- who is sent back -----------------------------------------------------------------------------------------------


def test_a_weight_that_falls_sends_back_those_above_it_and_only_those(gateway: Meshed) -> None:
    draws = [0.1, 0.3, 0.45, 0.55, 0.7, 0.9]
    with linked(gateway) as link, ExitStack() as stack:
        wires = [stack.enter_context(enter(gateway, replace(SHOP, draw=draw))) for draw in draws]
        assert not any(ends(ask(wire)) for wire in wires)
        link.ask(weight=50.0)
        answers = [ask(wire) for wire in wires]
        assert [answer.status for answer in answers] == [200] * 6
        assert [ends(answer) for answer in answers] == [draw > 0.5 for draw in draws]
        link.ask(weight=0.0)
        assert all(ends(ask(wire)) for wire in wires[:3])


def test_a_policy_that_has_changed_ends_connections_under_the_old_one(gateway: Meshed) -> None:
    with linked(gateway, routes=routed("old")) as link, enter(gateway) as wire:
        assert ask(wire).get("x-route") == "old"
        link.policy(2, ("up",), routes=routed("new"))
        assert link.ask(revision=2)["knows_policy"]
        got = ask(wire)
        assert (got.get("x-route"), ends(got)) == ("old", True), "it is served as it was asked, once"
        assert wire.has_ended()
        with enter(gateway, replace(SHOP, revision=2)) as new, enter(gateway, SHOP) as late:
            assert (ask(new).get("x-route"), ask(late).get("x-route")) == ("new", "old")
            assert not ends(ask(new))


def test_a_policy_that_does_not_hold_is_told(gateway: Meshed) -> None:
    with linked(gateway) as link, enter(gateway) as wire:
        link.policy(2, routes=b"\xc1")
        granted = link.ask(revision=2)
        assert not granted["knows_policy"]
        assert granted["trouble"]
        link.policy(3, base={"service": "stock"})
        assert "stock" in link.ask(revision=3)["trouble"]
        assert link.ask(revision=1)["knows_policy"], "the one before is still there"
        assert ask(wire).status == 200


def test_services_of_which_a_central_knows_no_endpoint_are_told(gateway: Meshed, origin: Origin) -> None:
    with linked(gateway) as link:
        link.policy(2, ("up", "other"))
        assert link.ask(revision=2)["trouble"] == "the Central knows no endpoint of other"
        assert link.ask(revision=2, outbound=False)["trouble"] == "", "who keeps his own calls needs none"
        gateway.publish_endpoints(up=[{"address": origin.address}], other=[{"address": origin.address}])
        assert link.ask(revision=2)["trouble"] == ""


def test_another_life_of_an_instance_replaces_the_one_before(gateway: Meshed) -> None:
    with linked(gateway) as first, enter(gateway) as old:
        assert not ends(ask(old))
        with linked(gateway), enter(gateway) as new:
            assert ends(ask(old)), "it is sent back, and comes again under the policy of now"
            assert not ends(ask(new))
            gateway.wait_state(lambda state: state.gateway is not None and state.gateway.hosts == 1)
            with pytest.raises(Ended):
                first.ask()


def test_a_host_whose_link_has_ended_is_sent_back(gateway: Meshed) -> None:
    with linked(gateway) as link, enter(gateway) as wire:
        assert not ends(ask(wire))
        link.wire.close()
        gateway.wait_state(lambda state: state.gateway is not None and state.gateway.hosts == 0)
        got = ask(wire)
        assert (got.status, ends(got)) == (200, True)


def test_who_sends_more_than_was_granted_is_sent_back(gateway: Meshed) -> None:
    """Half as much again, and fifty requests on top of that, are forgiven; beyond, what was drawn last goes first."""
    last = replace(SHOP, draw=0.9)
    with linked(gateway) as link, enter(gateway, last) as wire, enter(gateway, last) as other:
        assert link.ask(rate=1.0)["rate"] == 1.0
        for _ in range(40):
            assert not ends(ask(wire))
        assert link.ask(rate=1.0)["served"] == 40
        assert not ends(ask(wire)), "that is within what is forgiven"
        for _ in range(80):
            assert not ends(ask(other))
        link.ask(rate=1.0)
        assert ends(ask(wire))
        assert ends(ask(other))
        link.ask(rate=1.0)
        with enter(gateway, last) as again:
            assert not ends(ask(again))


# --- the link -------------------------------------------------------------------------------------------------------


def test_tokens_are_shared_and_have_an_end(start_gateway: StartMeshed) -> None:
    gateway = start_gateway(gateway={"capacity": 100.0, "hosts": 2, "address": "127.0.0.1:1"})
    hosts = [Link(gateway.door, replace(SHOP, instance=name)) for name in ("one", "two", "three")]
    with hosts[0] as one, hosts[1] as two, hosts[2] as three:
        for link in (one, two):
            link.hello()
            link.policy()
            link.ask(rate=0.0)
        three.hello()
        granted = one.ask(rate=70.0)
        assert (granted["rate"], 0 < granted["lease_ms"] <= 2000) == (70.0, True)
        assert two.ask(rate=70.0)["rate"] == 30.0, "what is promised is kept, and no more than there is"
        with pytest.raises(Ended):
            three.ask(rate=70.0)
        for _ in range(30):
            flooding = one.ask(rate=70.0)
        assert (flooding["lease_ms"], flooding["trouble"]) == (0, "the Central was asked too often")
        assert two.ask(rate=70.0)["rate"] >= 30.0


HELLO = {"service": "shop", "instance": "one", "passthrough": None, "redirects": False}
BAD_FRAMES: dict[str, tuple[bytes | int, dict[str, Any] | None]] = {
    "too long before it has said who it is": (16 << 10, None),
    "too long": (21 << 20, HELLO),
    "no msgpack": (b"\x01\0\0\0\xc1", HELLO),
    "nothing": (b"\0\0\0\0", HELLO),
    "a message that is not known": (frame({"Shout": {}}), HELLO),
    "a field that is missing": (frame({"Want": {"sequence": 1}}), HELLO),
    "another field": (frame({"Want": {"sequence": "one"}}), HELLO),
    "a second hello": (frame({"Hello": HELLO}), HELLO),
    "a want before it has said who it is": (
        frame({"Want": {"sequence": 1, "rate": 1.0, "weight": 0.0, "revision": 1, "inbound": False, "outbound": True}}),
        None,
    ),
    "another service": (frame({"Hello": HELLO | {"service": "stock"}}), None),
    "another instance": (frame({"Hello": HELLO | {"instance": "two"}}), None),
    "numbers where bytes are": (
        frame({"Policy": {"revision": 2, "services": [], "base": 7, "routes": b"", "limits": b"", "headers": b""}}),
        HELLO,
    ),
    "a nesting without end": ((b"\x10\x27\0\0" + b"\x81\xa4Want" + b"\x91" * 9994), HELLO),
}


def test_a_link_that_says_what_is_none_is_ended(gateway: Meshed) -> None:
    other = replace(SHOP, instance="two")
    with linked(gateway, other), enter(gateway, other) as known:
        for name, (bad, hello) in BAD_FRAMES.items():
            with Link(gateway.door, SHOP) as link:
                if hello is not None:
                    link.say("Hello", **hello)
                link.wire.send((bad + 1).to_bytes(4, "little") if isinstance(bad, int) else bad)
                assert link.wire.has_ended(), name
        assert not ends(ask(known))
        gateway.wait_state(lambda state: state.gateway is not None and state.gateway.strangers == len(BAD_FRAMES))


def test_numbers_that_make_no_sense_grant_nothing_that_there_is_not(gateway: Meshed) -> None:
    with linked(gateway) as link:
        for value in (float("nan"), float("inf"), -1.0, 1e300):
            assert 0.0 <= link.ask(rate=value, weight=value)["rate"] <= 1e5, value
        assert link.ask()["rate"] == 100.0


def test_a_central_that_drains_grants_nothing(gateway: Meshed) -> None:
    with linked(gateway) as link, enter(gateway) as wire:
        gateway.publish_base(lifecycle="draining")
        assert link.ask()["trouble"] == "the Central is being stopped"
        got = ask(wire)
        assert (got.status, ends(got)) == (200, True)


# --- calls of an instance -------------------------------------------------------------------------------------------


def passing(origin: Origin, wire: Wire) -> None:
    """A pass-through port before an app: the preface is accepted, then requests are answered."""
    preface = read_preface(wire)
    assert (preface.role, preface.service, preface.instance, preface.hops) == (PASS_THROUGH, "shop", "one", 1)
    wire.send(ACCEPTED)
    while True:
        wire.send(origin.answer(origin.take(wire.read_request())))


def test_calls_of_an_instance_reach_its_app_under_its_own_policy(gateway: Meshed, origin: Origin) -> None:
    origin.converse = passing
    with Link(gateway.door, SHOP) as link:
        link.hello(passthrough=origin.address)
        edits = {"rules": [{"direction": "inbound", "request": {"set": {"x-side": "in"}}}]}
        link.policy(headers=msgspec.msgpack.encode(edits), base={"app": "127.0.0.1:9"})
        link.ask(inbound=True)
        calling = replace(SHOP, role=INBOUND, revision=0)
        with enter(gateway, calling) as wire:
            for _ in range(2):
                wire.send(request("/in", host="shop"))
                assert wire.read_answer().status == 200
            assert origin.connections == 1
            assert {message.get("x-side") for message in origin.requests} == {"in"}
            link.ask(inbound=True, weight=0.0)
            wire.send(request(host="shop"))
            got = wire.read_answer()
            assert (got.status, ends(got)) == (200, True)
        link.ask(inbound=False)
        with dial(gateway.door, calling.encode()) as wire:
            assert not is_accepted(wire)


def test_an_app_that_is_gone_is_an_answer(gateway: Meshed, origin: Origin) -> None:
    origin.refuse()
    with Link(gateway.door, SHOP) as link:
        link.hello(passthrough=origin.address)
        link.policy()
        link.ask(inbound=True)
        with enter(gateway, replace(SHOP, role=INBOUND)) as wire:
            wire.send(request(host="shop"))
            assert wire.read_answer().status == 503


def test_an_app_is_nowhere_but_where_its_host_is(gateway: Meshed, start_origin: Any) -> None:
    """Without a certificate nobody can have a Central connect to somebody else."""
    stranger = start_origin()
    with Link(gateway.door, SHOP, source="127.0.0.2") as link:
        link.hello(passthrough=stranger.address)
        link.policy()
        link.ask(inbound=True)
        with enter(gateway, replace(SHOP, role=INBOUND)) as wire:
            wire.send(request(host="shop"))
            assert wire.read_answer().status == 503
    wait_until(lambda: stranger.connections == 0)
