"""Everything of a policy that clients of xDS do not get. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pannier.sidecars.pilot.documents.policy import Policy, Unmapped
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.routes import route_configuration
from pannier.sidecars.resilience.config import EVERY


def unmapped(policy: Policy, services: Sequence[str] = ()) -> Sequence[Unmapped]:
    """What does not arrive of the policy, for these services, those that it names, and any other (`*`)."""
    names = dict.fromkeys([*services, *_named(policy), EVERY])
    found = dict.fromkeys(_nobodys(policy))
    found |= dict.fromkeys(route_configuration(policy, list(names), name="report")[1])
    for name in names:
        found |= dict.fromkeys(clusters(policy, name, subsets=list(policy.subsets(name)))[1])
    return sorted(found, key=lambda one: (one.where, one.what, one.clients))


def _named(policy: Policy) -> Sequence[str]:
    """The services that a policy has settings for, or leads to."""
    names: dict[str, None] = {}
    if policy.traffic is not None:
        names |= dict.fromkeys(policy.traffic.services)
        for route in policy.traffic.routes:
            names |= dict.fromkeys(target.partition("/")[0] for target in route.to)
    if policy.resilience is not None:
        names |= dict.fromkeys(name for name in policy.resilience.services if name != EVERY)
    return list(names)


def _nobodys(policy: Policy) -> Sequence[Unmapped]:
    """What is about the host that a caller is, or about requests from outside."""
    found = Findings()
    if policy.traffic is not None:
        if policy.traffic.zone is not None:
            found.add(("traffic", "zone"), "all of it", "each client says its own (Envoy in its `node.locality`)")
        for number, route in enumerate(policy.traffic.routes):
            if route.side == "inbound":
                why = "the pilot serves callers; requests from outside are the business of who is called"
                found.add(("traffic", "routes", number), "the whole route", why)
    if policy.resilience is not None:
        for field in ("rate_limit", "bulkhead", "shedding"):
            if getattr(policy.resilience.inbound, field) is not None:
                why = "the pilot serves callers; what others may ask is limited where they ask it"
                found.add(("resilience", "inbound", field), "all of it", why)
    return found.all()
