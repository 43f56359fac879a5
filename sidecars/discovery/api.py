"""The local HTTP interface on `api.sock`: register, deregister, look around.

    PUT    /v1/instances/{service}/{id}   {"address", "port", "ttl", "epoch", "metadata"}
    DELETE /v1/instances/{service}/{id}   {"epoch"}, or ?epoch=N
    GET    /v1/services[/{service}]

`ttl` is a duration ("10s") or a number of seconds. Without `epoch` the server gives one: the epoch in force renews, a
new instance or address gets the next. Every answer to PUT says the epoch and when to renew; 409 says which epoch would
be accepted. Only the socket's owner gets this far (mode 0600), so there is no token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta
from pannier.shared.duration import milliseconds
from pannier.shared.http_server import Request, Response, error_response, json_response
from pannier.shared.instances import INSTANCE_PATTERN, SERVICE_PATTERN, Key, check_address
from pannier.shared.messages import Services
from pannier.shared.profile import Address, Metadata
from pannier.sidecars.discovery.leases import Leases, Registration, Verdict

TTL_SECONDS = (1.0, 3600.0)
EPOCH_MAX = (1 << 63) - 1

_Epoch = Annotated[int, Meta(ge=1, le=EPOCH_MAX)]
_Host = Annotated[str, Meta(min_length=1, max_length=255)]


class Registering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT. `address` is a host beside `port`, else `host:port` or `unix:/path`."""

    address: _Host
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    ttl: str | float | None = None
    epoch: _Epoch | None = None
    metadata: Metadata = {}


class Leaving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of DELETE."""

    epoch: _Epoch | None = None


class Registered(msgspec.Struct, frozen=True):
    """Answer to PUT: the epoch in force, and the seconds within which to renew."""

    service: str
    id: str
    address: str
    epoch: int
    ttl_s: float
    renew_s: float


class Removed(msgspec.Struct, frozen=True):
    """Answer to DELETE."""

    service: str
    id: str
    removed: bool


_REGISTERING = msgspec.json.Decoder(Registering)
_LEAVING = msgspec.json.Decoder(Leaving)


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
    ) -> None:
        self._leases = leases
        self._services = services
        self._changed = changed
        self._clock = clock
        self._ttl = ttl

    async def handle(self, request: Request) -> Response:
        """The answer to one request; never raises for anything that a peer sends."""
        match request.segments:
            case ("v1", "services"):
                return self._look(request, None)
            case ("v1", "services", name):
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
            return _not_allowed("GET, HEAD")
        services = self._services()
        if name is None:
            return json_response(services)
        found = next((cluster for cluster in services.clusters if cluster.name == name), None)
        return json_response(found) if found else error_response(404, f"no service {name[:80]!r} is known")

    def _instance(self, request: Request, service: str, instance: str) -> Response:
        if request.method not in ("PUT", "DELETE"):
            return _not_allowed("PUT, DELETE")
        kind = request.header("content-type", "application/json").partition(";")[0].strip().lower()
        if request.body and kind != "application/json":
            return error_response(415, f"the body is {kind[:80]}", hint="send application/json")
        try:
            key = _key(service, instance)
            if request.method == "PUT":
                return self._register(key, _REGISTERING.decode(request.body))
            return self._deregister(key, _leaving(request))
        except msgspec.DecodeError as error:
            return _not_understood(request, error)
        except ValueError as error:
            return error_response(400, str(error))

    def _register(self, key: Key, body: Registering) -> Response:
        address = _address(body)
        ttl = self._ttl if body.ttl is None else _ttl(body.ttl)
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


def _not_allowed(allowed: str) -> Response:
    return error_response(405, f"only {allowed} here", headers=(("allow", allowed),))


def _not_understood(request: Request, error: msgspec.DecodeError) -> Response:
    wrong = "does not fit" if isinstance(error, msgspec.ValidationError) else "is no JSON"
    body = '{"address": "127.0.0.1", "port": 8080}' if request.method == "PUT" else '{"epoch": 1}, or ?epoch=1'
    return error_response(400, f"what was sent {wrong}: {error}", hint=f"send such as {body}")


def _key(service: str, instance: str) -> Key:
    if re.match(SERVICE_PATTERN, service) is None:
        raise ValueError(f"{service[:80]!r} is no service name: use up to 63 of a-z, 0-9, '-', '.' and '_'")
    if re.match(INSTANCE_PATTERN, instance) is None:
        raise ValueError(f"{instance[:80]!r} is no instance id: use up to 128 letters, digits, '.', '_' and '-'")
    return (service, instance)


def _leaving(request: Request) -> Leaving:
    if request.body and request.query:
        raise ValueError("the epoch comes in the body or in the query, not in both")
    if request.body:
        return _LEAVING.decode(request.body)
    query = {name: values[0] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
    return msgspec.convert(query, Leaving, strict=False)


def _address(body: Registering) -> str:
    address = body.address
    if body.port is not None:
        address = (
            f"[{address}]:{body.port}" if ":" in address and not address.startswith("[") else f"{address}:{body.port}"
        )
    try:
        return check_address(msgspec.convert(address, Address))
    except msgspec.ValidationError:
        raise ValueError(
            f'{address!r} is no address: send "address": "127.0.0.1" with "port": 8080, or "unix:/path" without a port'
        ) from None


def _ttl(ttl: str | float) -> float:
    length = milliseconds(ttl) / 1000 if isinstance(ttl, str) else float(ttl)
    if not TTL_SECONDS[0] <= length <= TTL_SECONDS[1]:
        raise ValueError(f"a ttl of {length:g} s is outside {TTL_SECONDS[0]:g} to {TTL_SECONDS[1]:g} s")
    return length
