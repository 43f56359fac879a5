"""`make bench`: Pannier's hop beside its peers, in one run, on one machine.

    python -m tests.bench.run [--quick] [--scenario NAME] [--peer NAME] [--generator PATH]

Writes build/bench/latest.json and latest.md. Exit code 1: wrong answers, a peer that did not start or, in a full run,
a row in which no round counted. A target that is not met is shown, and is no failure: a figure is judged by people, on
a quiet machine. Refused: comparing with figures of another day, since two runs on one shared machine differ by more
than what is measured here.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tests.bench import instructions, load, memory, page, report, routes
from tests.bench.peers import PEERS, Peer
from tests.bench.processes import BenchmarkError, pinned
from tests.bench.samples import Paced, Series
from tests.bench.scenarios import FULL, QUICK, QUICK_PEERS, SCENARIOS, Effort, Layout, Scenario, layouts
from tests.bench.session import Contender, Refused, Session
from tests.bench.speed import Speedometer

T = TypeVar("T")

BELOW_KNEE = 0.3
FASTEST_PACE = 4_000
"""Requests a second of the open loop: few enough that nobody queues, also where all share one core."""
DESCRIPTORS = 16_384


@dataclass
class Notes:
    """What went wrong and what was left out, and the seconds that are left for repeating void runs."""

    repeating: float
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def fail(self, line: str) -> None:
        self.failures.append(line)
        say(f"failed: {line}")

    def skip(self, line: str) -> None:
        if line not in self.skipped:
            self.skipped.append(line)
            say(line)


def main() -> int:
    """Parse, find the peers, measure, report."""
    began = time.monotonic()
    options = parse_options()
    signal.signal(signal.SIGTERM, _on_terminate)
    allow_descriptors()
    cpus = sorted(os.sched_getaffinity(0))
    plan = layouts(cpus)
    effort, scenarios = FULL, [one for one in SCENARIOS if one.name in (options.scenario or [one.name])]
    if options.quick:
        effort, plan, scenarios = QUICK, plan[-1:], scenarios[:1]
    notes = Notes(effort.repeating)
    if len(plan) == 1 and not options.quick:
        notes.skip("skipped the layout two-cores: one CPU only")
    peers = present_peers(options.peer or (QUICK_PEERS if options.quick else None), notes)
    everything = not options.peer and not options.scenario
    weights: list[memory.Weight] = []
    try:
        bench = Bench((options.generator or load.build()).resolve(), cpus[-1], effort, notes)
        series = bench.measure_all(scenarios, plan, peers)
        if everything and effort.idle_connections:
            weights = bench.weigh(SCENARIOS[0], plan[0], peers)
    except BenchmarkError as error:
        say(f"failed: {error}")
        return 1
    rows = [
        report.row(one, [other for other in series if (other.scenario, other.layout) == (one.scenario, one.layout)])
        for one in series
    ]
    counts: list[instructions.Count] = []
    cost = None
    if everything:
        counts = attempt(notes, instructions.measure) or [] if instructions.available() else []
        cost = attempt(notes, routes.measure)
    result = {
        "machine": describe_machine(),
        "quick": options.quick,
        "whole": everything and not options.quick,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - began),
        "failures": notes.failures,
        "skipped": notes.skipped,
        "rows": rows,
        "memory": [asdict(one) for one in weights],
        "instructions": [asdict(count) for count in counts],
        "routes": asdict(cost) if cost else None,
    }
    write(result)
    wrong = [
        entry for entry in rows if entry["errors"] or (not options.quick and (entry["void"] or entry["latency_void"]))
    ]
    return 1 if wrong or notes.failures or not rows else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one scenario, one layout, two pairs")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS], help="only this one")
    parser.add_argument("--peer", action="append", choices=[one.key for one in PEERS], help="only this one")
    parser.add_argument("--generator", type=Path, help="a pannier-bench that is already built")
    return parser.parse_args()


def allow_descriptors() -> None:
    """As many connections as a scenario opens, for this process and all that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def present_peers(wanted: Sequence[str] | None, notes: Notes) -> list[Peer]:
    """The peers whose binaries are here; the others get one line each, and are failures under CI=true."""
    found = []
    for peer in PEERS:
        if wanted and peer.key not in wanted:
            continue
        if peer.binary() is None:
            line = f"skipped {peer.key}: not installed; run `{peer.remedy}`"
            notes.skip(line)
            if os.environ.get("CI") == "true":
                notes.failures.append(line)
            continue
        found.append(peer)
    return found


class Bench:
    """Measures peers. The harness itself stays on `own_cpu`, and sleeps while a load runs."""

    def __init__(self, binary: Path, own_cpu: int, effort: Effort, notes: Notes) -> None:
        self._binary = binary
        self._own_cpu = own_cpu
        self._effort = effort
        self._notes = notes
        self._speedometer = Speedometer()

    def measure_all(self, scenarios: Sequence[Scenario], plan: Sequence[Layout], peers: Sequence[Peer]) -> list[Series]:
        """Every scenario in its layouts, through those of its peers that are here."""
        cpus = {cpu for layout in plan for cpu in layout.cpus}
        self._speedometer.calibrate(cpus, seconds=self._effort.calibration)
        series: list[Series] = []
        for scenario in scenarios:
            for layout in plan[:1] if scenario.one_core else plan:
                with self._session(scenario, layout) as session:
                    series += self._measure(session, [peer for peer in peers if peer.key in scenario.peers])
        return series

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
        for turn in range(rounds):
            for contender, series in contenders:
                attempt(self._notes, partial(self._closed_round, session, contender, series, turn))
        measured = [series for _, series in contenders if series.samples]
        speeds = [statistics.median(sample.load.rps for sample in series.counted) for series in measured]
        pace = max(1, min(FASTEST_PACE, int(min(speeds, default=0) * BELOW_KNEE)))
        for turn in range(rounds):
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


def write(result: dict[str, Any]) -> None:
    """Writes both files and prints the tables."""
    page.LATEST.parent.mkdir(parents=True, exist_ok=True)
    page.LATEST.write_text(json.dumps(result, indent=1) + "\n")
    text = page.summary(result)
    page.LATEST.with_suffix(".md").write_text(text)
    print(text, end="")


def describe_machine() -> dict[str, Any]:
    """What a reader must know to judge the absolutes."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "model": model or platform.machine(),
        "cpus": os.cpu_count() or 1,
        "kernel": platform.release(),
        "memory_bytes": memory,
    }


def say(line: str) -> None:
    """Progress goes to stderr: stdout carries the table."""
    print(line, file=sys.stderr, flush=True)


def _on_terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
