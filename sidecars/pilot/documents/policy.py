"""How the services of a stage are called: what the pilot serves to clients that have no sidecar of ours.

The words are those of a profile: the parts of the traffic and resilience sidecars, and of the proxy what matters to
callers. They are mapped to the words of xDS (`xds/routes.py`, `xds/clusters.py`), for Envoy and for gRPC at once. What
a client does not get of them is listed (`Unmapped`); nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct
from pannier.shared.duration import Duration
from pannier.sidecars.resilience.config import Config as Resilience
from pannier.sidecars.resilience.config import Service as Limits
from pannier.sidecars.traffic.config import Config as Traffic
from pannier.sidecars.traffic.config import Service

Client: TypeAlias = Literal["envoy", "grpc"]
Clients: TypeAlias = Literal["envoy", "grpc", "both"]
PLAIN = Service()


class Unmapped(Struct, frozen=True, omit_defaults=True):
    """What of a policy does not reach a kind of clients: where it is said, what of it is missing there, and why."""

    where: str
    what: str
    why: str
    clients: Clients


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """Those of a profile's `proxy.timeouts` that callers notice; `0s` = off. A `request` that is not given is what the
    client has by itself: 15 s with Envoy, and with gRPC as long as the caller says, since its streams may last."""

    connect: Duration = "1s"
    request: Duration | None = None


class Proxy(Struct, frozen=True, forbid_unknown_fields=True):
    """What holds where neither a route nor a service says otherwise, as in a profile's `proxy`."""

    balance: Literal["p2c_ewma", "round_robin"] = "p2c_ewma"
    timeouts: Timeouts = Timeouts()


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """The policy of a stage. A part that is absent does nothing, as a sidecar that is not there."""

    traffic: Traffic | None = None
    resilience: Resilience | None = None
    proxy: Proxy = Proxy()

    def service(self, name: str) -> Service:
        """How traffic wants a service to be called."""
        return PLAIN if self.traffic is None else self.traffic.services.get(name, PLAIN)

    def limits(self, name: str) -> Limits | None:
        """What resilience says of calls to a service; None without resilience."""
        return None if self.resilience is None else self.resilience.service(name)

    def subsets(self, name: str) -> Mapping[str, Mapping[str, str]]:
        """The subsets of a service: the metadata that an instance has all of, by the subset's name."""
        return self.service(name).subsets
