"""The union of what is written down, leased and in the registry."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.detours import OF, WEIGHT, Share
from pannier.shared.instances import State
from pannier.shared.leases import Registration
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.sidecars.discovery.merge import join_statics, merge
from pannier.sidecars.discovery.slots import Slots
from pannier.sidecars.discovery.table import Cluster, Endpoint, Table, encode


def merged(
    statics: Mapping[str, tuple[StaticEndpoint, ...]] | None = None,
    *registrations: Registration,
    known: tuple[str, ...] = (),
    healthy: bool = True,
) -> dict[str, list[Endpoint]]:
    clusters, _ = merge(
        statics or {}, registrations, known=known, healthy=lambda *_: healthy, assign=Slots(capacity=8).assign
    )
    return {cluster.name: list(cluster.endpoints) for cluster in clusters}


def at(address: str, *, state: State = State.UP, epoch: int = 1, instance: str = "i") -> Registration:
    return Registration("orders", instance, address, epoch, 10, state)


STATIC = {"orders": (StaticEndpoint("h:1", weight=7),)}


def test_a_lease_wins_over_the_file_at_the_same_address_and_keeps_its_weight() -> None:
    (row,) = merged(STATIC, at("h:1"))["orders"]
    assert (row.source, row.id, row.weight, row.healthy, row.ttl_ms) == ("lease", "i", 7, True, 10_000)


@pytest.mark.semantics("discovery", "What an instance says of itself wins over what was written down")
def test_an_instance_says_more_of_itself_than_was_written_down() -> None:
    statics = {"orders": (StaticEndpoint("h:1", metadata={"zone": "b", "version": "v1"}), StaticEndpoint("h:2"))}
    registered = Registration("orders", "i", "h:1", 1, 10, State.UP, {"version": "v2"})
    assert [row.metadata for row in merged(statics)["orders"]] == [{"version": "v1", "zone": "b"}, {}]
    assert [row.metadata for row in merged(statics, registered)["orders"]] == [{"version": "v2", "zone": "b"}, {}]


@pytest.mark.semantics("discovery", "What an instance says of itself wins over what was written down")
def test_a_static_endpoint_is_unhealthy_while_its_instance_says_that_it_is_down() -> None:
    (row,) = merged(STATIC, at("h:1", state=State.DOWN))["orders"]
    assert (row.source, row.healthy) == ("file", False)


def test_starting_and_down_are_left_out_and_draining_is_not_healthy() -> None:
    rows = merged(None, *(at(f"h:{n}", state=state, instance=state) for n, state in enumerate(State)))["orders"]
    assert [(row.id, row.healthy) for row in rows] == [("UP", True), ("DRAINING", False)]


def test_one_address_is_one_endpoint_the_newest_that_is_up() -> None:
    (row,) = merged(
        None,
        at("h:1", instance="old", epoch=3),
        at("h:1", instance="new", epoch=4),
        at("h:1", instance="down", epoch=9, state=State.DOWN),
    )["orders"]
    assert row.id == "new"


def test_a_known_service_without_anybody_is_an_empty_cluster() -> None:
    assert merged(None, known=("orders",)) == {"orders": []}
    assert merged({"orders": ()}) == {"orders": []}


def test_surplus_endpoints_are_left_out() -> None:
    many = {"orders": tuple(StaticEndpoint(f"h:{port}") for port in range(10, 30))}
    assert len(merged(many)["orders"]) == 8


def test_the_first_layer_describes_an_address() -> None:
    joined = join_statics(STATIC, {"orders": (StaticEndpoint("h:1"), StaticEndpoint("h:2")), "other": ()})
    assert joined == {"orders": (StaticEndpoint("h:1", weight=7), StaticEndpoint("h:2")), "other": ()}


registrations = st.builds(
    Registration,
    service=st.sampled_from("ab"),
    id=st.sampled_from("xyz"),
    address=st.sampled_from(["h:1", "h:2", "h:3"]),
    epoch=st.integers(1, 3),
    ttl=st.just(10.0),
    state=st.sampled_from(State),
)


@given(st.lists(registrations, max_size=8, unique_by=lambda one: one.key), st.randoms())
def test_the_order_of_what_came_in_does_not_matter(found: list[Registration], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)

    def clusters(of: list[Registration]) -> tuple[Cluster, ...]:
        return merge(STATIC, of, known=(), healthy=lambda *_: True, assign=Slots().assign)

    assert clusters(found) == clusters(shuffled)


def by_way(of: str, weight: str = "40", *, at: str = "10.0.0.8:15090", service: str = "orders") -> Registration:
    return Registration(service, f"{of}.c", at, 9, 5, State.UP, {OF: of, WEIGHT: weight})


DETOURS: list[tuple[str, list[Registration], dict[str, tuple[Share, ...]]]] = [
    ("none", [at("h:1", instance="a")], {"a": ()}),
    ("one", [at("h:1", instance="a"), by_way("a")], {"a": (Share("10.0.0.8:15090", 40),)}),
    ("before its instance", [by_way("a"), at("h:1", instance="a")], {"a": (Share("10.0.0.8:15090", 40),)}),
    (
        "at the instance's own address",
        [at("10.0.0.8:15090", instance="a"), by_way("a")],
        {"a": (Share("10.0.0.8:15090", 40),)},
    ),
    (
        "several, which are more than all",
        [at("h:1", instance="a"), by_way("a", "100"), by_way("a", "60", at="10.0.0.7:15090"), by_way("b", "1")],
        {"a": (Share("10.0.0.7:15090", 37.5), Share("10.0.0.8:15090", 62.5))},
    ),
    ("of a stranger", [at("h:1", instance="a"), by_way("b")], {"a": ()}),
    ("of an instance of another service", [at("h:1", instance="a"), by_way("a", service="stock")], {"a": ()}),
    ("of one who drains", [at("h:1", instance="a", state=State.DRAINING), by_way("a")], {"a": ()}),
    ("of one who is down", [at("h:1", instance="a", state=State.DOWN), by_way("a")], {}),
    ("of nobody", [by_way("a")], {}),
    ("of a weight that is none", [at("h:1", instance="a"), by_way("a", "x")], {"a": ()}),
]


@pytest.mark.parametrize(("registrations", "expected"), [row[1:] for row in DETOURS], ids=[row[0] for row in DETOURS])
def test_an_instance_by_way_of_a_central_is_a_share_of_it_and_no_endpoint(
    registrations: list[Registration], expected: dict[str, tuple[Share, ...]]
) -> None:
    clusters = merged(None, *registrations)
    assert {row.id: row.centrals for row in clusters.get("orders", [])} == expected
    assert "stock" not in clusters


def test_a_detour_takes_no_slot_and_is_absent_from_the_bytes_where_there_is_none() -> None:
    slots = Slots(capacity=1)
    clusters, refused = merge(
        {}, [by_way("a"), at("h:1", instance="a")], known=(), healthy=lambda *_: True, assign=slots.assign
    )
    assert (len(clusters[0].endpoints), refused) == (1, [])
    assert msgspec.to_builtins(clusters[0].endpoints[0])["centrals"] == ({"address": "10.0.0.8:15090", "weight": 40.0},)
    assert b"centrals" not in encode(Table((Cluster("orders", tuple(merged(None, at("h:1"))["orders"])),)))
