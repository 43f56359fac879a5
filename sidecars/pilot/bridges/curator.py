"""What Apache Curator's service discovery (and Spring Cloud's, on top of it) keeps in a ZooKeeper: BASE/NAME/ID, in
JSON. Pure.

Ours say so in their payload, `{"pannier": {"epoch": N}, "metadata": {...}}`: they are never read back, and the epoch is
what an older life is told apart by. `metadata` is where Spring has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pannier.shared.instances import check_address
from pannier.shared.profile import Address
from pannier.sidecars.pilot.bridges.source import Found
from pannier.sidecars.pilot.entries import Entry

MAX_BYTES: Final = 64 * 1024
_METADATA: Final = 15
"""One less than an instance may have: where it comes from is added."""


class _Instance(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    id: str = ""
    address: str = ""
    port: int | None = None
    ssl_port: int | None = None
    payload: Any = None
    registration_time_utc: int = msgspec.field(default=0, name="registrationTimeUTC")
    service_type: str = "DYNAMIC"
    uri_spec: Any = None
    enabled: bool = True


_INSTANCE: Final = msgspec.json.Decoder(_Instance)


class Node(msgspec.Struct, frozen=True):
    """A node that was read. `found` is None for one of ours, whose life is `epoch`, and for one that is not enabled."""

    found: Found | None
    epoch: int = 0

    @property
    def ours(self) -> bool:
        return self.epoch > 0


def read(data: bytes, incarnation: int) -> Node:
    """Raises ValueError for what is no instance with an address."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes")
    instance = _INSTANCE.decode(data)
    payload = instance.payload if isinstance(instance.payload, dict) else {}
    mark = payload.get("pannier")
    if isinstance(mark, dict) and isinstance(mark.get("epoch"), int):
        return Node(None, max(1, mark["epoch"]))
    if not instance.enabled:
        return Node(None)
    port = instance.port or instance.ssl_port
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    address = check_address(msgspec.convert(f"{host}:{port}", Address))
    given = payload.get("metadata")
    return Node(Found(address, _metadata(given if isinstance(given, dict) else payload), incarnation))


def write(service: str, name: str, entry: Entry, *, now_ms: int) -> bytes:
    """The node of one of ours. Raises ValueError for an address without a port."""
    host, colon, port = entry.address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{entry.address!r} has no port")
    payload = {"pannier": {"epoch": entry.epoch}, "metadata": dict(entry.metadata)}
    host = host.removeprefix("[").removesuffix("]")
    return msgspec.json.encode(_Instance(service, name, host, int(port), payload=payload, registration_time_utc=now_ms))


def _metadata(given: Mapping[Any, Any]) -> dict[str, str]:
    """What of it an instance of ours may have: texts and numbers, not too long and not too many."""
    found: dict[str, str] = {}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float) or key.startswith("@"):
            continue
        if 1 <= len(key) <= 64 and len(str(value)) <= 256 and len(found) < _METADATA:
            found[key] = str(value)
    return found
