"""What could not be mapped, gathered while it is mapped, each thing once."""

from __future__ import annotations

from collections.abc import Sequence

from pannier.shared.explain import dotted
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.documents.policy import Clients, Policy, Unmapped


class Findings:
    """In the order in which they were met."""

    def __init__(self) -> None:
        self._found: dict[Unmapped, None] = {}

    def add(self, where: Path, what: str, why: str, clients: Clients = "both") -> None:
        """Notes that `what` of the setting at `where` does not reach those clients."""
        self._found[Unmapped(dotted(where), what, why, clients)] = None

    def all(self) -> Sequence[Unmapped]:
        """Everything that was noted."""
        return list(self._found)


def traffic_of(policy: Policy, service: str) -> Path:
    """Where traffic says how a service is called; `*` is the default."""
    known = policy.traffic is not None and service in policy.traffic.services
    return ("traffic", "services", service if known else "*")


def limits_of(policy: Policy, service: str) -> Path:
    """Where resilience says what holds for calls to a service; `*` is every other one."""
    known = policy.resilience is not None and service in policy.resilience.services
    return ("resilience", "services", service if known else "*")
