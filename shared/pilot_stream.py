"""What discovery sidecars and the pilot say to one another: one connection a host, both ways, a change as it comes.

The connection begins as HTTP/1.1, `GET /v1/stream` with `Upgrade: pannier-pilot`; after 101 both sides send frames, a
big-endian u32 length and that many bytes of msgpack. Rules:

- Who follows a service is told all of it once, then what changes: a change costs what has changed.
- Nothing depends on the connection: a registration is a lease with an epoch, here as over HTTP, and outlives it.
- Answers come in the order of what was asked. Who has nothing to say says `Ping`, and hears `Pong`.
- A field that is not known is passed over, so that either side may be the newer one; a message that is not known ends
  the connection.

Bodies are typed when they are read, and bounded by the length of a frame. Refused: gRPC for this (HTTP/2 and protobuf
in each sidecar are 10 MB beside each service), and the frames of the bus, whose reader walks every byte in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta
from pannier.shared.instances import STAGE_PATTERN, InstanceId, ServiceName, State
from pannier.shared.profile import Address, Metadata

PATH: Final = "/v1/stream"
UPGRADE: Final = "pannier-pilot"
PING_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 15.0
"""Who has not been heard of for so long is not there any more."""
MAX_ASKED: Final = 256 * 1024
MAX_NAMES: Final = 500
"""Of services or instances in one message, so that it fits into a frame."""
MAX_TOLD: Final = 64 * 1024 * 1024
"""Bytes of a frame to the pilot, and from it: a service of 100 000 instances is one."""

T = TypeVar("T")

_PREFIX = struct.Struct(">I")
_Epoch = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Revision = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_TtlMs = Annotated[int, Meta(ge=1000, le=3_600_000)]
_Name = Annotated[str, Meta(pattern=r"^(\*|[a-z0-9][a-z0-9._-]{0,62})$(?!\n)")]


class Instance(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance as it is told. `suspect`: its renewals are missed, and it is kept by the rules of `leases.py`.
    `detour`: it is another one by way of a Central (`detours.py`), which its metadata says, too."""

    service: str
    id: str
    address: str
    state: State
    epoch: int
    revision: int
    metadata: dict[str, str] = {}
    suspect: bool = False
    detour: bool = False


class Gone(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance that is no more. `final`: it has said so itself, or somebody has; else it was given up."""

    id: str
    epoch: int
    final: bool = False


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """From now on, tell of these services; to each the revision up to which it is known already, 0 if it is not."""

    services: Annotated[dict[_Name, _Revision], Meta(max_length=MAX_NAMES)]


class FollowConfiguration(msgspec.Struct, frozen=True, tag="follow-configuration"):
    """From now on, tell of the configuration of a service on a stage; `version` is the one that is known, 0 if none."""

    stage: Annotated[str, Meta(pattern=STAGE_PATTERN)]
    service: ServiceName
    version: _Revision = 0


class About(msgspec.Struct, frozen=True, tag="about"):
    """What has become of these instances of a service? The answer is a `Found`."""

    service: ServiceName
    ids: Annotated[list[InstanceId], Meta(max_length=MAX_NAMES)]


class Register(msgspec.Struct, frozen=True, omit_defaults=True, tag="register"):
    """A life says that it is there, for the first time or again; `epoch` 0 is given one."""

    n: int
    service: ServiceName
    id: InstanceId
    address: Address
    ttl_ms: _TtlMs
    epoch: _Epoch = 0
    state: State | None = None
    metadata: Metadata = {}


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A life says that it ends."""

    n: int
    service: ServiceName
    id: InstanceId
    epoch: _Epoch


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Is anybody there?"""


class Told(msgspec.Struct, frozen=True, omit_defaults=True, tag="told"):
    """All of a service, as it is at a revision, which is that of its own last change. `anew`: the pilot's store was set
    back, and what was known of revisions counts no more."""

    service: str
    revision: int
    instances: Sequence[Instance]
    anew: bool = False


class Changed(msgspec.Struct, frozen=True, omit_defaults=True, tag="changed"):
    """What has become of a service since what was told before, up to a revision."""

    service: str
    revision: int
    instances: Sequence[Instance] = ()
    gone: Sequence[Gone] = ()


class Configuration(msgspec.Struct, frozen=True, tag="configuration"):
    """A version of a service's configuration, made at `when` (seconds since the epoch of the clock). Nothing (None): it
    was deleted, or there never was one, then with version 0."""

    stage: str
    service: str
    version: int
    when: float
    values: dict[str, str] | None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, tag="answer"):
    """To request `n`: the verdict, empty if it could not be carried out; then `error` and `hint` say why. `epoch` is
    that in force; for a stale one, that which would be accepted, and `error` says what has overtaken it. `elsewhere`:
    another pilot may be able to."""

    n: int
    verdict: str = ""
    epoch: int = 0
    error: str = ""
    hint: str = ""
    elsewhere: bool = False


class Found(msgspec.Struct, frozen=True, omit_defaults=True, tag="found"):
    """What has become of the instances that were asked about; it says nothing of others, and so has no revision."""

    service: str
    instances: Sequence[Instance] = ()
    gone: Sequence[Gone] = ()


class Current(msgspec.Struct, frozen=True, tag="current"):
    """All that was to be told anew has been. Who follows `EVERY` one: these services are there, and no others; else
    there is no list."""

    services: Sequence[str] | None = None


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The pilot is there."""


Asked: TypeAlias = Follow | FollowConfiguration | About | Register | Leave | Ping
Said: TypeAlias = Told | Changed | Found | Current | Configuration | Answer | Pong

_encode = msgspec.msgpack.Encoder().encode
_ASKED: msgspec.msgpack.Decoder[Asked] = msgspec.msgpack.Decoder(Asked)
_SAID: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(Said)


class StreamError(ValueError):
    """What came is no message of this protocol; the connection ends."""


def frame(message: Asked | Said) -> bytes:
    """A message as it is sent."""
    body = _encode(message)
    return _PREFIX.pack(len(body)) + body


def asked(body: bytes) -> Asked:
    """What a sidecar says. Raises StreamError."""
    return _decoded(_ASKED, body)


def said(body: bytes) -> Said:
    """What the pilot says. Raises StreamError."""
    return _decoded(_SAID, body)


class Frames:
    """Turns what comes into bodies of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes, in order. Raises StreamError for a length over the limit."""
        self._buffer += data
        bodies: list[bytes] = []
        position = 0
        while len(self._buffer) - position >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(self._buffer, position)
            if not 0 < length <= self._limit:
                raise StreamError(f"a frame of {length} bytes; 1 to {self._limit} are allowed")
            end = position + _PREFIX.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[position + _PREFIX.size : end]))
            position = end
        del self._buffer[:position]
        return bodies


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and UnicodeDecodeError
        raise StreamError(f"not a message of {UPGRADE}: {error}") from error
