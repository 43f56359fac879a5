"""The one root of Pannier's errors.

An error says what happened, whose fault it is, and the next step for the operator. A foreign library's error is
translated at the boundary where it enters; everything above that boundary sees a `PannierError`. A subclass exists only
where somebody catches it.
"""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Whose fault an error is; decides the tone of the message, never the exit code."""

    USAGE = "usage"
    CONFIG = "config"
    PEER = "peer"
    PLATFORM = "platform"
    INTERNAL = "internal"


class PannierError(Exception):
    """What went wrong (`message`), the next step (`hint`), and how a command ends on it (`exit_code`).

    `code` is stable (`PAN0102`) where documentation refers to it, else empty.
    """

    exit_code = 1
    blame = Blame.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        exit_code: int | None = None,
        blame: Blame | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.retryable = retryable
        if exit_code is not None:
            self.exit_code = exit_code
        if blame is not None:
            self.blame = blame


class UsageError(PannierError):
    """The command line asks for something that cannot be done as written."""

    exit_code = 2
    blame = Blame.USAGE


class NotRunning(PannierError):
    """No supervisor of that name runs on this host."""

    exit_code = 3
    blame = Blame.USAGE


class NoSuchSidecar(PannierError):
    """No sidecar of that name is installed, or it is not part of the running profile."""

    exit_code = 4
    blame = Blame.USAGE


class Unreachable(PannierError):
    """A peer of the bus does not answer, or went away; trying again may help."""

    exit_code = 69
    blame = Blame.PEER

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code, retryable=True)


class TimedOut(PannierError):
    """What was waited for did not happen in time."""

    exit_code = 75
    blame = Blame.PEER
