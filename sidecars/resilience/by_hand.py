"""What an operator means by a service and an endpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pannier.shared.errors import UsageError
from pannier.shared.explain import near_match
from pannier.sidecars.resilience.inventory import Inventory, Member, Place

SHOWN = 10


def meant(members: Inventory, circuits: Mapping[str, Place], service: str, endpoint: str | None) -> list[Member]:
    """The endpoint of that address; without one all endpoints of the service, and the service as a whole.

    Raises UsageError if there is no such service or endpoint.
    """
    known = members.get(service)
    if known is None:
        raise UsageError(f"no service {service[:64]} is called from here", hint=_choice(service, list(members)))
    if endpoint is None:
        whole = [Member(service, "", circuits[service])] if service in circuits else []
        return [*known, *whole]
    found = [member for member in known if member.address == endpoint]
    if not found:
        addresses = [member.address for member in known]
        raise UsageError(f"{service} has no endpoint {endpoint[:64]}", hint=_choice(endpoint, addresses))
    return found


def _choice(said: str, known: list[str]) -> str:
    if near := near_match(said, known):
        return f"did you mean {near}?"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"there are: {', '.join(sorted(known)[:SHOWN])}{more}" if known else "there are none"
