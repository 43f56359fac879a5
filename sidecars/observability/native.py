"""The shapes of `pannier._native` that this sidecar reads.

Protocols rather than the classes themselves, for two reasons: the pure files of this package stay testable without
shared memory, and it is visible in one place how little of the data path telemetry depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Labelled(Protocol):
    """What requests are told apart by, alike for counters and spans."""

    @property
    def direction(self) -> str:
        """`inbound` or `outbound`."""

    @property
    def service(self) -> str:
        """The own service (inbound) or the cluster that was called (outbound)."""

    @property
    def route(self) -> str:
        """A path template, or empty where none matched."""

    @property
    def method(self) -> str: ...

    @property
    def status(self) -> int:
        """0 where no answer was sent."""

    @property
    def flag(self) -> str:
        """A response flag (`UF`, `UT`, …), or empty."""

    @property
    def protocol(self) -> str:
        """`1.1` or `1.0`."""


class Series(Labelled, Protocol):
    """One set of request counters: everything that happened since the keeper started, over all workers."""

    @property
    def count(self) -> int: ...

    @property
    def sum_seconds(self) -> float: ...

    @property
    def buckets(self) -> Sequence[int]:
        """Counts per conventional bucket, not cumulative; the last one is open."""

    @property
    def fine(self) -> Sequence[int]:
        """Counts per log-linear bucket, not cumulative; the last one is open."""


class Enrolment(Protocol):
    """A process that counts, or counted."""

    @property
    def alive(self) -> bool: ...

    @property
    def in_force(self) -> Mapping[str, int]:
        """The generation of each table that the process has compiled and uses."""

    @property
    def rejected_tables(self) -> int:
        """Snapshots that it could not put in force."""


class Gauge(Protocol):
    """How much of a limit a living process has in use."""

    @property
    def service(self) -> str:
        """The service called; empty for inbound."""

    @property
    def limit(self) -> str: ...

    @property
    def used(self) -> int: ...

    @property
    def most(self) -> int: ...


class Counters(Protocol):
    def series(self) -> Sequence[Series]: ...

    def totals(self) -> Mapping[str, int]: ...

    def enrolled(self) -> Sequence[Enrolment]: ...

    def gauges(self) -> Sequence[Gauge]: ...

    def central(self) -> Sequence[bytes]:
        """What each living process says of its Central Mesh; nothing where there is none."""


class TableReader(Protocol):
    def generation(self) -> int:
        """0 where nothing was ever published."""

    def writer(self) -> tuple[int, int]:
        """Process id and last heartbeat (milliseconds since the epoch) of the last writer."""


class TableWriter(Protocol):
    def publish(self, payload: bytes) -> int: ...

    def heartbeat(self) -> None: ...


class Span(Labelled, Protocol):
    """One traced request. Times are nanoseconds since the epoch."""

    @property
    def trace_id(self) -> int: ...

    @property
    def span_id(self) -> int: ...

    @property
    def parent_id(self) -> int | None: ...

    @property
    def trace_state(self) -> str: ...

    @property
    def sampled(self) -> bool: ...

    @property
    def path(self) -> str: ...

    @property
    def upstream(self) -> str:
        """The address that answered, or empty."""

    @property
    def start_ns(self) -> int: ...

    @property
    def end_ns(self) -> int: ...

    @property
    def request_id(self) -> str: ...

    @property
    def client(self) -> str:
        """The client's address without a port; empty for the app's own calls."""

    @property
    def authority(self) -> str: ...


class Drained(Protocol):
    """What one drain took out of the rings; all numbers are of this drain alone."""

    @property
    def records(self) -> int: ...

    @property
    def log_errors(self) -> int:
        """Records whose line could not be written."""

    @property
    def spans(self) -> Sequence[Span]: ...


class Rings(Protocol):
    def drain(self, log_fd: int, spans: bool, limit: int) -> Drained:
        """Takes up to `limit` records; writes their lines to `log_fd` (-1 = nowhere)."""
