"""What two ends of the bus say to each other, whatever the parts of the suite make of it: one closed union.

The envelope knows nothing of topics, verbs or payloads: a `body` is opaque here, owned by the sender's domain, so a
third party's sidecar needs no change in this file. Unknown fields are refused: a change of the union is a new
`VERSION`.

| message | from → to | meaning |
| --- | --- | --- |
| `Hello` | client → broker | the first frame: who I am; the token proves the role |
| `Welcome` | broker → client | accepted; descriptors travel with this frame and with no other |
| `Reject` | broker → client | the last frame: why the connection ends |
| `Subscribe` | client → broker | send me these topics from now on, the retained value first |
| `Publish` | client → broker | a body for a topic that I own |
| `Event` | broker → client | somebody published |
| `Request` | client → broker → client | a question to a role; the broker gives it an id of its own on the second leg |
| `Reply`, `Failure` | the way back | exactly one of them answers a request, or none if the asker has left |
| `Ready`, `Beat` | client → broker | I do my job; I am alive (each second) |
"""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import msgspec
from pannier.shared import framing
from pannier.shared.errors import (
    Blame,
    NoSuchSidecar,
    NotRunning,
    PannierError,
    TimedOut,
    Unreachable,
    UsageError,
)
from pannier.shared.explain import EX_CONFIG

VERSION: Final = 1
"""Both ends must speak the same; the broker answers another one with `Reject("version")`."""
SUPERVISOR: Final = "supervisor"
"""The broker's own name: as `to` of a request, and as the sender of what the supervisor publishes."""
FUSED: Final = "fused"
"""The role of the process that has several sidecars inside; only the supervisor has anything to say to it."""
CLI: Final = "cli"
"""The role of a peer without a token: it may ask and listen, nothing else."""


class _Message(msgspec.Struct, frozen=True, tag_field="t", tag=str.lower, forbid_unknown_fields=True):
    pass


class Hello(_Message, frozen=True):
    version: int
    token: str
    pid: int
    role: str


class Welcome(_Message, frozen=True):
    """`fds` names the descriptors that came with this frame, in their order; `config` is for the role to decode."""

    version: int
    peer: str
    fds: list[str]
    config: bytes
    service: str


class Reject(_Message, frozen=True):
    """`code`: uid busy late version token role (before Welcome) · protocol rights flood slow replaced (after it)."""

    code: str
    message: str
    hint: str


class Request(_Message, frozen=True):
    id: int
    to: str
    verb: str
    body: bytes


class Reply(_Message, frozen=True):
    id: int
    body: bytes


class Failure(_Message, frozen=True):
    """`code` is the kind of error, and after a slash the documented code if it has one (`usage/PAN0102`)."""

    id: int
    code: str
    message: str
    hint: str


class Subscribe(_Message, frozen=True):
    topics: list[str]


class Publish(_Message, frozen=True):
    """`retain`: this is state. The last value is kept for late joiners, and a slow reader gets only the newest."""

    topic: str
    body: bytes
    retain: bool


class Event(_Message, frozen=True):
    """`sequence` grows by one a topic while the broker lives, so a reader sees what it missed."""

    topic: str
    sender: str
    sequence: int
    retained: bool
    body: bytes


class Ready(_Message, frozen=True):
    pass


class Beat(_Message, frozen=True):
    pass


Envelope: TypeAlias = Hello | Welcome | Reject | Request | Reply | Failure | Subscribe | Publish | Event | Ready | Beat


def parse(body: bytes) -> Envelope:
    """The message in the body of a frame. Raises `FramingError`."""
    return framing.decode(body, cast("type[Envelope]", Envelope))


_KINDS: Final[dict[str, type[PannierError]]] = {
    "usage": UsageError,
    "not_running": NotRunning,
    "no_such_sidecar": NoSuchSidecar,
    "unreachable": Unreachable,
    "timed_out": TimedOut,
}
_FAILED: Final = "failed"
_REFUSED: Final = "refused"
"""A configuration that is wrong, which is how a command ends."""
_MAX_TEXT: Final = 4096


def failure_of(request_id: int, error: PannierError) -> Failure:
    """An error as it crosses the bus: kind, code, message and hint survive; the traceback stays at home."""
    plain = _REFUSED if error.exit_code == EX_CONFIG else _FAILED
    kind = next((name for name, type_ in _KINDS.items() if isinstance(error, type_)), plain)
    code = f"{kind}/{error.code}" if error.code else kind
    return Failure(request_id, code, error.message[:_MAX_TEXT], error.hint[:_MAX_TEXT])


def reject_of(error: PannierError) -> Reject:
    """The last word to a peer: its `code` is the error's, or `protocol`."""
    return Reject(error.code or "protocol", error.message[:_MAX_TEXT], error.hint[:_MAX_TEXT])


def error_of(failure: Failure) -> PannierError:
    """The other direction: an error of the same kind; of a kind that is not known here, a plain `PannierError`."""
    kind, _, code = failure.code.partition("/")
    known = _KINDS.get(kind)
    if kind == _REFUSED:
        return PannierError(failure.message, hint=failure.hint, code=code, exit_code=EX_CONFIG, blame=Blame.CONFIG)
    if known is None:
        return PannierError(failure.message, hint=failure.hint, code=code, blame=Blame.PEER)
    return known(failure.message, hint=failure.hint, code=code)
