"""A host and its link: what it hands over, when anything leaves at all, and what it says of that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from pannier.sidecars.traffic.config import Config, Route
from pannier.sidecars.traffic.table import routes_table

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import ACCEPTED, CONTROL, Central, granting
from tests.proxy.origin import Origin
from tests.proxy.process import wait_until
from tests.proxy.wire import answer, request

ASKED: dict[str, Any] = {"forced": {"weight": 100.0, "id": 1}}


def served_by(host: Meshed) -> str:
    """Who answers a call on a new connection: a Central, or the origin itself."""
    got = host.fetch(host="up", outbound=True)
    assert got.status == 200
    return got.get("x-by") or "origin"


@pytest.fixture(autouse=True)
def _marked(central: Central) -> None:
    central.answer = lambda _: answer(b"away", "X-By: central")


def test_a_host_says_who_it_is_and_hands_its_tables_over(host: Meshed, central: Central) -> None:
    assert central.said.hellos == [{"service": "shop", "instance": "one", "passthrough": None, "redirects": False}]
    (policy,) = central.said.policies
    assert msgspec.msgpack.decode(policy["base"]) == host.base
    assert (policy["services"], policy["routes"], policy["limits"], policy["headers"]) == (["up"], b"", b"", b"")
    want = central.said.wants[-1]
    assert (want["revision"], want["weight"], want["inbound"], want["outbound"]) == (
        policy["revision"],
        0.0,
        False,
        True,
    )
    config = Config(routes=[Route(name="all", to={"up": 1})])
    host.publish_routes(config)
    wait_until(lambda: len(central.said.policies) == 2)
    assert central.said.policies[-1]["routes"] == routes_table(config, {})
    assert central.said.policies[-1]["revision"] != policy["revision"]


def test_what_leaves_says_whose_it_is(host: Meshed, central: Central) -> None:
    host.force(40.0)
    while len(central.prefaces) < 4:
        served_by(host)
    for preface in central.prefaces[1:]:
        assert (preface.role, preface.service, preface.instance, preface.hops) == (b"o", "shop", "one", 0)
        assert preface.revision == central.said.policies[-1]["revision"]
        assert preface.draw <= 0.4
    wait_until(lambda: central.said.wants[-1]["weight"] == 40.0)


def test_what_leaves_is_under_the_policy_of_now(host: Meshed, central: Central) -> None:
    """Also on connections that were made before it was."""
    wait_until(lambda: len(central.prefaces) > 0)
    host.publish_routes(Config(routes=[Route(name="all", to={"up": 1})]))
    wait_until(lambda: len(central.said.policies) == 2)
    host.force(100.0)
    with ExitStack() as stack:
        for wire in [stack.enter_context(host.call(outbound=True)) for _ in range(12)]:
            wire.send(request(host="up"))
        wait_until(lambda: len(central.used) > 0)
    assert {preface.revision for preface in central.used} == {central.said.policies[-1]["revision"]}


def test_a_change_of_policy_brings_nothing_home(host: Meshed, central: Central) -> None:
    """A Central needs a while to take it in, and knows the one before until then."""
    known = {central.said.policies[-1]["revision"]}

    def grant(want: dict[str, Any]) -> dict[str, Any]:
        if want["revision"] not in known:
            threading.Event().wait(0.1)
            known.add(want["revision"])
        return granting()(want)

    central.grant = grant
    central.accepts = lambda preface: preface.role == CONTROL or preface.revision in known
    host.force(100.0)
    wait_until(lambda: served_by(host) == "central")
    for turn in range(3):
        host.publish_routes(Config(routes=[Route(name=f"r{turn}", to={"up": 1})]))
        wait_until(lambda: len(central.said.policies) == turn + 2)  # noqa: B023
        assert {served_by(host) for _ in range(20)} == {"central"}
        wait_until(lambda: len(known) == turn + 2)  # noqa: B023
        assert {served_by(host) for _ in range(20)} == {"central"}


UNGRANTED: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"rate": 0.0}, "no-tokens"),
    "another policy": ({"knows_policy": False}, "policy-unknown"),
    "tokens that have ended": ({"lease_ms": 0}, "no-tokens"),
    "trouble": ({"trouble": "the Central is being stopped"}, "central-down"),
}


def test_nothing_leaves_where_nothing_is_granted(start_host: StartMeshed, central: Central) -> None:
    central.grant = granting(rate=0.0)
    host = start_host(addresses=[central.address], **ASKED)
    for name, (changes, reason) in UNGRANTED.items():
        central.grant = granting(**changes)
        state = host.wait_state(lambda state: bool(state.centrals and state.reason == reason))  # noqa: B023
        assert (state.weight, state.state, state.way, state.forced) == (0.0, "local", "none", True), name
        assert (state.centrals[0].up, state.centrals[0].trouble) == (True, changes.get("trouble", "")), name
        assert served_by(host) == "origin"
    assert central.prefaces == []
    central.grant = granting()
    host.wait_state(lambda state: state.weight == 100.0 and state.reason == "forced" and state.way == "relay")
    assert served_by(host) == "central"


def test_nothing_leaves_before_anything_is_granted(start_host: StartMeshed, central: Central) -> None:
    gate = threading.Event()
    central.grant = lambda want: granting()(want) if gate.wait(0.4) else None
    host = start_host(addresses=[central.address], **ASKED)
    wait_until(lambda: len(central.said.wants) > 0)
    assert served_by(host) == "origin"
    assert central.prefaces == []
    gate.set()
    host.wait_state(lambda state: state.weight == 100.0)


def test_without_a_central_all_stays(start_host: StartMeshed) -> None:
    host = start_host(**ASKED)
    state = host.wait_state(lambda state: state.reason == "no-central")
    assert (state.weight, state.centrals, state.way) == (0.0, [], "none")
    assert served_by(host) == "origin"


REFUSALS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not accept us: it is no Central"),
    "a Central to whom we are one": (b"HTTP/1.1 508 Loop Detected\r\n\r\n", "says that we are a Central ourselves"),
    "something else": (b"HTTP/1.1 200 OK\r\n\r\n", "is no Central: it answers something else"),
}


def test_who_is_no_central_gets_nothing(start_host: StartMeshed, start_origin: Callable[..., Origin]) -> None:
    peers = {name: start_origin() for name in REFUSALS}
    for name, peer in peers.items():
        peer.converse = lambda _, wire, said=REFUSALS[name][0]: wire.send(said) if wire.read(1) else None  # type: ignore[misc]
    host = start_host(addresses=[peer.address for peer in peers.values()], **ASKED)
    state = host.wait_state(lambda state: len(state.centrals) == 3 and all(c.trouble for c in state.centrals))
    assert (state.reason, state.weight) == ("central-down", 0.0)
    seen = {central.address: central for central in state.centrals}
    for name, peer in peers.items():
        assert not seen[peer.address].up
        assert REFUSALS[name][1] in seen[peer.address].trouble
    assert served_by(host) == "origin"


BAD_GRANTS = {
    "no msgpack": b"\x01\0\0\0\xc1",
    "too long": b"\xff\xff\xff\x7f",
    "no map": b"\x02\0\0\0\x91\x01",
}


@pytest.mark.parametrize("name", BAD_GRANTS)
def test_a_central_that_says_what_is_none_is_down(start_host: StartMeshed, start_origin: Any, name: str) -> None:
    def converse(_: Origin, wire: Any) -> None:
        wire.read(16)
        wire.send(ACCEPTED + BAD_GRANTS[name])
        wire.read_to_end()

    peer: Origin = start_origin()
    peer.converse = converse
    host = start_host(addresses=[peer.address], **ASKED)
    state = host.wait_state(lambda state: bool(state.centrals and state.centrals[0].trouble))
    assert (state.weight, state.centrals[0].up) == (0.0, False)
    assert served_by(host) == "origin"


NONSENSE: list[dict[str, Any]] = [
    {"rate": float("nan")},
    {"rate": float("inf")},
    {"rate": -5.0},
    {"lease_ms": 2**64 - 1},
    {"trouble": "ä" * 5000, "rate": 1e300},
]


def test_what_makes_no_sense_is_no_reason_to_break(host: Meshed, central: Central) -> None:
    host.publish_central(**ASKED)
    host.wait_state(lambda state: state.weight == 100.0)
    for changes in NONSENSE:
        before = len(central.said.wants)
        central.grant = granting(**changes)
        wait_until(lambda: len(central.said.wants) > before)  # noqa: B023
        state = host.state()
        assert 0.0 <= state.weight <= 100.0, changes
        assert 0.0 <= state.limit <= 100.0, changes
        served_by(host)
    assert central.links == 1
    central.grant = granting()
    host.wait_state(lambda state: state.weight == 100.0)
    assert served_by(host) == "central"


def test_tokens_bound_what_leaves(host: Meshed, central: Central) -> None:
    """A host that sends nothing counts as one request a second."""
    central.grant = granting(0.4)
    host.publish_central(**ASKED)
    state = host.wait_state(lambda state: state.limit == 40.0)
    assert state.weight == 40.0


def test_a_central_that_answers_late_three_times_is_slow(host: Meshed, central: Central) -> None:
    host.force(100.0)
    late: list[int] = []

    def grant(want: dict[str, Any]) -> dict[str, Any]:
        late.append(want["sequence"])
        threading.Event().wait(0.25)
        return granting()(want)

    central.grant = grant
    state = host.wait_state(lambda state: state.reason == "central-slow")
    assert len(late) >= 3
    assert (state.weight, state.way, state.centrals[0].up) == (0.0, "none", True)
    assert state.centrals[0].rtt_ms >= 200.0
    assert served_by(host) == "origin"
    central.grant = granting()
    host.wait_state(lambda state: state.weight == 100.0)
    assert served_by(host) == "central"


def test_a_central_that_is_gone_takes_nothing_and_comes_back(host: Meshed, central: Central) -> None:
    host.force(100.0)
    assert served_by(host) == "central"
    central.accepts = lambda _: False
    central.cut()
    state = host.wait_state(lambda state: state.reason == "central-down" and state.weight == 0.0)
    assert (state.state, state.way, state.centrals[0].up) == ("local", "none", False)
    assert served_by(host) == "origin"
    central.accepts = lambda _: True
    host.wait_state(lambda state: state.weight == 100.0)
    wait_until(lambda: served_by(host) == "central")


def test_of_two_centrals_the_one_that_is_left_takes_all(
    start_host: StartMeshed, start_central: Callable[..., Central], central: Central
) -> None:
    other = start_central()
    other.answer = lambda _: answer(b"away", "X-By: other")
    host = start_host(addresses=[central.address, other.address])
    host.wait_state(lambda state: state.granted_rps == 2e6)
    host.force(100.0)
    assert {served_by(host) for _ in range(60)} == {"central", "other"}
    other.accepts = lambda _: False
    other.cut()
    host.wait_state(lambda state: state.granted_rps == 1e6)
    wait_until(lambda: {served_by(host) for _ in range(20)} == {"central"})


def test_discovery_knows_centrals_too(start_host: StartMeshed, central: Central) -> None:
    """Those that say that they are one, and are well."""
    host = start_host()
    it = {"address": central.address, "metadata": {"pannier-central-headroom": "1000"}}
    host.publish_endpoints(central=[it])
    host.wait_state(lambda state: state.granted_rps > 0)
    host.force(100.0)
    assert served_by(host) == "central"
    for other in (it | {"healthy": False}, it | {"metadata": {}}):
        host.publish_endpoints(central=[other])
        host.wait_state(lambda state: state.reason == "no-central" and state.weight == 0.0)
        assert served_by(host) == "origin"
        host.publish_endpoints(central=[it])
        host.wait_state(lambda state: state.weight == 100.0)


def test_a_weight_that_nobody_forces_any_more_is_given_back(host: Meshed) -> None:
    host.force(100.0)
    host.publish_central(forced=None)
    state = host.wait_state(lambda state: not state.forced and state.weight == 0.0)
    assert (state.state, state.reversals) == ("local", 0)
    assert served_by(host) == "origin"


def test_calls_that_are_not_to_leave_stay_while_callers_may_go(start_host: StartMeshed, central: Central) -> None:
    host = start_host(addresses=[central.address], outbound="off", inbound=True, passthrough="127.0.0.1:1", **ASKED)
    state = host.wait_state(lambda state: state.weight == 100.0)
    assert (state.way, state.inbound) == ("none", True)
    wait_until(lambda: central.said.wants[-1]["weight"] == 100.0)
    want = central.said.wants[-1]
    assert (want["inbound"], want["outbound"]) == (True, False)
    assert central.said.hellos[-1]["passthrough"] == "127.0.0.1:1"
    assert served_by(host) == "origin"
    assert central.requests == []


def test_without_the_table_there_is_no_link(host: Meshed, central: Central) -> None:
    host.force(100.0)
    host.withdraw("central")
    wait_until(lambda: host.counters.central() == [])
    wait_until(lambda: central.linked == 0)
    assert served_by(host) == "origin"


def test_a_table_that_does_not_hold_leaves_the_one_before(host: Meshed) -> None:
    host.force(100.0)
    bad = host.central | {"plain": ["nowhere"]}
    host.publish_unchecked("central", msgspec.msgpack.encode(bad))
    wait_until(lambda: host.rejected_tables() == 1)
    assert "plain" in host.stderr()
    assert served_by(host) == "central"
