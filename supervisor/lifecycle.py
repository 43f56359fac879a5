"""The states of a process and of a whole service, as two tables of transitions.

Rules:
- A state is a word that `pannier ps` prints. Nothing else in the suite invents one.
- A pair that a table does not list cannot happen: `step` raises `LifecycleError`, a bug of ours and never a peer's.
- What to do about an exit is not decided here: the caller asks `restart.py` and reports its verdict as an event
  (`CRASHED`: a restart is planned; `GAVE_UP`: too many; `ENDED`: it stays down).

Refused: a class for each state (eight files for one table), and a state that carries data (the tree keeps the PID).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from pannier.shared.errors import PannierError


class ProcessState(StrEnum):
    PENDING = "pending"  # planned, never started
    STARTING = "starting"  # runs, has not said that it is ready
    READY = "ready"
    DRAINING = "draining"  # runs, takes no new work
    STOPPING = "stopping"  # told to end
    STOPPED = "stopped"  # ended, nobody will start it again by himself
    BACKOFF = "backoff"  # ended, a restart is planned
    FAILED = "failed"  # ended too often; tried again once a minute


class ProcessEvent(StrEnum):
    SPAWNED = "spawned"
    READY = "ready"
    DRAIN = "drain"
    STOP = "stop"
    CRASHED = "crashed"
    GAVE_UP = "gave_up"
    ENDED = "ended"


class ServiceState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"  # it was ready; now a part of it (the keeper counts) is not
    DRAINING = "draining"
    STOPPED = "stopped"


class ServiceEvent(StrEnum):
    WHOLE = "whole"  # every process is ready
    IMPAIRED = "impaired"  # at least one is not
    DRAIN = "drain"
    STOPPED = "stopped"


class LifecycleError(PannierError):
    """An event arrived in a state in which it cannot happen."""


_P, _E = ProcessState, ProcessEvent
_RUNNING_ENDS: Final = {_E.CRASHED: _P.BACKOFF, _E.GAVE_UP: _P.FAILED, _E.ENDED: _P.STOPPED}
_LEAVING_ENDS: Final = {_E.CRASHED: _P.STOPPED, _E.GAVE_UP: _P.STOPPED, _E.ENDED: _P.STOPPED}

# A spawn that fails (no such program) ends a process that never ran: hence CRASHED and its siblings in the states
# that have no PID. READY is idempotent, since a sidecar says it again whenever it reconnects.
PROCESS: Final[Mapping[ProcessState, Mapping[ProcessEvent, ProcessState]]] = {
    _P.PENDING: {_E.SPAWNED: _P.STARTING, _E.STOP: _P.STOPPED, **_RUNNING_ENDS},
    _P.STARTING: {_E.READY: _P.READY, _E.DRAIN: _P.DRAINING, _E.STOP: _P.STOPPING, **_RUNNING_ENDS},
    _P.READY: {_E.READY: _P.READY, _E.DRAIN: _P.DRAINING, _E.STOP: _P.STOPPING, **_RUNNING_ENDS},
    _P.DRAINING: {_E.READY: _P.DRAINING, _E.DRAIN: _P.DRAINING, _E.STOP: _P.STOPPING, **_LEAVING_ENDS},
    _P.STOPPING: {_E.READY: _P.STOPPING, _E.DRAIN: _P.STOPPING, _E.STOP: _P.STOPPING, **_LEAVING_ENDS},
    _P.STOPPED: {_E.SPAWNED: _P.STARTING, _E.STOP: _P.STOPPED, _E.DRAIN: _P.STOPPED},
    _P.BACKOFF: {_E.SPAWNED: _P.STARTING, _E.STOP: _P.STOPPED, _E.DRAIN: _P.BACKOFF, **_RUNNING_ENDS},
    _P.FAILED: {_E.SPAWNED: _P.STARTING, _E.STOP: _P.STOPPED, _E.DRAIN: _P.FAILED, **_RUNNING_ENDS},
}

_S, _V = ServiceState, ServiceEvent

SERVICE: Final[Mapping[ServiceState, Mapping[ServiceEvent, ServiceState]]] = {
    _S.STARTING: {_V.WHOLE: _S.READY, _V.IMPAIRED: _S.STARTING, _V.DRAIN: _S.DRAINING, _V.STOPPED: _S.STOPPED},
    _S.READY: {_V.WHOLE: _S.READY, _V.IMPAIRED: _S.DEGRADED, _V.DRAIN: _S.DRAINING, _V.STOPPED: _S.STOPPED},
    _S.DEGRADED: {_V.WHOLE: _S.READY, _V.IMPAIRED: _S.DEGRADED, _V.DRAIN: _S.DRAINING, _V.STOPPED: _S.STOPPED},
    _S.DRAINING: {_V.WHOLE: _S.DRAINING, _V.IMPAIRED: _S.DRAINING, _V.DRAIN: _S.DRAINING, _V.STOPPED: _S.STOPPED},
    _S.STOPPED: {_V.STOPPED: _S.STOPPED},
}

ALIVE: Final = frozenset({_P.STARTING, _P.READY, _P.DRAINING, _P.STOPPING})

_State = TypeVar("_State", ProcessState, ServiceState)
_Event = TypeVar("_Event", ProcessEvent, ServiceEvent)


def step(table: Mapping[_State, Mapping[_Event, _State]], state: _State, event: _Event) -> _State:
    """The state after `event`; raises `LifecycleError` for a pair that the table does not list."""
    try:
        return table[state][event]
    except KeyError:
        raise LifecycleError(f"{event.value!r} cannot happen in state {state.value!r}") from None
