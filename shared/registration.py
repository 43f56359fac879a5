"""What is said over HTTP to register an instance, and what of it is refused: to the own sidecar on `api.sock`, and to
the pilot. Errors are ValueError and msgspec's, with a text for whoever has sent it.

    PUT    /v1/instances/{service}/{id}   {"address", "port", "ttl", "epoch", "metadata", "state"}
    POST   /v1/instances/{service}/{id}/drain    {"epoch"}
    DELETE /v1/instances/{service}/{id}   {"epoch"}, or ?epoch=N
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta
from pannier.shared.duration import milliseconds
from pannier.shared.http_server import Request, Response, error_response
from pannier.shared.instances import INSTANCE_PATTERN, SERVICE_PATTERN, Key, State, check_address
from pannier.shared.profile import Address, Metadata

TTL_SECONDS = (1.0, 3600.0)
EPOCH_MAX = (1 << 63) - 1

_Epoch = Annotated[int, Meta(ge=1, le=EPOCH_MAX)]
_Host = Annotated[str, Meta(min_length=1, max_length=255)]


class Registering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT. `address` is a host beside `port`, else `host:port` or `unix:/path`. Who says no `state`
    stands where he stood in this life, or is UP."""

    address: _Host
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    ttl: str | float | None = None
    epoch: _Epoch | None = None
    metadata: Metadata = {}
    state: State | None = None


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


class Drained(msgspec.Struct, frozen=True):
    """Answer to a drain."""

    service: str
    id: str
    epoch: int
    state: State


class Removed(msgspec.Struct, frozen=True):
    """Answer to DELETE."""

    service: str
    id: str
    removed: bool


_REGISTERING = msgspec.json.Decoder(Registering)
_LEAVING = msgspec.json.Decoder(Leaving)


def registering(request: Request) -> Registering:
    """Reads a PUT."""
    return _REGISTERING.decode(request.body)


def leaving(request: Request) -> Leaving:
    """Reads a DELETE, or a drain."""
    if request.body and request.query:
        raise ValueError("the epoch comes in the body or in the query, not in both")
    if request.body:
        return _LEAVING.decode(request.body)
    query = {name: values[0] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
    return msgspec.convert(query, Leaving, strict=False)


def draining(request: Request) -> int:
    """Reads a drain: the epoch of the life that is meant."""
    epoch = leaving(request).epoch
    if epoch is None:
        raise ValueError('which life drains? send its epoch, such as {"epoch": 1}')
    return epoch


def key_of(service: str, instance: str) -> Key:
    """The instance that a path names."""
    if re.match(SERVICE_PATTERN, service) is None:
        raise ValueError(f"{service[:80]!r} is no service name: use up to 63 of a-z, 0-9, '-', '.' and '_'")
    if re.match(INSTANCE_PATTERN, instance) is None:
        raise ValueError(f"{instance[:80]!r} is no instance id: use up to 128 letters, digits, '.', '_' and '-'")
    return (service, instance)


def address_of(body: Registering) -> str:
    """The address in one piece."""
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


def ttl_of(ttl: str | float) -> float:
    """Seconds."""
    length = milliseconds(ttl) / 1000 if isinstance(ttl, str) else float(ttl)
    if not TTL_SECONDS[0] <= length <= TTL_SECONDS[1]:
        raise ValueError(f"a ttl of {length:g} s is outside {TTL_SECONDS[0]:g} to {TTL_SECONDS[1]:g} s")
    return length


def not_allowed(allowed: str) -> Response:
    """405, and what is allowed."""
    return error_response(405, f"only {allowed} here", headers=(("allow", allowed),))


def not_understood(request: Request, error: msgspec.DecodeError) -> Response:
    """400 for a body that cannot be read, with one that could."""
    wrong = "does not fit" if isinstance(error, msgspec.ValidationError) else "is no JSON"
    body = '{"address": "127.0.0.1", "port": 8080}' if request.method == "PUT" else '{"epoch": 1}, or ?epoch=1'
    return error_response(400, f"what was sent {wrong}: {error}", hint=f"send such as {body}")
