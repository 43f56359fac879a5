"""Why a service ends, with which code, and in which order.

One deadline: DRAINING is published → the proxy says that it has drained → the app gets its signal → sidecars (telemetry
is flushed by their own end) → proxy → keeper. Whoever is not gone by the deadline is killed. A second signal moves the
deadline to now.

The app keeps the last tenth of the time: a stream that never ends must not cost it its own orderly end.
"""

from __future__ import annotations

import signal
from enum import StrEnum
from types import TracebackType
from typing import Final

import msgspec
import trio
from pannier.supervisor.restart import Exit

APP_SHARE: Final = 0.1
SIDECAR_PATIENCE: Final = 2.5  # seconds; a sidecar's own clean-up is limited to 2
PROXY_PATIENCE: Final = 1.0


class Cause(StrEnum):
    APP = "app"  # it ended, and that was not asked for
    SIGNAL = "signal"  # to us
    ORDER = "order"  # `pannier down`
    TIME = "time"  # --for is over
    LIFELINE = "lifeline"  # whoever started us is gone
    NOT_READY = "not_ready"
    RENEWED = "renewed"  # only this life of the supervisor: nothing else ends


class Ending(msgspec.Struct, frozen=True):
    """`signal` is what the app gets, 0 = it has had it from the terminal."""

    cause: Cause
    signal: int = signal.SIGTERM
    message: str = ""
    hint: str = ""


def exit_code(ending: Ending, app: Exit | None) -> int:
    """The code that `run` ends with. `app` is how the app ended, None if there never was one."""
    if ending.cause is Cause.TIME:
        return 0
    if ending.cause is Cause.NOT_READY:
        return 75
    if app is not None:
        return app.code
    return 130 if ending.cause is Cause.SIGNAL and ending.signal == signal.SIGINT else 0


class Deadline:
    """One moment by which everything must be over; `now` moves it to the present, for waits under way as well."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._open: set[trio.CancelScope] = set()

    def now(self) -> None:
        self._at = min(self._at, trio.current_time())
        for scope in self._open:
            scope.deadline = min(scope.deadline, self._at)

    def scope(self, *, share_left: float = 0.0, within: float | None = None) -> _Until:
        """A block that ends at the deadline, or earlier: leaving `share_left` of what remains, or `within` seconds."""
        now = trio.current_time()
        at = max(now, self._at - share_left * (self._at - now))
        return _Until(self, at if within is None else min(at, now + within))

    def _enter(self, scope: trio.CancelScope) -> None:
        self._open.add(scope)

    def _leave(self, scope: trio.CancelScope) -> None:
        self._open.discard(scope)


class _Until:
    def __init__(self, deadline: Deadline, at: float) -> None:
        self._deadline = deadline
        self._scope = trio.CancelScope(deadline=at)

    def __enter__(self) -> trio.CancelScope:
        self._deadline._enter(self._scope)
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._deadline._leave(self._scope)
        return bool(self._scope.__exit__(kind, error, traceback))
