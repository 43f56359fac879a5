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
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tests.bench import instructions, load, memory, page, report, routes
from tests.bench.peers import PEERS, Peer
from tests.bench.processes import BenchmarkError
from tests.bench.rounds import Bench, Notes, attempt, say
from tests.bench.scenarios import FULL, QUICK, QUICK_PEERS, SCENARIOS, layouts

DESCRIPTORS = 16_384


def main() -> int:
    """Parse, measure, report."""
    options = parse_options()
    signal.signal(signal.SIGTERM, _on_terminate)
    allow_descriptors()
    try:
        result = measure(options)
    except BenchmarkError as error:
        say(f"failed: {error}")
        return 1
    write(result)
    rows = result["rows"]
    wrong = [row for row in rows if row["errors"] or (not options.quick and (row["void"] or row["latency_void"]))]
    return 1 if wrong or result["failures"] or not rows else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one scenario, one layout, two pairs")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS], help="only this one")
    parser.add_argument("--peer", action="append", choices=[one.key for one in PEERS], help="only this one")
    parser.add_argument("--generator", type=Path, help="a pannier-bench that is already built")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as it stands in `latest.json`. Raises BenchmarkError without a generator."""
    began = time.monotonic()
    cpus = sorted(os.sched_getaffinity(0))
    plan = layouts(cpus)
    effort, scenarios = FULL, [one for one in SCENARIOS if one.name in (options.scenario or [one.name])]
    if options.quick:
        effort, plan, scenarios = QUICK, plan[-1:], scenarios[:1]
    notes = Notes(effort.repeating)
    if len(plan) == 1 and not options.quick:
        notes.skip("skipped the layout two-cores: one CPU only")
    peers = present_peers(options.peer or (QUICK_PEERS if options.quick else None), notes)
    bench = Bench((options.generator or load.build()).resolve(), cpus[-1], effort, notes)
    series = bench.measure_all(scenarios, plan, peers)
    weights: list[memory.Weight] = []
    counts: list[instructions.Count] = []
    cost = None
    everything = not options.peer and not options.scenario
    if everything:
        if effort.idle_connections:
            weights = attempt(notes, partial(bench.weigh, SCENARIOS[0], plan[0], peers)) or []
        if instructions.available():
            counts = attempt(notes, instructions.measure) or []
        else:
            notes.miss("skipped the instructions: valgrind is not installed; run `make peers`")
        cost = attempt(notes, routes.measure)
    return {
        "machine": describe_machine(),
        "quick": options.quick,
        "whole": everything and not options.quick,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - began),
        "failures": notes.failures,
        "skipped": notes.skipped,
        "rows": report.rows(series),
        "memory": [asdict(one) for one in weights],
        "instructions": [asdict(count) for count in counts],
        "routes": asdict(cost) if cost else None,
    }


def allow_descriptors() -> None:
    """As many connections as a scenario opens, for this process and all that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def present_peers(wanted: Sequence[str] | None, notes: Notes) -> list[Peer]:
    """The peers whose binaries are here; the others get one line each."""
    found = []
    for peer in PEERS:
        if wanted and peer.key not in wanted:
            continue
        if peer.binary() is None:
            notes.miss(f"skipped {peer.key}: not installed; run `{peer.remedy}`")
            continue
        found.append(peer)
    return found


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


def _on_terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
