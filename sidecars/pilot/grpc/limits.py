"""What one listener grants its peers over gRPC, and who has asked too much of one connection. Pure.

Frames that bring nothing (pings, settings, windows, empty data, whatever is said of calls that are over) are normal in
some number for each message that they go along with. A connection that has more of them than that is a flood.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 30.0
FORGIVEN: Final = 4
"""Frames that bring nothing, for each one that brings something."""
MAX_SETTINGS: Final = 32
"""Of a peer; each one that it makes up takes memory for as long as the connection lives."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts, bytes, seconds. `buffered_bytes` is what all calls of a listener together may have sent that no handler
    has taken; the second half of it is for calls that hold a frame or less; `resets` and `idle_frames` are
    within 30 s. A connection is pinged after `ping_seconds` of silence."""

    connections: int = 4096
    streams: int = 100
    header_bytes: int = 16_384
    message_bytes: int = 4 * 1024 * 1024
    buffered_bytes: int = 64 * 1024 * 1024
    resets: int = 100
    idle_frames: int = 1000
    preface_seconds: float = 10.0
    ping_seconds: float = 20.0
    pong_seconds: float = 10.0
    write_seconds: float = 30.0
    drain_seconds: float = 1.0


class Patience:
    """What one connection has asked of us. Times are seconds of a monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._resets: deque[float] = deque()
        self._idle = 0
        self._since = 0.0

    def reset(self, now: float) -> bool:
        """A stream was reset, by the peer or because of it; whether that is still all right."""
        self._resets.append(now)
        while self._resets[0] <= now - WINDOW_SECONDS:
            self._resets.popleft()
        return len(self._resets) <= self._limits.resets

    def frames(self, number: int, now: float) -> bool:
        """So many frames have come; whether that is still all right."""
        if now - self._since >= WINDOW_SECONDS:
            self._since, self._idle = now, min(self._idle, 0)
        self._idle += number
        return self._idle <= self._limits.idle_frames

    def useful(self) -> None:
        """A frame came or went that brings something."""
        self._idle = max(self._idle - FORGIVEN - 1, -self._limits.idle_frames)
