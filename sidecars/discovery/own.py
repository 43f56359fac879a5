"""What this sidecar announces about the instance that it runs beside. Pure: lifecycle and checks in, state out.

Rules: announced for the first time when the service is ready; DRAINING as soon as the service drains, before any
listener closes; DOWN while the app is not ready or its check fails. A supervisor that starts anew says `starting` about
a service that has been serving all the time: what was announced stays.
"""

from __future__ import annotations

import socket

from pannier.shared.instances import State, default_id
from pannier.shared.messages import Lifecycle
from pannier.sidecars.discovery.config import Instance
from pannier.sidecars.discovery.health import Condition, Health

_SERVING = frozenset({"ready", "degraded"})
_LEAVING = frozenset({"draining", "stopped"})
_OF_CHECK = {Condition.UNKNOWN: State.STARTING, Condition.UP: State.UP, Condition.DOWN: State.DOWN}


def own_state(announced: State | None, lifecycle: Lifecycle | None, health: Health | None) -> State | None:
    """The state to announce now; None is nothing. `health` is that of the app's check, None if it has none."""
    if lifecycle is None:
        return announced
    if lifecycle.state in _LEAVING:
        return announced and State.DRAINING
    if lifecycle.state not in _SERVING:
        return announced
    if any(process.kind == "app" and not process.ready for process in lifecycle.processes):
        return announced and State.DOWN
    return State.UP if health is None else _OF_CHECK[health.condition]


def is_leaving(lifecycle: Lifecycle | None) -> bool:
    """Whether the whole service ends, and not this sidecar alone."""
    return lifecycle is not None and lifecycle.state in _LEAVING


def instance_id(instance: Instance, service: str, hostname: str | None = None) -> str:
    """The configured id, else `<hostname>-<port>`; a Unix address has no port, so the service's name stands for it."""
    if instance.id is not None:
        return instance.id
    return default_id(socket.gethostname() if hostname is None else hostname, instance.address or "", service)
