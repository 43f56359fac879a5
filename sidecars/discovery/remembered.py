"""What a pilot has said, on the disk: for a host that starts while no pilot answers.

One file a service: a line with the SHA-256 of what follows, then msgpack. It is written beside the last one, flushed to
the disk and renamed, so there is always a whole one. What is torn, foreign or older than `OLD_SECONDS` is ignored: then
this host knows nobody, as at its first start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from pannier.shared.instances import State
from pannier.shared.leases import Registration
from pannier.sidecars.discovery.files import read_own, replace

OLD_SECONDS: Final = 7 * 86_400.0
SIZE_LIMIT: Final = 64 * 1024 * 1024
_FUTURE_SECONDS: Final = 2 * 3600.0


class _Instance(msgspec.Struct, frozen=True, array_like=True):
    service: str
    id: str
    address: str
    epoch: int
    state: State
    metadata: dict[str, str]


class _Content(msgspec.Struct, frozen=True):
    written_ms: int
    instances: Sequence[_Instance]


def encode(registrations: Sequence[Registration], wall: float) -> bytes:
    """The content of the file, written at that time (s since the epoch of the clock)."""
    rows = [_Instance(r.service, r.id, r.address, r.epoch, r.state, dict(r.metadata)) for r in registrations]
    body = msgspec.msgpack.encode(_Content(round(wall * 1000), rows))
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes, wall: float) -> Sequence[Registration]:
    """What it says. Raises ValueError with the reason if it is not to be believed."""
    checksum, _, body = data.partition(b"\n")
    if checksum != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("it is torn: its checksum does not fit")
    try:
        content = msgspec.msgpack.decode(body, type=_Content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"another version wrote it: {error}") from error
    age = wall - content.written_ms / 1000
    if not -_FUTURE_SECONDS < age < OLD_SECONDS:
        raise ValueError(f"it is {age / 86_400:.1f} days old")
    return [
        Registration(row.service, row.id, row.address, row.epoch, 0.0, row.state, row.metadata, "pilot")
        for row in content.instances
    ]


def read(path: Path, wall: float) -> Sequence[Registration]:
    """What the file says; nobody if there is none. Raises ValueError, OSError."""
    try:
        data = read_own(path, limit=SIZE_LIMIT)
    except FileNotFoundError:
        return ()
    return decode(data, wall)


def write(path: Path, data: bytes) -> None:
    """Puts it in place of the last one, on the disk. Blocks. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(path, data, durable=True)
