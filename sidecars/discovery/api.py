"""The local HTTP interface on `api.sock`: register, deregister, look around.

    PUT    /v1/instances/{service}/{id}   {"address", "port", "ttl", "epoch", "metadata"}
    DELETE /v1/instances/{service}/{id}   {"epoch"}, or ?epoch=N
    GET    /v1/services[/{service}]

Whoever asks for a service that is not known makes it followed, where there is a pilot.

`ttl` is a duration ("10s") or a number of seconds. Without `epoch` the server gives one: the epoch in force renews, a
new instance or address gets the next. Every answer to PUT says the epoch and when to renew; 409 says which epoch would
be accepted. Only the socket's owner gets this far (mode 0600), so there is no token.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import msgspec
from pannier.shared.http_server import Request, Response, error_response, json_response
from pannier.shared.instances import SERVICE_PATTERN, Key
from pannier.shared.leases import Leases, Registration, Verdict
from pannier.shared.messages import Cluster, Services
from pannier.shared.registration import (
    Leaving,
    Registered,
    Registering,
    Removed,
    address_of,
    key_of,
    leaving,
    not_allowed,
    not_understood,
    registering,
    ttl_of,
)


class Api:
    """Answers requests from `leases` and `services`; calls `changed` when what is published may differ."""

    def __init__(
        self,
        leases: Leases,
        services: Callable[[], Services],
        *,
        changed: Callable[[], None],
        clock: Callable[[], float],
        ttl: float,
        follow: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._leases = leases
        self._services = services
        self._changed = changed
        self._clock = clock
        self._ttl = ttl
        self._follow = follow

    async def handle(self, request: Request) -> Response:
        """The answer to one request; never raises for anything that a peer sends."""
        match request.segments:
            case ("v1", "services"):
                return self._look(request, None)
            case ("v1", "services", name):
                if self._follow is not None and re.match(SERVICE_PATTERN, name) and not self._find(name):
                    await self._follow(name)
                return self._look(request, name)
            case ("v1", "instances", service, instance):
                return self._instance(request, service, instance)
            case _:
                return error_response(
                    404,
                    f"there is no {request.path[:80]}",
                    hint="known: /v1/services, /v1/services/{service}, /v1/instances/{service}/{id}",
                )

    def _look(self, request: Request, name: str | None) -> Response:
        if request.method not in ("GET", "HEAD"):
            return not_allowed("GET, HEAD")
        if name is None:
            return json_response(self._services())
        found = self._find(name)
        return json_response(found) if found else error_response(404, f"no service {name[:80]!r} is known")

    def _find(self, name: str) -> Cluster | None:
        return next((cluster for cluster in self._services().clusters if cluster.name == name), None)

    def _instance(self, request: Request, service: str, instance: str) -> Response:
        if request.method not in ("PUT", "DELETE"):
            return not_allowed("PUT, DELETE")
        kind = request.header("content-type", "application/json").partition(";")[0].strip().lower()
        if request.body and kind != "application/json":
            return error_response(415, f"the body is {kind[:80]}", hint="send application/json")
        try:
            key = key_of(service, instance)
            if request.method == "PUT":
                return self._register(key, registering(request))
            return self._deregister(key, leaving(request))
        except msgspec.DecodeError as error:
            return not_understood(request, error)
        except ValueError as error:
            return error_response(400, str(error))

    def _register(self, key: Key, body: Registering) -> Response:
        address = address_of(body)
        ttl = self._ttl if body.ttl is None else ttl_of(body.ttl)
        held = self._leases.get(key)
        epoch = body.epoch
        if epoch is None:
            renews = held is not None and held.registration.address == address
            epoch = held.registration.epoch if held is not None and renews else self._leases.next_epoch(key)
        registration = Registration(*key, address, epoch, ttl, metadata=body.metadata)
        verdict = self._leases.register(registration, self._clock())
        if verdict is Verdict.STALE:
            return self._stale(key, epoch)
        if verdict is Verdict.FULL:
            return error_response(503, f"no room: {len(self._leases)} instances are registered")
        if verdict.changes:
            self._changed()
        answer = Registered(*key, address, epoch, ttl, ttl / 3)
        return json_response(answer, status=201 if verdict is Verdict.CREATED else 200)

    def _deregister(self, key: Key, body: Leaving) -> Response:
        verdict = self._leases.deregister(key, body.epoch)
        if verdict is Verdict.STALE:
            return self._stale(key, body.epoch or 0)
        if verdict is Verdict.UNKNOWN:
            return error_response(404, f"no instance {key[1]!r} of {key[0]!r} is registered")
        self._changed()
        return json_response(Removed(*key, True))

    def _stale(self, key: Key, epoch: int) -> Response:
        held = self._leases.get(key)
        owner = f"; epoch {held.registration.epoch} at {held.registration.address} is in force" if held else ""
        return error_response(
            409,
            f"epoch {epoch} of {key[0]}/{key[1]} is stale{owner}",
            hint=f"a new incarnation registers with epoch {self._leases.next_epoch(key)} or greater",
        )
