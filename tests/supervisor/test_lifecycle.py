"""Every (state, event) pair of both tables, written out: `None` is a pair that cannot happen."""

from __future__ import annotations

import pytest
from pannier.supervisor.lifecycle import (
    ALIVE,
    PROCESS,
    SERVICE,
    LifecycleError,
    ProcessEvent,
    ProcessState,
    ServiceEvent,
    ServiceState,
    step,
)

EVENTS = ("spawned", "ready", "drain", "stop", "crashed", "gave_up", "ended")
EXPECTED_PROCESS: dict[str, tuple[str | None, ...]] = {
    #             spawned     ready       drain       stop        crashed    gave_up    ended
    "pending": ("starting", None, None, "stopped", "backoff", "failed", "stopped"),
    "starting": (None, "ready", "draining", "stopping", "backoff", "failed", "stopped"),
    "ready": (None, "ready", "draining", "stopping", "backoff", "failed", "stopped"),
    "draining": (None, "draining", "draining", "stopping", "stopped", "stopped", "stopped"),
    "stopping": (None, "stopping", "stopping", "stopping", "stopped", "stopped", "stopped"),
    "stopped": ("starting", None, "stopped", "stopped", None, None, None),
    "backoff": ("starting", None, "backoff", "stopped", "backoff", "failed", "stopped"),
    "failed": ("starting", None, "failed", "stopped", "backoff", "failed", "stopped"),
}
SERVICE_EVENTS = ("whole", "impaired", "drain", "stopped")
EXPECTED_SERVICE: dict[str, tuple[str | None, ...]] = {
    "starting": ("ready", "starting", "draining", "stopped"),
    "ready": ("ready", "degraded", "draining", "stopped"),
    "degraded": ("ready", "degraded", "draining", "stopped"),
    "draining": ("draining", "draining", "draining", "stopped"),
    "stopped": (None, None, None, "stopped"),
}


def test_the_tables_here_name_every_state_and_event() -> None:
    assert set(EXPECTED_PROCESS) == {s.value for s in ProcessState} == {s.value for s in PROCESS}
    assert set(EVENTS) == {e.value for e in ProcessEvent}
    assert set(EXPECTED_SERVICE) == {s.value for s in ServiceState} == {s.value for s in SERVICE}
    assert set(SERVICE_EVENTS) == {e.value for e in ServiceEvent}


@pytest.mark.parametrize(
    ("state", "event", "after"),
    [(s, e, after) for s, row in EXPECTED_PROCESS.items() for e, after in zip(EVENTS, row, strict=True)],
)
def test_process(state: str, event: str, after: str | None) -> None:
    if after is None:
        with pytest.raises(LifecycleError, match=f"{event}.*{state}"):
            step(PROCESS, ProcessState(state), ProcessEvent(event))
    else:
        assert step(PROCESS, ProcessState(state), ProcessEvent(event)) == after


@pytest.mark.parametrize(
    ("state", "event", "after"),
    [(s, e, after) for s, row in EXPECTED_SERVICE.items() for e, after in zip(SERVICE_EVENTS, row, strict=True)],
)
def test_service(state: str, event: str, after: str | None) -> None:
    if after is None:
        with pytest.raises(LifecycleError):
            step(SERVICE, ServiceState(state), ServiceEvent(event))
    else:
        assert step(SERVICE, ServiceState(state), ServiceEvent(event)) == after


def test_only_a_process_that_is_not_alive_can_be_spawned() -> None:
    assert {s for s in ProcessState if ProcessEvent.SPAWNED in PROCESS[s]} == set(ProcessState) - ALIVE
