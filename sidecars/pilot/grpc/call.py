"""What a service over gRPC is written against: a call with its messages, and the status that it ends with.

A handler is given one call of any of the four kinds; a unary one is a stream of one message each way. It returns, and
the call has ended well; it raises `GrpcError`, alone or in a group, and the call ends with that status. Whatever else
it raises is a fault of ours, which is logged, and of which the peer is told no more than INTERNAL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from typing import Protocol, TypeAlias

from pannier.shared.errors import Blame, PannierError


class Code(IntEnum):
    """The codes of gRPC, as they are on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(PannierError):
    """How a call ends that does not end well: `status`, and a text for whoever has called."""

    blame = Blame.PEER

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.status = code


class CallOver(PannierError):
    """The client has reset the call, or its connection is gone: nothing more can be sent."""

    blame = Blame.PEER


class Call(Protocol):
    """One call. Its handler is cancelled when the client resets it, its deadline passes or its connection is gone.

    Messages may be received by one task and sent by others; those that are sent at the same time do not mix.
    """

    @property
    def metadata(self) -> Mapping[str, str]:
        """What came with the call, names in lower case, `:authority` and `:path` as well."""

    @property
    def peer(self) -> str:
        """Who calls, in a few words: `10.0.0.1:40312`, or `unix:PID`."""

    async def receive(self) -> bytes | None:
        """The next message, whole; None when the client will send no more."""

    async def send(self, message: bytes) -> None:
        """Sends a message; returns when the client's windows had room for all of it. Raises CallOver."""


Handler: TypeAlias = Callable[[Call], Awaitable[None]]
