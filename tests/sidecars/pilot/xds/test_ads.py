"""Streams of aggregated discovery, one exchange after the other. Any order of them: `test_any_order.py`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import pytest
from pannier.sidecars.pilot.xds.ads import (
    GATE_SECONDS,
    MAX_LETTERS,
    MAX_NAMES,
    RESPONSE_BYTES,
    Asked,
    AskedAll,
    Delta,
    Refused,
    StateOfTheWorld,
    Stream,
)
from pannier.sidecars.pilot.xds.resources import Resource, Response, Type
from pannier.sidecars.pilot.xds.topic import MADE_AT_ONCE, MAX_BACK_OFF_SECONDS

CDS, EDS, LDS, RDS = Type.CLUSTER, Type.ENDPOINTS, Type.LISTENER, Type.ROUTES


class There:
    """What there is, written down: type → name → version."""

    def __init__(self, **services: str) -> None:
        self.of: dict[Type, dict[str, str]] = {kind: {} for kind in Type}
        self.size = 0
        self.made = 0
        for service, version in services.items():
            self.of[CDS][service] = self.of[EDS][service] = version

    def names(self, kind: Type) -> Collection[str]:
        return self.of[kind]

    def get(self, kind: Type, name: str) -> Resource | None:
        version = self.of[kind].get(name)
        if version is None:
            return None
        body = b"x" * self.size
        return Resource(name, version, body, body, endpoints=name if kind is CDS else "")


def told(response: Response | None) -> tuple[str, list[str], list[str]] | None:
    """A response, briefly."""
    if response is None:
        return None
    return response.type.name, [f"{one.name}={one.version}" for one in response.resources], list(response.removed)


def accept(stream: Stream, response: Response | None, *names: str, error: str | None = None, now: float = 0.0) -> None:
    """The client answers, and follows the same as before; in the state of the world, these `names`."""
    assert response is not None
    if isinstance(stream, Delta):
        stream.receive(Asked(response.type.url, nonce=response.nonce, error=error), now)
    elif isinstance(stream, StateOfTheWorld):
        stream.receive(AskedAll(response.type.url, names, response.nonce, error), now)


def test_all_there_is_then_what_changes() -> None:
    there = There(orders="1", stock="1")
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    first = stream.next(0)
    assert told(first) == ("CLUSTER", ["orders=1", "stock=1"], [])
    assert stream.next(0) is None
    accept(stream, first)
    there.of[CDS] = {"orders": "2"}
    assert stream.changed(CDS, ["orders", "stock"])
    second = stream.next(0)
    assert told(second) == ("CLUSTER", ["orders=2"], [])
    accept(stream, second)
    assert told(stream.next(0)) == ("CLUSTER", [], ["stock"])


def test_the_state_of_the_world_is_whole_and_its_removal_is_an_absence() -> None:
    there = There(orders="1", stock="1")
    stream = StateOfTheWorld(there)
    stream.receive(AskedAll(CDS.url), 0)
    accept(stream, stream.next(0))
    there.of[CDS] = {"orders": "2"}
    stream.changed(CDS, None)
    changed = stream.next(0)
    assert told(changed) == ("CLUSTER", ["orders=2", "stock=1"], []), "what goes waits for what is new"
    accept(stream, changed)
    assert told(stream.next(0)) == ("CLUSTER", ["orders=2"], [])


@pytest.mark.parametrize("kind", [CDS, LDS])
@pytest.mark.parametrize("form", [Delta, StateOfTheWorld])
def test_that_there_is_nothing_is_told(kind: Type, form: type[Delta | StateOfTheWorld]) -> None:
    stream = form(There())
    asked = Asked(kind.url) if form is Delta else AskedAll(kind.url)
    stream.receive(asked, 0)  # type: ignore[arg-type]  # of the same form
    assert told(stream.next(0)) == (kind.name, [], [])


def test_what_does_not_exist_is_removed_until_it_does() -> None:
    there = There()
    stream = Delta(there)
    stream.receive(Asked(LDS.url, ["orders"]), 0)
    first = stream.next(0)
    assert told(first) == ("LISTENER", [], ["orders"])
    accept(stream, first)
    assert stream.next(0) is None
    there.of[LDS]["orders"] = "1"
    stream.changed(LDS, None)
    assert told(stream.next(0)) == ("LISTENER", ["orders=1"], [])


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (CDS, ("CLUSTER", [], [])),
        (LDS, ("LISTENER", [], [])),
        (RDS, None),
    ],
)
def test_what_does_not_exist_in_the_state_of_the_world(
    kind: Type, answer: tuple[str, Sequence[str], Sequence[str]] | None
) -> None:
    stream = StateOfTheWorld(There())
    stream.receive(AskedAll(kind.url, ["nobody"]), 0)
    assert told(stream.next(0)) == answer


def test_a_cluster_does_not_wait_for_endpoints_that_do_not_exist() -> None:
    stream = StateOfTheWorld(There())
    stream.receive(AskedAll(EDS.url, ["nobody"]), 0)
    response = stream.next(0)
    assert response is not None
    assert [one.name for one in response.resources] == ["nobody"]


def test_endpoints_in_the_state_of_the_world_are_those_that_changed() -> None:
    there = There(orders="1", stock="1")
    stream = StateOfTheWorld(there)
    stream.receive(AskedAll(EDS.url, ["orders", "stock"]), 0)
    accept(stream, stream.next(0), "orders", "stock")
    there.of[EDS]["stock"] = "2"
    stream.changed(EDS, ["stock"])
    assert told(stream.next(0)) == ("ENDPOINTS", ["stock=2"], [])


def test_unsubscribed_is_not_told_and_what_is_asked_for_again_is() -> None:
    there = There(orders="1")
    stream = Delta(there)
    stream.receive(Asked(EDS.url, ["orders"]), 0)
    accept(stream, stream.next(0))
    stream.receive(Asked(EDS.url, unsubscribe=["orders"]), 0)
    there.of[EDS]["orders"] = "2"
    assert not stream.changed(EDS, ["orders"])
    assert stream.next(0) is None
    stream.receive(Asked(EDS.url, ["orders"]), 0)
    response = stream.next(0)
    assert told(response) == ("ENDPOINTS", ["orders=2"], [])
    accept(stream, response)
    stream.receive(Asked(EDS.url, ["orders"]), 0)
    assert told(stream.next(0)) == ("ENDPOINTS", ["orders=2"], [])


def test_all_and_some_by_name() -> None:
    there = There(orders="1", stock="1")
    stream = Delta(there)
    stream.receive(Asked(CDS.url, ["*", "later"]), 0)
    response = stream.next(0)
    assert told(response) == ("CLUSTER", ["orders=1", "stock=1"], ["later"])
    accept(stream, response)
    stream.receive(Asked(CDS.url, unsubscribe=["*"]), 0)
    there.of[CDS] = {"orders": "2", "later": "1"}
    stream.changed(CDS, ["orders", "later"])
    assert told(stream.next(0)) == ("CLUSTER", ["later=1"], [])


def test_who_comes_back_is_told_what_has_changed() -> None:
    stream = Delta(There(orders="2", stock="1"))
    stream.receive(Asked(CDS.url, versions={"orders": "1", "stock": "1", "gone": "1"}), 0)
    first = stream.next(0)
    assert told(first) == ("CLUSTER", ["orders=2"], [])
    accept(stream, first)
    assert told(stream.next(0)) == ("CLUSTER", [], ["gone"])


def test_the_order_of_what_is_new() -> None:
    there = There(orders="1")
    there.of[LDS]["outbound"] = there.of[RDS]["outbound"] = "1"
    stream = Delta(there)
    for kind, names in ((RDS, ["outbound"]), (LDS, []), (EDS, ["orders"]), (CDS, [])):
        stream.receive(Asked(kind.url, names), 0)
    begun = [stream.next(0) for _ in range(4)]
    assert [one and one.type for one in begun] == [CDS, EDS, LDS, None], "routes wait for the endpoints"
    accept(stream, begun[1])
    assert told(stream.next(0)) == ("ROUTES", ["outbound=1"], [])


def test_routes_wait_for_a_cluster_whose_endpoints_nobody_has_asked_for_and_not_for_ever() -> None:
    there = There(orders="1")
    there.of[RDS]["outbound"] = "1"
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    stream.receive(Asked(RDS.url, ["outbound"]), 0)
    accept(stream, stream.next(10))
    assert stream.next(10) is None
    assert stream.wake_at == 10 + GATE_SECONDS
    assert told(stream.next(10 + GATE_SECONDS)) == ("ROUTES", ["outbound=1"], [])


@pytest.mark.parametrize("followed", [["orders", "gone"], ["orders"]])
def test_routes_do_not_wait_for_a_cluster_of_an_earlier_stream_that_has_gone(followed: Sequence[str]) -> None:
    there = There(orders="1")
    there.of[RDS]["outbound"] = "2"
    stream = Delta(there)
    stream.receive(Asked(CDS.url, versions={"orders": "1", "gone": "1"}), 0)
    stream.receive(Asked(EDS.url, followed), 0)
    stream.receive(Asked(RDS.url, ["outbound"], versions={"outbound": "1"}), 0)
    seen = []
    while (response := stream.next(0)) is not None:
        seen.append(response.type)
        accept(stream, response)
    assert RDS in seen
    there.of[RDS]["outbound"] = "3"
    stream.changed(RDS, ["outbound"])
    assert told(stream.next(0)) == ("ROUTES", ["outbound=3"], [])


def test_a_cluster_goes_in_time_also_if_others_change_and_routes_are_never_answered() -> None:
    there, stream = _routed("orders", "stock")
    del there.of[CDS]["stock"]
    there.of[RDS]["outbound"] = "2"
    stream.changed(CDS, ["stock"])
    stream.changed(RDS, ["outbound"])
    gone = None
    for now in range(60):
        there.of[CDS]["orders"] = f"1.{now}"
        stream.changed(CDS, ["orders"])
        while (response := stream.next(now)) is not None:
            gone = now if gone is None and "stock" in response.removed else gone
            if response.type is not RDS:
                stream.next(now)  # woken by something else while it is under way
                accept(stream, response, now=now)
    assert gone == GATE_SECONDS


def test_a_cluster_stays_for_a_while_if_the_routes_without_it_are_rejected() -> None:
    there, stream = _routed("orders", "stock")
    del there.of[CDS]["stock"]
    there.of[RDS]["outbound"] = "2"
    stream.changed(CDS, ["stock"])
    stream.changed(RDS, ["outbound"])
    accept(stream, stream.next(0), error="no")
    assert stream.next(0) is None
    assert stream.wake_at == GATE_SECONDS
    assert told(stream.next(GATE_SECONDS)) == ("CLUSTER", [], ["stock"])


def _routed(*services: str) -> tuple[There, Delta]:
    """A client that has these services, and routes."""
    there = There(**dict.fromkeys(services, "1"))
    there.of[RDS]["outbound"] = "1"
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    stream.receive(Asked(EDS.url, services), 0)
    stream.receive(Asked(RDS.url, ["outbound"]), 0)
    while (response := stream.next(0)) is not None:
        accept(stream, response)
    return there, stream


def test_who_follows_all_there_is_may_be_told_more_than_he_could_name() -> None:
    names = [str(number) for number in range(2 * MAX_NAMES + 1)]
    there = There(**dict.fromkeys(names, "1"))
    for versions in ({}, dict.fromkeys(names, "0")):
        stream = Delta(there)
        stream.receive(Asked(CDS.url, versions=versions), 0)
        seen: list[str] = []
        while (response := stream.next(0)) is not None:
            seen += [one.name for one in response.resources]
            accept(stream, response)
        assert sorted(seen) == sorted(names)


def test_names_that_a_client_makes_up_are_not_kept() -> None:
    stream = Delta(There(orders="1"))
    stream.receive(Asked(CDS.url), 0)
    assert stream.next(0) is not None
    topic = stream.topics[CDS]
    for turn in range(5):
        names = [f"{turn}-{each}" for each in range(100)]
        stream.receive(Asked(CDS.url, unsubscribe=names), 0)
        stream.receive(Asked(CDS.url, names), 0)
        stream.receive(Asked(CDS.url, unsubscribe=names), 0)
    assert topic.difference(There(orders="1")).absent == []
    assert not topic.dirty


class Made(There):
    """Everything is made when it is asked for first, and kept."""

    def __init__(self, **services: str) -> None:
        super().__init__(**services)
        self._kept: set[tuple[Type, str, str]] = set()

    def get(self, kind: Type, name: str) -> Resource | None:
        found = super().get(kind, name)
        if found is not None and (kind, name, found.version) not in self._kept:
            self._kept.add((kind, name, found.version))
            self.made += 1
        return found


@pytest.mark.parametrize("form", [Delta, StateOfTheWorld])
def test_no_look_makes_much_and_all_is_told(form: type[Delta | StateOfTheWorld]) -> None:
    names = [str(number) for number in range(3 * MADE_AT_ONCE)]
    there = Made(**dict.fromkeys(names, "1"))
    there.of[RDS]["outbound"] = "1"
    stream = form(there)
    for kind, wanted in ((CDS, []), (EDS, names), (RDS, ["outbound"])):
        stream.receive(Asked(kind.url, wanted) if form is Delta else AskedAll(kind.url, wanted), 0)  # type: ignore[arg-type]
    seen: dict[Type, set[str]] = {kind: set() for kind in Type}
    for _ in range(100):
        before = there.made
        response = stream.next(0)
        assert there.made - before <= 2 * MADE_AT_ONCE + 1, "of clusters and of endpoints"
        if response is None:
            if stream.wake_at > 0:
                break
            continue
        seen[response.type] |= {one.name for one in response.resources}
        accept(stream, response, *({EDS: names, RDS: ["outbound"]}.get(response.type, ())))
    assert (seen[CDS], seen[EDS], seen[RDS]) == (set(names), set(names), {"outbound"})


def test_who_comes_back_and_has_everything_is_looked_at_in_turns() -> None:
    names = [str(number) for number in range(3 * MADE_AT_ONCE)]
    there = Made(**dict.fromkeys(names, "1"))
    stream = Delta(there)
    stream.receive(Asked(CDS.url, versions=dict.fromkeys(names, "1")), 0)
    accept(stream, stream.next(0))
    assert there.made < len(names)
    while stream.next(0) is None and stream.wake_at == 0:
        pass
    assert (there.made, stream.wake_at) == (len(names), math.inf)


def test_a_cluster_goes_once_nobody_leads_to_it() -> None:
    there = There(orders="1")
    there.of[RDS]["outbound"] = "1"
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    stream.receive(Asked(EDS.url, ["orders"]), 0)
    stream.receive(Asked(RDS.url, ["outbound"]), 0)
    for _ in range(3):
        accept(stream, stream.next(0))
    there.of[CDS].clear()
    there.of[EDS].clear()
    there.of[RDS]["outbound"] = "2"
    for kind in Type:
        stream.changed(kind, None)
    routes = stream.next(0)
    assert told(routes) == ("ROUTES", ["outbound=2"], [])
    assert stream.next(0) is None
    accept(stream, routes)
    clusters = stream.next(0)
    assert told(clusters) == ("CLUSTER", [], ["orders"])
    assert stream.next(0) is None
    accept(stream, clusters)
    assert told(stream.next(0)) == ("ENDPOINTS", [], ["orders"])


@pytest.mark.parametrize("form", [Delta, StateOfTheWorld])
def test_a_cluster_that_was_told_anew_has_its_endpoints_told_again(form: type[Delta | StateOfTheWorld]) -> None:
    there = There(orders="1")
    stream = form(there)
    for kind, names in ((CDS, ()), (EDS, ("orders",))):
        stream.receive(Asked(kind.url, names) if form is Delta else AskedAll(kind.url, names), 0)  # type: ignore[arg-type]
        accept(stream, stream.next(0), *names)
    there.of[CDS]["orders"] = "2"
    stream.changed(CDS, ["orders"])
    assert told(stream.next(0)) == ("CLUSTER", ["orders=2"], [])
    assert told(stream.next(0)) == ("ENDPOINTS", ["orders=1"], [])


def test_what_was_rejected_is_not_sent_again_until_it_is_another() -> None:
    there = There(orders="bad")
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    accept(stream, stream.next(0), error="orders: no such policy")
    stream.changed(CDS, None)
    assert stream.next(100) is None
    there.of[CDS]["orders"] = "2"
    stream.changed(CDS, ["orders"])
    assert told(stream.next(100)) == ("CLUSTER", ["orders=2"], [])
    topic = stream.topics[CDS]
    assert (topic.sent, topic.acked, topic.nacked, topic.error) == (2, 0, 1, "orders: no such policy")


def test_an_error_is_shown_for_as_long_as_something_is_rejected() -> None:
    there = There(orders="bad")
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    accept(stream, stream.next(0), error="no")
    there.of[CDS]["stock"] = "1"
    stream.changed(CDS, ["stock"])
    accept(stream, stream.next(100))
    assert stream.topics[CDS].error == "no"
    there.of[CDS]["orders"] = "2"
    stream.changed(CDS, ["orders"])
    accept(stream, stream.next(100))
    assert stream.topics[CDS].error == ""


@pytest.mark.parametrize("form", [Delta, StateOfTheWorld])
@pytest.mark.parametrize("number", [2, 100, 1000])
def test_what_is_good_arrives_beside_what_is_rejected(form: type[Delta | StateOfTheWorld], number: int) -> None:
    """A client may stop at the first resource that it does not take, as Envoy does with endpoints."""
    names = [f"s{each}" for each in range(number)]
    there = There(**dict.fromkeys(names, "1"))
    stream = form(there)
    stream.receive(Asked(EDS.url, names) if form is Delta else AskedAll(EDS.url, names), 0)  # type: ignore[arg-type]
    accept(stream, stream.next(0), *names)
    there.of[EDS] = dict.fromkeys(names, "2") | {"s1": "bad"}
    stream.changed(EDS, names)
    has: dict[str, str] = {}
    now, sent = 0.0, 0
    while (response := stream.next(now)) is not None or stream.wake_at < math.inf:
        if response is None:
            now = stream.wake_at
            continue
        bad = any(one.version == "bad" for one in response.resources)
        if not bad:
            has |= {one.name: one.version for one in response.resources}
        accept(stream, response, *names, error="s1: no" if bad else None, now=now)
        sent += 1
    assert has == {name: "2" for name in names if name != "s1"}
    assert sent < 40
    stream.changed(EDS, None)
    assert stream.next(now + 100) is None, "only the bad one is kept back"


def test_what_is_rejected_in_parts_is_sent_less_and_less() -> None:
    there = There(**{f"s{each}": "1" for each in range(50)})
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    now, pauses, sent = 0.0, [], 0
    while (response := stream.next(now)) is not None or stream.wake_at < math.inf:
        if response is None:
            pauses.append(round(stream.wake_at - now, 6))
            now = stream.wake_at
            continue
        accept(stream, response, error="never", now=now)
        sent += 1
    assert pauses == sorted(pauses) and len(pauses) >= sent - 1
    assert pauses[-1] == MAX_BACK_OFF_SECONDS
    assert sent <= 1 + 9 + 50


def test_what_is_new_does_not_wait_for_the_parts_of_what_was_rejected() -> None:
    there = There(**{f"s{each}": "1" for each in range(20)})
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    accept(stream, stream.next(0), error="never")
    accept(stream, stream.next(1), now=1)
    there.of[CDS]["z"] = "1"
    stream.changed(CDS, ["z"])
    assert told(stream.next(1)) == ("CLUSTER", ["z=1"], [])


def test_who_rejects_everything_is_sent_less_and_less() -> None:
    there = There(orders="0")
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    now = 0.0
    for version in range(60):
        accept(stream, stream.next(now), error="never", now=now)
        there.of[CDS]["orders"] = str(version + 1)
        stream.changed(CDS, ["orders"])
        assert stream.next(now) is None
        assert now < stream.wake_at <= now + MAX_BACK_OFF_SECONDS
        now = stream.wake_at
    assert now > 50 * MAX_BACK_OFF_SECONDS
    accept(stream, stream.next(now), now=now)
    there.of[CDS]["orders"] = "at last"
    stream.changed(CDS, ["orders"])
    assert told(stream.next(now)) == ("CLUSTER", ["orders=at last"], []), "who accepts something is not slowed down"


def test_who_is_slow_is_told_the_newest_next() -> None:
    there = There(orders="1")
    stream = Delta(there)
    stream.receive(Asked(EDS.url, ["orders"]), 0)
    first = stream.next(0)
    for version in "23456":
        there.of[EDS]["orders"] = version
        stream.changed(EDS, ["orders"])
        assert stream.next(0) is None
    accept(stream, first)
    assert told(stream.next(0)) == ("ENDPOINTS", ["orders=6"], [])


def test_nonces_of_no_response_mean_nothing() -> None:
    stream = Delta(There(orders="1"))
    stream.receive(Asked(CDS.url, nonce="7", error="of an earlier stream"), 0)
    response = stream.next(0)
    stream.receive(Asked(CDS.url, nonce="stale", error="late"), 0)
    accept(stream, response)
    stream.receive(Asked(CDS.url, nonce="" if response is None else response.nonce, error="again"), 0)
    topic = stream.topics[CDS]
    assert (topic.acked, topic.nacked, topic.ignored) == (1, 0, 2)


def test_a_late_request_in_the_state_of_the_world_means_nothing() -> None:
    there = There(orders="1", stock="1")
    stream = StateOfTheWorld(there)
    stream.receive(AskedAll(EDS.url, ["orders"]), 0)
    first = stream.next(0)
    accept(stream, first, "orders")
    there.of[EDS]["orders"] = "2"
    stream.changed(EDS, ["orders"])
    second = stream.next(0)
    accept(stream, first, "stock")
    assert stream.topics[EDS].names == {"orders"}
    accept(stream, second, "orders", "stock")
    assert told(stream.next(0)) == ("ENDPOINTS", ["stock=1"], [])


def test_a_large_answer_comes_in_parts() -> None:
    there = There(**{f"s{number}": "1" for number in range(5)})
    there.size = RESPONSE_BYTES // 2
    stream = Delta(there)
    stream.receive(Asked(CDS.url), 0)
    seen: list[str] = []
    while (response := stream.next(0)) is not None:
        assert len(response.resources) <= 2
        seen += [one.name for one in response.resources]
        accept(stream, response)
    assert seen == [f"s{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("asked", "says", "exhausted"),
    [
        (Asked("type.googleapis.com/envoy.service.runtime.v3.Runtime"), "no resources of type", False),
        (Asked(EDS.url, ["*"]), "by name only", False),
        (Asked(LDS.url, ["xdstp://pilot/envoy.config.listener.v3.Listener/orders"]), "xdstp", False),
        (Asked(EDS.url, ["x" * (MAX_LETTERS + 1)]), "letters", True),
        (Asked(EDS.url, [str(number) for number in range(MAX_NAMES + 1)]), "more than", True),
        (Asked(CDS.url, versions={str(number): "1" for number in range(MAX_NAMES + 1)}), "more than", True),
    ],
)
def test_what_cannot_be_had_is_refused_clearly(asked: Asked, says: str, exhausted: bool) -> None:
    with pytest.raises(Refused, match=says) as refused:
        Delta(There()).receive(asked, 0)
    assert refused.value.exhausted is exhausted
    if not asked.versions:
        with pytest.raises(Refused, match=says):
            StateOfTheWorld(There()).receive(AskedAll(asked.url, asked.subscribe), 0)
