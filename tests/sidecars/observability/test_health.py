from __future__ import annotations

import pytest
from pannier.shared.messages import Lifecycle, ProcessState
from pannier.sidecars.observability.health import Readiness


def lifecycle(state: str = "ready", **processes: str) -> Lifecycle:
    kinds = {"proxy": "proxy", "app": "app", "keeper": "keeper"}
    return Lifecycle(
        "orders",
        "dev",
        state,
        [ProcessState(name, kinds.get(name, "sidecar"), word, word == "ready") for name, word in processes.items()],
    )


def test_nothing_heard_is_not_ready() -> None:
    readiness = Readiness()
    assert not readiness.readyz(bus=True).ok
    assert readiness.readyz(bus=True).text(verbose=False) == "readyz failed: lifecycle not heard yet\n"
    assert not readiness.startupz(bus=True).ok
    assert readiness.livez().ok
    assert readiness.livez().text(verbose=False) == "ok\n"


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
    readiness = Readiness()
    readiness.learn(lifecycle(state, **processes))
    assert readiness.readyz(bus=True).ok is ready


def test_a_new_supervisor_that_takes_stock_does_not_make_it_unready() -> None:
    readiness = Readiness()
    readiness.learn(lifecycle("ready", proxy="ready", app="ready"))
    readiness.learn(lifecycle("starting", proxy="ready", app="ready"))
    assert readiness.readyz(bus=True).ok
    readiness.learn(lifecycle("starting", proxy="starting", app="ready"))
    assert not readiness.readyz(bus=True).ok


def test_started_once_is_started_for_good() -> None:
    readiness = Readiness()
    readiness.learn(lifecycle("starting", proxy="ready", app="starting"))
    assert readiness.startupz(bus=True).text(verbose=False) == "startupz failed: lifecycle starting, app starting\n"
    readiness.learn(lifecycle("ready", proxy="ready", app="ready"))
    readiness.learn(lifecycle("degraded", proxy="ready", app="backoff"))
    assert readiness.startupz(bus=True).ok
    assert not readiness.readyz(bus=True).ok


def test_the_last_known_state_holds_while_the_bus_is_away_and_verbose_says_so() -> None:
    readiness = Readiness()
    readiness.learn(lifecycle("degraded", proxy="ready", app="ready", discovery="backoff"))
    verdict = readiness.readyz(bus=False)
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
