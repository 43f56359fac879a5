"""Takes turns: every peer of a scenario, round after round, and again where a round was void.

Peers take turns inside a round (A B A B), so that both sides of a ratio met the same weather. Repeating has an end in
time, since on a machine that is never quiet it would go on for hours: what is void then stays so, and is marked.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.bench import memory
from tests.bench.peers import Peer
from tests.bench.processes import BenchmarkError, pinned
from tests.bench.samples import Paced, Series
from tests.bench.scenarios import Effort, Layout, Scenario
from tests.bench.session import Contender, Refused, Session
from tests.bench.speed import Speedometer

T = TypeVar("T")

BELOW_KNEE = 0.3
FASTEST_PACE = 4_000
"""Requests a second of the open loop: few enough that nobody queues, also where all share one core."""


@dataclass
class Notes:
    """What went wrong and what was left out, and the seconds that are left for repeating void runs."""

    repeating: float
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def fail(self, line: str) -> None:
        self.failures.append(line)
        say(f"failed: {line}")

    def miss(self, line: str) -> None:
        """Leaves out what could be installed: a failure under CI=true, where nobody reads what was skipped."""
        self.skip(line)
        if os.environ.get("CI") == "true":
            self.failures.append(line)

    def skip(self, line: str) -> None:
        """Leaves out what this machine does not offer."""
        if line not in self.skipped:
            self.skipped.append(line)
            say(line)


class Bench:
    """Measures peers. The harness itself stays on `own_cpu`, and sleeps while a load runs."""

    def __init__(self, binary: Path, own_cpu: int, effort: Effort, notes: Notes) -> None:
        self._binary = binary
        self._own_cpu = own_cpu
        self._effort = effort
        self._notes = notes
        self._speedometer = Speedometer()
        self._hurry_from = time.monotonic() + effort.patience

    def measure_all(self, scenarios: Sequence[Scenario], plan: Sequence[Layout], peers: Sequence[Peer]) -> list[Series]:
        """Every scenario in its layouts, through those of its peers that are here."""
        cpus = {cpu for layout in plan for cpu in layout.cpus}
        self._speedometer.calibrate(cpus, seconds=self._effort.calibration)
        series: list[Series] = []
        for scenario in scenarios:
            for layout in plan[:1] if scenario.one_core else plan:
                chosen = [peer for peer in peers if peer.key in scenario.peers]
                series += attempt(self._notes, partial(self._measure_one, scenario, layout, chosen)) or []
        return series

    def _measure_one(self, scenario: Scenario, layout: Layout, peers: Sequence[Peer]) -> list[Series]:
        with self._session(scenario, layout) as session:
            return self._measure(session, peers)

    def weigh(self, scenario: Scenario, layout: Layout, peers: Sequence[Peer]) -> list[memory.Weight]:
        """What each peer takes in memory."""
        say(f"memory, {self._effort.idle_connections} idle connections")
        with self._session(scenario, layout) as session:
            chosen = [peer for peer in peers if peer.key in scenario.peers]
            return memory.weigh(session, chosen, self._effort.idle_connections, self._notes.fail)

    @contextmanager
    def _session(self, scenario: Scenario, layout: Layout) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="pannier-bench-") as folder, pinned({self._own_cpu}):
            session = Session(scenario, layout, Path(folder), self._binary, self._speedometer)
            with session.running():
                yield session

    def _measure(self, session: Session, peers: Sequence[Peer]) -> list[Series]:
        """Closed-loop rounds, then paced rounds at a pace that all can hold, then strace."""
        contenders: list[tuple[Contender, Series]] = []
        for peer in peers:
            try:
                contender = session.start(peer)
            except Refused as refused:
                self._notes.skip(f"skipped {peer.key}: {refused}")
                continue
            except BenchmarkError as error:
                self._notes.fail(str(error))
                continue
            name, layout = session.scenario.name, session.layout.name
            contenders.append((contender, Series(name, layout, peer.key, peer.name, peer.features)))
        rounds = self._effort.rounds_of(session.scenario)
        for turn in self._turns(rounds):
            for contender, series in contenders:
                attempt(self._notes, partial(self._closed_round, session, contender, series, turn))
        measured = [series for _, series in contenders if series.samples]
        speeds = [statistics.median(sample.load.rps for sample in series.counted) for series in measured]
        pace = max(1, min(FASTEST_PACE, int(min(speeds, default=0) * BELOW_KNEE)))
        for turn in self._turns(rounds):
            for contender, series in contenders:
                attempt(self._notes, partial(self._paced_round, session, contender, series, turn, pace))
        for contender, series in contenders:
            series.syscalls_per_request = attempt(self._notes, partial(session.syscalls, contender))
        return [series for _, series in contenders]

    def _closed_round(self, session: Session, contender: Contender, series: Series, turn: int) -> None:
        """Warms up and measures; a void run is repeated."""
        session.warm_up(contender, self._effort.warm_up)
        for _ in self._attempts():
            sample = session.sample(contender, turn, self._effort.measured)
            cost = sample.cpu_us_per_request
            say(
                f"{series.scenario} {series.layout} round {turn + 1} {series.key}: {sample.load.rps:.0f} rps"
                + (f", {cost:.2f} CPU us/request" if cost else "")
                + (f", void: {sample.void}" if sample.void else "")
                + (f", {sample.load.errors} ERRORS: {sample.load.first_error}" if sample.load.errors else "")
            )
            if sample.void is None:
                break
        series.samples.append(sample)
        series.rss_bytes = max(series.rss_bytes or 0, session.resident(contender) or 0) or None

    def _paced_round(self, session: Session, contender: Contender, series: Series, turn: int, pace: int) -> None:
        """Latency at `pace` requests a second; a void run is repeated."""
        series.rate = pace
        for _ in self._attempts():
            found, void = session.paced(contender, pace, self._effort.paced)
            if void is None:
                break
        series.paced.append(Paced(turn, found, void))

    def _turns(self, rounds: int) -> Iterator[int]:
        """The rounds; one where there is no time for more."""
        for turn in range(rounds):
            if turn and time.monotonic() > self._hurry_from:
                self._notes.skip(
                    f"skipped rounds: there was no time left after {self._effort.patience / 60:.0f} minutes"
                )
                return
            yield turn

    def _attempts(self) -> Iterator[int]:
        """Once, and again while attempts and the time for repetitions are left."""
        yield 0
        for number in range(1, self._effort.attempts):
            if self._notes.repeating <= 0:
                return
            began = time.monotonic()
            yield number
            self._notes.repeating -= time.monotonic() - began


def attempt(notes: Notes, step: Callable[[], T]) -> T | None:
    """Runs a step; a BenchmarkError is noted and the others go on."""
    try:
        return step()
    except BenchmarkError as error:
        notes.fail(str(error))
        return None


def say(line: str) -> None:
    """Progress goes to stderr: stdout carries the table."""
    print(line, file=sys.stderr, flush=True)
