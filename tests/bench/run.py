"""`make bench`: Pannier's hop beside its peers, in one run, on one machine.

    python -m tests.bench.run [--quick] [--scenario NAME] [--peer NAME] [--generator PATH]

Writes build/bench/latest.json and latest.md. Exit code 1: wrong answers, a peer that did not start or, in a full run,
a row in which no round counted. Refused: comparing with figures of another day, since two runs on one shared machine
differ by more than what is measured here.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tests.bench import instructions, load, report, routes
from tests.bench.peers import PEERS, Peer
from tests.bench.processes import BenchmarkError, pinned
from tests.bench.report import Paced, Series
from tests.bench.scenarios import FULL, QUICK, SCENARIOS, Effort, Layout, Scenario, layouts
from tests.bench.session import Contender, Session
from tests.bench.speed import Speedometer

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
BELOW_KNEE = 0.3
FASTEST_PACE = 20_000


def main() -> int:
    """Parse, find the peers, measure, report."""
    options = parse_options()
    signal.signal(signal.SIGTERM, _on_terminate)
    failures: list[str] = []
    peers = present_peers(options.peer, failures)
    cpus = sorted(os.sched_getaffinity(0))
    plan = layouts(cpus)
    if len(plan) == 1:
        say("skipped the layout two-cores: one CPU only")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in (options.scenario or [scenario.name])]
    effort = FULL
    if options.quick:
        effort, plan, scenarios = QUICK, plan[-1:], scenarios[:1]
    try:
        binary = options.generator or load.build()
        series = measure_all(
            scenarios, plan, peers, effort=effort, binary=binary.resolve(), own_cpu=cpus[-1], failures=failures
        )
    except BenchmarkError as error:
        say(f"failed: {error}")
        return 1
    rows = [
        report.row(one, [other for other in series if (other.scenario, other.layout) == (one.scenario, one.layout)])
        for one in series
    ]
    counts, cost = [], None
    if not options.peer and not options.scenario:
        counts = attempt(failures, instructions.measure) or [] if instructions.available() else []
        cost = attempt(failures, routes.measure)
    write(rows, quick=options.quick, failures=failures, counts=counts, cost=cost)
    wrong = [
        entry for entry in rows if entry["errors"] or (not options.quick and (entry["void"] or entry["latency_void"]))
    ]
    return 1 if wrong or failures or not rows else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one scenario, one layout, two pairs")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS], help="only this one")
    parser.add_argument("--peer", action="append", choices=[one.name for one in PEERS], help="only this one")
    parser.add_argument("--generator", type=Path, help="a pannier-bench that is already built")
    return parser.parse_args()


def present_peers(wanted: Sequence[str] | None, failures: list[str]) -> list[Peer]:
    """The peers whose binaries are here; the others get one line each, and are failures under CI=true."""
    found = []
    for peer in PEERS:
        if wanted and peer.name not in wanted:
            continue
        if peer.binary() is None:
            line = f"skipped {peer.name}: not installed; run `{peer.remedy}`"
            say(line)
            if os.environ.get("CI") == "true":
                failures.append(line)
            continue
        found.append(peer)
    return found


def measure_all(
    scenarios: Sequence[Scenario],
    plan: Sequence[Layout],
    peers: Sequence[Peer],
    *,
    effort: Effort,
    binary: Path,
    own_cpu: int,
    failures: list[str],
) -> list[Series]:
    """Every scenario in every layout; the harness itself stays on `own_cpu`, and sleeps while a load runs."""
    series: list[Series] = []
    speedometer = Speedometer()
    speedometer.calibrate({cpu for layout in plan for cpu in layout.cpus}, seconds=effort.calibration)
    for scenario in scenarios:
        for layout in plan:
            with tempfile.TemporaryDirectory(prefix="pannier-bench-") as folder, pinned({own_cpu}):
                session = Session(scenario, layout, Path(folder), binary, speedometer)
                with session.running():
                    series += measure_one(session, peers, effort, failures)
    return series


def measure_one(session: Session, peers: Sequence[Peer], effort: Effort, failures: list[str]) -> list[Series]:
    """One scenario and layout: closed-loop rounds, then paced rounds at a pace that all can hold, then strace."""
    contenders: list[tuple[Contender, Series]] = []
    for peer in peers:
        try:
            contender = session.start(peer)
        except BenchmarkError as error:
            failures.append(str(error))
            say(f"failed: {error}")
            continue
        contenders.append((contender, Series(session.scenario.name, session.layout.name, peer.name, peer.features)))
    for turn in range(effort.pairs):
        for contender, series in contenders:
            attempt(failures, partial(closed_round, session, contender, series, turn, effort))
    speeds = [sample.load.rps for _, series in contenders for sample in series.counted]
    pace = max(1, min(FASTEST_PACE, int(min(speeds, default=0) * BELOW_KNEE)))
    for _ in range(effort.pairs):
        for contender, series in contenders:
            attempt(failures, partial(paced_round, session, contender, series, pace, effort))
    for contender, series in contenders:
        series.syscalls_per_request = session.syscalls(contender)
    return [series for _, series in contenders]


def closed_round(session: Session, contender: Contender, series: Series, turn: int, effort: Effort) -> None:
    """Warms up and measures; a void run is repeated while attempts are left."""
    session.warm_up(contender, effort.warm_up)
    for _ in range(effort.attempts):
        sample = session.sample(contender, turn, effort.measured)
        cost = sample.cpu_us_per_request
        say(
            f"{series.scenario} {series.layout} round {turn + 1} {series.peer}: {sample.load.rps:.0f} rps"
            + (f", {cost:.2f} CPU us/request" if cost else "")
            + (f", void: {sample.void}" if sample.void else "")
            + (f", {sample.load.errors} ERRORS: {sample.load.first_error}" if sample.load.errors else "")
        )
        if sample.void is None:
            break
    series.samples.append(sample)
    series.rss_bytes = max(series.rss_bytes or 0, session.resident(contender) or 0) or None


def paced_round(session: Session, contender: Contender, series: Series, pace: int, effort: Effort) -> None:
    """Latency at `pace` requests a second; a void run is repeated while attempts are left."""
    series.rate = pace
    for _ in range(effort.attempts):
        found, void = session.paced(contender, pace, effort.paced)
        if void is None:
            break
    series.paced.append(Paced(found, void))


def attempt(failures: list[str], step: Callable[[], T]) -> T | None:
    """Runs a step; a BenchmarkError is noted and the others go on."""
    try:
        return step()
    except BenchmarkError as error:
        failures.append(str(error))
        say(f"failed: {error}")
        return None


def write(
    rows: list[dict[str, Any]],
    *,
    quick: bool,
    failures: Sequence[str],
    counts: list[instructions.Count],
    cost: routes.RouteCost | None,
) -> None:
    """Writes both files and prints the tables."""
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    result = {
        "machine": machine,
        "quick": quick,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "failures": list(failures),
        "rows": rows,
        "instructions": [asdict(count) for count in counts],
        "routes": asdict(cost) if cost else None,
    }
    (folder / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    table = report.markdown(rows, machine, quick=quick)
    table += "\n" + instructions.markdown(counts) if counts else ""
    table += "\n" + routes.markdown(cost) if cost else ""
    (folder / "latest.md").write_text(table)
    print(table, end="")


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
