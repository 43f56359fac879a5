"""What is announced about the own instance."""

import pytest
from pannier.shared.instances import State
from pannier.shared.messages import Lifecycle, ProcessState
from pannier.sidecars.discovery.config import Instance
from pannier.sidecars.discovery.health import Condition, Health
from pannier.sidecars.discovery.own import instance_id, is_leaving, own_state


def lifecycle(state: str, *, app_ready: bool = True) -> Lifecycle:
    return Lifecycle("orders", "dev", state, [ProcessState("app", "app", "ready", app_ready)])


@pytest.mark.parametrize(
    ("announced", "said", "health", "expected"),
    [
        (None, None, None, None),
        (State.UP, None, None, State.UP),
        (None, lifecycle("starting"), None, None),
        (State.UP, lifecycle("starting"), None, State.UP),
        (None, lifecycle("ready"), None, State.UP),
        (None, lifecycle("degraded"), None, State.UP),
        (None, lifecycle("ready", app_ready=False), None, None),
        (State.UP, lifecycle("degraded", app_ready=False), None, State.DOWN),
        (State.DOWN, lifecycle("ready"), None, State.UP),
        (None, lifecycle("ready"), Health(), State.STARTING),
        (State.UP, lifecycle("ready"), Health(Condition.DOWN), State.DOWN),
        (State.DOWN, lifecycle("ready"), Health(Condition.UP), State.UP),
        (State.UP, lifecycle("draining"), None, State.DRAINING),
        (None, lifecycle("draining"), None, None),
        (State.DRAINING, lifecycle("stopped"), None, State.DRAINING),
    ],
)
def test_the_state_follows_lifecycle_and_health(announced, said, health, expected) -> None:
    assert own_state(announced, said, health) == expected


def test_leaving_is_about_the_whole_service() -> None:
    assert [is_leaving(said) for said in (None, lifecycle("ready"), lifecycle("draining"), lifecycle("stopped"))] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("instance", "hostname", "expected"),
    [
        (Instance(id="mine"), "host", "mine"),
        (Instance(address="127.0.0.1:8080"), "host", "host-8080"),
        (Instance(address="[::1]:8080"), "host", "host-8080"),
        (Instance(address="unix:/run/a.sock"), "host", "host-orders"),
        (Instance(address="h:1"), "..a b/c", "a-b-c-1"),
        (Instance(address="h:1"), "", "host-1"),
        (Instance(address="h:1"), "x" * 300, "x" * 100 + "-1"),
    ],
)
def test_the_default_id_is_host_and_port(instance: Instance, hostname: str, expected: str) -> None:
    assert instance_id(instance, "orders", hostname) == expected
