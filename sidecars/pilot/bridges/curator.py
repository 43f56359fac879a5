"""What Apache Curator's service discovery (and Spring Cloud's, on top of it) keeps in a ZooKeeper: BASE/NAME/ID, in
JSON. Pure.

Ours have no payload: that is of a class of the application's, and who expects one of another class, or none, fails at
the whole service. So whose a node is, and of which life, stands beside it: `MARKS`, the node's own path below it.

A mark is made empty, and then written in each transaction that makes or deletes its node. Hence a node is ours if its
mark was written as late as the node was made, or later; who has made a node anew since then is somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pannier.shared.instances import check_address
from pannier.shared.profile import Address
from pannier.sidecars.pilot.bridges.source import Found
from pannier.sidecars.pilot.registry.entries import Entry

MARKS: Final = "/pannier-bridge"
MAX_BYTES: Final = 64 * 1024
_METADATA: Final = 15
"""One less than an instance may have: where it comes from is added."""


class _Written(msgspec.Struct, frozen=True, rename="camel"):
    """As every version of Curator reads it."""

    name: str = ""
    id: str = ""
    address: str = ""
    port: int | None = None
    ssl_port: int | None = None
    payload: Any = None
    registration_time_utc: int = msgspec.field(default=0, name="registrationTimeUTC")
    service_type: str = "DYNAMIC"
    uri_spec: Any = None


class _Instance(_Written, frozen=True, rename="camel"):
    enabled: bool = True


class Mark(msgspec.Struct, frozen=True):
    """The life that we have written last of an instance, or ended."""

    epoch: int = 0


_INSTANCE: Final = msgspec.json.Decoder(_Instance)
_MARK: Final = msgspec.json.Decoder(Mark)


def read(data: bytes, incarnation: int) -> Found | None:
    """None: it is there and takes no calls. Raises ValueError for what is no instance with an address."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes")
    instance = _INSTANCE.decode(data)
    if not instance.enabled:
        return None
    payload = instance.payload if isinstance(instance.payload, dict) else {}
    port = instance.port or instance.ssl_port
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    address = check_address(msgspec.convert(f"{host}:{port}", Address))
    given = payload.get("metadata")
    return Found(address, _metadata(given if isinstance(given, dict) else payload), incarnation)


def write(service: str, name: str, entry: Entry, *, now_ms: int) -> bytes:
    """The node of one of ours. Raises ValueError for an address without a port."""
    host, _, port = entry.address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return msgspec.json.encode(_Written(service, name, host, int(port), registration_time_utc=now_ms))


def same(data: bytes, wished: bytes) -> bool:
    """Whether a node says the same, whenever it was registered."""
    return _timeless(data) == _timeless(wished)


def is_ours(mark: Any, node: Any) -> bool:
    """By the stats of a node and of its mark, read in this order; either may be None."""
    return mark is not None and mark.version > 0 and node is not None and bool(mark.mzxid >= node.czxid)


def read_mark(data: bytes) -> Mark:
    """What a mark says; nothing, if it says nothing that we understand."""
    try:
        return _MARK.decode(data)
    except msgspec.DecodeError:
        return Mark()


def write_mark(epoch: int) -> bytes:
    return msgspec.json.encode(Mark(epoch))


def _timeless(data: bytes) -> object:
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        found.pop("registrationTimeUTC", None)
    return found


def _metadata(given: Mapping[Any, Any]) -> dict[str, str]:
    """What of it an instance of ours may have: texts and numbers, not too long and not too many."""
    found: dict[str, str] = {}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float) or key.startswith("@"):
            continue
        if 1 <= len(key) <= 64 and len(str(value)) <= 256 and len(found) < _METADATA:
            found[key] = str(value)
    return found
