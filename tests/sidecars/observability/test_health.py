from __future__ import annotations

import pytest
from pannier.shared.messages import Lifecycle, ProcessState
from pannier.sidecars.observability.health import Health


def lifecycle(state: str = "ready", **processes: str) -> Lifecycle:
    kinds = {"proxy": "proxy", "app": "app", "keeper": "keeper"}
    return Lifecycle(
        "orders",
        "dev",
        state,
        [ProcessState(name, kinds.get(name, "sidecar"), word, word == "ready") for name, word in processes.items()],
    )


def test_nothing_heard_is_not_ready() -> None:
    health = Health()
    assert not health.readyz(bus=True).ok
    assert health.readyz(bus=True).text(verbose=False) == "readyz failed: lifecycle not heard yet\n"
    assert not health.startupz(bus=True).ok
    assert health.livez().ok
    assert health.livez().text(verbose=False) == "ok\n"


@pytest.mark.parametrize(
    ("state", "processes", "ready"),
    [
        ("ready", {"proxy": "ready", "app": "ready"}, True),
        ("ready", {"proxy": "ready"}, True),
        ("degraded", {"proxy": "ready", "app": "ready", "discovery": "backoff"}, True),
        ("degraded", {"proxy": "backoff", "app": "ready"}, False),
        ("degraded", {"proxy": "ready", "app": "starting"}, False),
        ("starting", {"proxy": "ready", "app": "ready"}, False),
        ("draining", {"proxy": "ready", "app": "ready"}, False),
        ("stopped", {"proxy": "stopped"}, False),
        ("ready", {"app": "ready"}, False),
        ("ready", {}, False),
    ],
)
def test_ready_is_a_serving_service_whose_proxy_and_app_are_ready(
    state: str, processes: dict[str, str], ready: bool
) -> None:
    health = Health()
    health.learn(lifecycle(state, **processes))
    assert health.readyz(bus=True).ok is ready


def test_a_new_supervisor_that_takes_stock_does_not_make_it_unready() -> None:
    health = Health()
    health.learn(lifecycle("ready", proxy="ready", app="ready"))
    health.learn(lifecycle("starting", proxy="ready", app="ready"))
    assert health.readyz(bus=True).ok
    health.learn(lifecycle("starting", proxy="starting", app="ready"))
    assert not health.readyz(bus=True).ok


def test_started_once_is_started_for_good() -> None:
    health = Health()
    health.learn(lifecycle("starting", proxy="ready", app="starting"))
    assert health.startupz(bus=True).text(verbose=False) == "startupz failed: lifecycle starting, app starting\n"
    health.learn(lifecycle("ready", proxy="ready", app="ready"))
    health.learn(lifecycle("degraded", proxy="ready", app="backoff"))
    assert health.startupz(bus=True).ok
    assert not health.readyz(bus=True).ok


def test_the_last_known_state_holds_while_the_bus_is_away_and_verbose_says_so() -> None:
    health = Health()
    health.learn(lifecycle("degraded", proxy="ready", app="ready", discovery="backoff"))
    verdict = health.readyz(bus=False)
    assert verdict.ok
    assert verdict.text(verbose=False) == "ok\n"
    assert verdict.text(verbose=True) == (
        "[-]bus away: the last known state holds (informational)\n"
        "[+]lifecycle degraded\n"
        "[+]proxy ready\n"
        "[+]app ready\n"
        "[-]discovery backoff (informational)\n"
        "readyz check passed\n"
    )
