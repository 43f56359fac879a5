"""Shared memory between the processes of one service, and the validation of what is published there.

Built from `shared/core/python`. A descriptor that is passed in stays the caller's: mappings keep a duplicate.
"""

from typing import final

#: Held name of each segment -> its size in bytes (sparse).
SEGMENTS: dict[str, int]
#: The kinds of table, as in `table.KIND`.
TABLES: list[str]
#: The names of `Counters.totals()`.
CELLS: list[str]
#: OpenTelemetry's bounds of HTTP durations; `Series.buckets` has one more entry, for what is above.
BUCKET_BOUNDS_SECONDS: list[float]
#: Upper bounds of `Series.fine`, which has one more entry.
FINE_BOUNDS_SECONDS: list[float]

def monotonic_ms() -> int:
    """The clock of hot words (CLOCK_MONOTONIC), in milliseconds."""

def initialise(name: str, fd: int) -> None:
    """Lay out a fresh segment; idempotent. Raises RuntimeError for a foreign one, ValueError for an unknown name."""

def validate(kind: str, payload: bytes) -> None:
    """Raise ValueError, with the reason, if `payload` is no valid table of that kind."""

def simulate_fleet(parameters: bytes) -> bytes:
    """Run a simulated day of many hosts and a Central; both are msgpack maps, see `pannier.supervisor.central_fleet`.

    Raises ValueError, with the reason, for parameters that cannot be.
    """

@final
class TableWriter:
    """The one writer of a table; creating it fences any older one."""

    def __new__(cls, kind: str, fd: int) -> TableWriter: ...
    def publish(self, payload: bytes) -> int:
        """Publish a msgpack map; returns its generation.

        Raises ValueError with the reason if it is no valid table, RuntimeError if a newer writer took over, OSError
        if there is no memory. In each case what was in force stays in force.
        """

    def withdraw(self) -> int:
        """Publish absence: the capability does not exist from now on."""

    def heartbeat(self) -> None:
        """Say that the writer lives, and publish again what it published last if memory does not hold that any more."""

@final
class TableReader:
    """Reads a table; raises RuntimeError for a foreign segment."""

    def __new__(cls, kind: str, fd: int) -> TableReader: ...
    def generation(self) -> int:
        """The generation in force; 0 = nothing was ever published."""

    def read(self) -> bytes | None:
        """The payload in force, or None for absence. Raises RuntimeError if it is damaged."""

    def writer(self) -> tuple[int, int]:
        """The writer's pid and its last heartbeat (unix ms)."""

    def epoch(self) -> int:
        """Which writer the table has now, counted since the segment was laid out; 0 before the first."""

@final
class Series:
    """A series of requests, summed over workers and processes, dead ones included: totals never go back."""

    @property
    def direction(self) -> str:
        """`inbound` or `outbound`."""
    @property
    def service(self) -> str: ...
    @property
    def route(self) -> str:
        """The label of the path; empty if none is known."""
    @property
    def method(self) -> str:
        """A known method or `_OTHER`."""
    @property
    def status(self) -> int:
        """0 = the caller was given none."""
    @property
    def flag(self) -> str:
        """The reason why the proxy answered itself; empty if it did not."""
    @property
    def protocol(self) -> str:
        """`1.0` or `1.1`."""
    @property
    def count(self) -> int: ...
    @property
    def sum_seconds(self) -> float: ...
    @property
    def request_bytes(self) -> int: ...
    @property
    def response_bytes(self) -> int: ...
    @property
    def buckets(self) -> list[int]:
        """Counts by BUCKET_BOUNDS_SECONDS, not cumulative."""
    @property
    def fine(self) -> list[int]:
        """Counts by FINE_BOUNDS_SECONDS, not cumulative."""

@final
class Enrolment:
    """A process that counts, or counted."""

    @property
    def slot(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    @property
    def heartbeat_ms(self) -> int: ...
    @property
    def rejected_tables(self) -> int:
        """Snapshots that could not be put in force, since the region was first used."""
    @property
    def in_force(self) -> dict[str, int]:
        """Table kind -> the generation that every worker of it has in force."""

@final
class EndpointCounts:
    """Calls to one endpoint in one incarnation, summed over workers and processes; never goes back."""

    @property
    def calls(self) -> int: ...
    @property
    def failures(self) -> int:
        """Answers of 5xx, and calls that got no answer (`local`)."""
    @property
    def local(self) -> int:
        """No connection, no answer in time, or a connection that broke."""
    @property
    def refused(self) -> int:
        """Answers of 429."""
    @property
    def slow(self) -> int:
        """Answers that took longer than the `slow_ms` of table `limits`."""
    @property
    def sum_seconds(self) -> float:
        """Time until the answers' heads, of those that came."""

@final
class Gauge:
    """How much of a limit is in use.

    `limit` is `connections`, `pending`, `requests`, `retries`, `bulkhead` or `shedding`.
    """

    @property
    def service(self) -> str:
        """The service called; empty for inbound."""
    @property
    def limit(self) -> str: ...
    @property
    def used(self) -> int: ...
    @property
    def most(self) -> int: ...

@final
class HotWord:
    """What is known of an endpoint, or of a service as a whole, right now."""

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`; `open` with `until_ms` in the past waits for a request that tries it."""
    @property
    def until_ms(self) -> int:
        """As `monotonic_ms`; 0 where closed."""
    @property
    def failures(self) -> int:
        """Failures in a row."""
    @property
    def times(self) -> int:
        """How often it was taken out lately; the next time is so much longer."""

@final
class HotWords:
    """The segment `hot`; every change is one compare-and-swap. A word of another incarnation reads as closed."""

    def __new__(cls, fd: int) -> HotWords: ...
    def read(self, slot: int, incarnation: int) -> HotWord: ...
    def open(self, slot: int, incarnation: int, until_ms: int, times: int | None = None) -> bool:
        """Takes it out until then, for the `times`-th time lately (None: once more than is noted).

        False if it is out already, or somebody was faster.
        """

    def close(self, slot: int, incarnation: int) -> bool:
        """Takes it back in, with no failures and no `times`; False if it was not out, or somebody was faster."""

@final
class Counters:
    """Reads the counters; raises RuntimeError for a foreign segment."""

    def __new__(cls, fd: int) -> Counters: ...
    def series(self) -> list[Series]: ...
    def totals(self) -> dict[str, int]:
        """The fixed counters by their names in CELLS."""

    def central(self) -> list[bytes]:
        """What each living process says of its Central Mesh: a msgpack map (`shared/central.py`); nothing where there
        is none."""

    def enrolled(self) -> list[Enrolment]: ...
    def endpoints(self, places: list[tuple[int, int]]) -> list[EndpointCounts]:
        """What was counted about each (slot, incarnation), in the order asked for."""

    def gauges(self) -> list[Gauge]:
        """What the living proxy has in use, at most half a second old."""

@final
class Span:
    """One request of a sampled trace."""

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
    def direction(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def authority(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def upstream(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def flag(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def start_ns(self) -> int:
        """Nanoseconds since the epoch."""
    @property
    def end_ns(self) -> int: ...

@final
class Drained:
    """What one drain did."""

    @property
    def records(self) -> int: ...
    @property
    def skipped(self) -> int:
        """Damaged records, each counted once."""
    @property
    def log_errors(self) -> int:
        """Lines that could not be written (the disk is full)."""
    @property
    def log_bytes(self) -> int: ...
    @property
    def spans(self) -> list[Span]: ...

@final
class Rings:
    """The consuming end of every ring of a service; one consumer at a time."""

    def __new__(cls, rings_fd: int, counters_fd: int) -> Rings: ...
    def drain(self, log_fd: int, spans: bool, limit: int = 4096) -> Drained:
        """Take up to `limit` records of each ring; append their JSON lines to `log_fd` (-1 = none).

        May block, as writing does.
        """

def central_check(config: bytes) -> None:
    """Raise ValueError, with the reason in one line, if these are no numbers for the Central Mesh's controller: they
    would make it flap, or make no sense. `config` is the map `controller` of table `central`, in msgpack."""

@final
class CentralDecision:
    """What the controller decided in one step."""

    @property
    def weight(self) -> float:
        """Points of what could leave, 0 to 100."""
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def reversals(self) -> int: ...
    @property
    def starving(self) -> bool:
        """The enter rule holds."""

@final
class CentralController:
    """The data path's controller of the Central Mesh, on a clock of the caller's."""

    def __new__(cls, config: bytes | None, seed: int) -> CentralController:
        """`config` as for `central_check`, None for the defaults; `seed` is for jitter.

        Raises ValueError as that does.
        """

    def step(
        self,
        now_ms: int,
        *,
        host_pressure: float | None = None,
        cgroup_pressure: float | None = None,
        throttled: float | None = None,
        queue_wait_ms: float | None = None,
        idle: float | None = None,
        returning: float = 0.0,
        usable: bool = True,
        limit: float = 100.0,
        forced: float | None = None,
    ) -> CentralDecision:
        """One tick: pressure and `throttled` in percent, `idle` and `returning` in 0…1 of the CPU that there is,
        `limit` and `forced` in points. None is what could not be read, or was not asked for."""
