"""The local HTTP interface on `api.sock`: register, deregister, look around.

    PUT    /v1/instances/{service}/{id}          {"address", "port", "ttl", "epoch", "metadata", "state"}
    POST   /v1/instances/{service}/{id}/drain    {"epoch"}
    DELETE /v1/instances/{service}/{id}          {"epoch"}, or ?epoch=N
    GET    /v1/services[/{service}]
    GET    /v1/config[?after=VERSION&wait=30s]
    GET    /v1/endpoints
    GET    /v1/sources

A configuration is answered at once, or as soon as its version is not `after`, or when `wait` is over.
Whoever asks for a service that is not known makes it followed, where there is a pilot.

`ttl` is a duration ("10s") or a number of seconds. Without `epoch` the server gives one: the epoch in force renews, a
new instance or address gets the next. Every answer to PUT says the epoch and when to renew; 409 says which epoch would
be accepted. Only the socket's owner gets this far (mode 0600), so there is no token.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec
from pannier.shared.duration import milliseconds
from pannier.shared.endpoints import Endpoints, Sources
from pannier.shared.http_server import Request, Response, error_response, json_response
from pannier.shared.instances import SERVICE_PATTERN, Key, State
from pannier.shared.leases import Leases, Registration, Verdict
from pannier.shared.messages import Cluster, Services
from pannier.shared.registration import (
    Drained,
    Registered,
    Removed,
    address_of,
    draining,
    key_of,
    leaving,
    not_allowed,
    not_understood,
    registering,
    ttl_of,
)

if TYPE_CHECKING:
    from pannier.sidecars.discovery.configuration import Configuration

MAX_WAIT_SECONDS: Final = 60.0


class Api:
    """Answers requests from `leases` and `services`; calls `changed` when what is published may differ, and `touched`
    for whoever has said anything of himself."""

    def __init__(
        self,
        leases: Leases,
        services: Callable[[], Services],
        *,
        endpoints: Callable[[], Endpoints],
        sources: Callable[[], Sources],
        changed: Callable[[], None],
        touched: Callable[[Key], None],
        clock: Callable[[], float],
        ttl: float,
        follow: Callable[[str], Awaitable[None]] | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self._leases = leases
        self._services = services
        self._endpoints = endpoints
        self._sources = sources
        self._changed = changed
        self._touched = touched
        self._clock = clock
        self._ttl = ttl
        self._follow = follow
        self._configuration = configuration

    async def handle(self, request: Request) -> Response:
        """The answer to one request; never raises for anything that a peer sends."""
        match request.segments:
            case ("v1", "instances", service, instance):
                return self._instance(request, service, instance, {"PUT": self._register, "DELETE": self._deregister})
            case ("v1", "instances", service, instance, "drain"):
                return self._instance(request, service, instance, {"POST": self._drain})
            case ("v1", "services" | "config" | "endpoints" | "sources", *more) if len(more) <= 1:
                if request.method not in ("GET", "HEAD"):
                    return not_allowed("GET, HEAD")
        return await self._read(request)

    async def _read(self, request: Request) -> Response:
        body: object = None
        match request.segments:
            case ("v1", "services"):
                body = self._services()
            case ("v1", "services", name):
                return await self._service(name)
            case ("v1", "endpoints"):
                body = self._endpoints()
            case ("v1", "sources"):
                body = self._sources()
            case ("v1", "config") if self._configuration is not None:
                return await self._configured(request, self._configuration)
        if body is None:
            return error_response(
                404,
                f"there is no {request.path[:80]}",
                hint="known: /v1/services[/{service}], /v1/endpoints, /v1/sources, "
                "/v1/instances/{service}/{id}[/drain]; with a pilot, /v1/config",
            )
        return json_response(body)

    async def _service(self, name: str) -> Response:
        if self._follow is not None and re.match(SERVICE_PATTERN, name):
            await self._follow(name)
        found = self._find(name)
        return json_response(found) if found else error_response(404, f"no service {name[:80]!r} is known")

    async def _configured(self, request: Request, configuration: Configuration) -> Response:
        asked = dict(parse_qsl(request.query))
        try:
            after = int(asked["after"]) if "after" in asked else None
            wait = milliseconds(asked.get("wait", "30s")) / 1000
        except ValueError as error:
            return error_response(400, str(error), hint="such as ?after=3&wait=30s")
        if after is None:
            return json_response(configuration.held)
        return json_response(await configuration.changed(after, wait=min(wait, MAX_WAIT_SECONDS)))

    def _find(self, name: str) -> Cluster | None:
        return next((cluster for cluster in self._services().clusters if cluster.name == name), None)

    def _instance(
        self,
        request: Request,
        service: str,
        instance: str,
        verbs: Mapping[str, Callable[[Key, Request], Response]],
    ) -> Response:
        if request.method not in verbs:
            return not_allowed(", ".join(verbs))
        kind = request.header("content-type", "application/json").partition(";")[0].strip().lower()
        if request.body and kind != "application/json":
            return error_response(415, f"the body is {kind[:80]}", hint="send application/json")
        try:
            return verbs[request.method](key_of(service, instance), request)
        except msgspec.DecodeError as error:
            return not_understood(request, error)
        except ValueError as error:
            return error_response(400, str(error))

    def _register(self, key: Key, request: Request) -> Response:
        body = registering(request)
        address = address_of(body)
        ttl = self._ttl if body.ttl is None else ttl_of(body.ttl)
        held = self._leases.get(key)
        epoch = body.epoch
        if epoch is None:
            renews = held is not None and held.registration.address == address
            epoch = held.registration.epoch if held is not None and renews else self._leases.next_epoch(key)
        stood = held.registration.state if held is not None and held.registration.epoch == epoch else State.UP
        registration = Registration(*key, address, epoch, ttl, body.state or stood, body.metadata)
        verdict = self._leases.register(registration, self._clock())
        if verdict is Verdict.STALE:
            return self._stale(key, epoch)
        if verdict is Verdict.FULL:
            return error_response(503, f"no room: {len(self._leases)} instances are registered")
        if verdict.changes:
            self._changed()
        self._touched(key)
        answer = Registered(*key, address, epoch, ttl, ttl / 3)
        return json_response(answer, status=201 if verdict is Verdict.CREATED else 200)

    def _drain(self, key: Key, request: Request) -> Response:
        epoch, held = draining(request), self._leases.get(key)
        if held is None or epoch > held.registration.epoch:
            return error_response(404, f"no instance {key[1]!r} of {key[0]!r} is registered with epoch {epoch}")
        if epoch < held.registration.epoch:
            return self._stale(key, epoch)
        if self._leases.register(replace(held.registration, state=State.DRAINING), self._clock()).changes:
            self._changed()
        self._touched(key)
        return json_response(Drained(*key, epoch, State.DRAINING))

    def _deregister(self, key: Key, request: Request) -> Response:
        body = leaving(request)
        verdict = self._leases.deregister(key, body.epoch)
        if verdict is Verdict.STALE:
            return self._stale(key, body.epoch or 0)
        if verdict is Verdict.UNKNOWN:
            return error_response(404, f"no instance {key[1]!r} of {key[0]!r} is registered")
        self._changed()
        self._touched(key)
        return json_response(Removed(*key, True))

    def _stale(self, key: Key, epoch: int) -> Response:
        held = self._leases.get(key)
        owner = f"; epoch {held.registration.epoch} at {held.registration.address} is in force" if held else ""
        return error_response(
            409,
            f"epoch {epoch} of {key[0]}/{key[1]} is stale{owner}",
            hint=f"a new incarnation registers with epoch {self._leases.next_epoch(key)} or greater",
        )
