from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.sidecars.pilot.xds.endpoints import MAX_TOTAL, Client, assignment
from pannier.sidecars.pilot.xds.schema import MESSAGES

UP, DRAINING, STARTING, DOWN = State.UP, State.DRAINING, State.STARTING, State.DOWN


def instance(address: str, state: State = UP, *, suspect: bool = False, **metadata: str) -> Instance:
    return Instance("orders", address, address, state, 1, 1, metadata, suspect)


def told(instances: Sequence[Instance], client: Client = Client.ENVOY) -> Sequence[tuple[str, int, Sequence[Any]]]:
    """zone, its weight, and (address, health, weight) of each endpoint."""
    message = MESSAGES.parse(
        "envoy.config.endpoint.v3.ClusterLoadAssignment", assignment("orders", instances, client).body
    )
    assert message.cluster_name == "orders"
    return [
        (
            zone.locality.zone,
            zone.load_balancing_weight.value,
            [
                (
                    one.endpoint.address.socket_address.address or one.endpoint.address.pipe.path,
                    one.health_status,
                    one.load_balancing_weight.value,
                )
                for one in zone.lb_endpoints
            ],
        )
        for zone in message.endpoints
    ]


@pytest.mark.parametrize(
    ("instances", "client", "wanted"),
    [
        ([], Client.ENVOY, []),
        ([instance("10.0.0.1:80")], Client.ENVOY, [("", 1, [("10.0.0.1", 1, 1)])]),
        ([instance("10.0.0.1:80", suspect=True)], Client.ENVOY, [("", 1, [("10.0.0.1", 1, 1)])]),
        ([instance("[::1]:80", weight="7")], Client.GRPC, [("", 7, [("::1", 1, 7)])]),
        ([instance("10.0.0.1:80", STARTING), instance("10.0.0.2:80", DOWN)], Client.ENVOY, []),
        (
            [instance("10.0.0.1:80", DRAINING), instance("10.0.0.2:80")],
            Client.ENVOY,
            [("", 2, [("10.0.0.2", 1, 1), ("10.0.0.1", 3, 1)])],
        ),
        ([instance("10.0.0.1:80", DRAINING), instance("10.0.0.2:80")], Client.GRPC, [("", 1, [("10.0.0.2", 1, 1)])]),
        ([instance("10.0.0.1:80", DRAINING)], Client.GRPC, [("", 1, [("10.0.0.1", 1, 1)])]),
        (
            [instance("10.0.0.1:80", zone="b"), instance("10.0.0.2:80", zone="a", weight="3"), instance("10.0.0.3:80")],
            Client.ENVOY,
            [("", 1, [("10.0.0.3", 1, 1)]), ("a", 3, [("10.0.0.2", 1, 3)]), ("b", 1, [("10.0.0.1", 1, 1)])],
        ),
        ([instance("unix:/run/a.sock")], Client.ENVOY, [("", 1, [("/run/a.sock", 1, 1)])]),
        ([instance("unix:/run/a.sock")], Client.GRPC, []),
        ([instance("orders.internal:80")], Client.ENVOY, []),
    ],
)
def test_what_is_told_of_instances(
    instances: Sequence[Instance], client: Client, wanted: Sequence[tuple[str, int, Sequence[Any]]]
) -> None:
    assert told(instances, client) == wanted


@pytest.mark.parametrize("weight", ["", "0", "-1", "1.5", "many", "٣", "9" * 40])
def test_what_is_no_weight_is_one(weight: str) -> None:
    assert told([instance("10.0.0.1:80", weight=weight)]) == [("", 1, [("10.0.0.1", 1, 1)])]


def test_an_address_is_told_once_and_healthy_if_it_is_anywhere() -> None:
    """gRPC refuses all endpoints of a service for one that is there twice."""
    twice = [
        Instance("orders", name, "10.0.0.1:80", state, 1, 1) for name, state in (("a", DRAINING), ("b", UP), ("c", UP))
    ]
    assert told(twice) == [("", 1, [("10.0.0.1", 1, 1)])]


@pytest.mark.parametrize("client", Client)
@pytest.mark.parametrize(
    "spellings",
    [
        ("127.0.0.1:7777", "[127.0.0.1]:7777"),
        ("10.0.0.1:80", "10.0.0.1:080"),
        ("[::1]:80", "[0:0:0:0:0:0:0:1]:80"),
    ],
)
@pytest.mark.parametrize("state", [UP, DRAINING])
def test_an_address_is_told_once_however_it_is_spelled(
    state: State, spellings: tuple[str, str], client: Client
) -> None:
    one, other = spellings
    ((_, weight, endpoints),) = told([instance(one), instance(other, state)], client)
    assert (weight, [health for _, health, _ in endpoints]) == (1, [1])


def test_weights_add_up_to_what_a_client_can_count() -> None:
    many = [instance(f"10.0.{number // 256}.{number % 256}:80", weight="999999999") for number in range(5000)]
    ((_, total, endpoints),) = told(many)
    assert total == sum(weight for _, _, weight in endpoints) <= MAX_TOTAL


def test_who_cannot_be_told_is_named() -> None:
    instances = [instance("orders.internal:80"), instance("unix:/run/a.sock"), instance("10.0.0.1:80")]
    left_out: Mapping[Client, Sequence[str]] = {
        client: assignment("orders", instances, client).left_out for client in Client
    }
    assert left_out == {
        Client.ENVOY: ["orders.internal:80"],
        Client.GRPC: ["orders.internal:80", "unix:/run/a.sock"],
    }
