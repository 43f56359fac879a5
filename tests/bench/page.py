"""A run's result as text: `latest.md` beside `latest.json`, and the page `docs/benchmarks.md`.

    python -m tests.bench.page     # `make docs`

The page is what these functions make of docs/benchmarks.json, which is the last whole run that somebody took over: a
run of everything, not a quick one. `make docs` takes it over from build/bench/latest.json if that is newer. A test
holds the two files together, so that nobody mends a figure by hand.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench import tables, targets

ROOT = Path(__file__).resolve().parents[2]
LATEST = ROOT / "build" / "bench" / "latest.json"
KEPT = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"

METHOD = """\
`make bench` makes this page's figures, `make docs` the page. All peers are measured in one run on one machine:

- Every peer has one worker, keep-alive to the origin, no access log; the origin is nginx, which answers in 6 µs.
- The client is our own (`shared/core/bench`): it compares every byte of every answer, and a wrong one is an error.
- The primary figure is CPU time of the proxy process a request: nanoseconds that its threads ran, by `schedstat`.
- Layouts: everything on one core shows the cost; client and origin on one, the proxy on another, that of waking up.
- Peers take turns, A B A B, in rounds; a ratio is taken inside a round. Shown: the median, and the lowest and highest.
- Latencies come from an open loop far below the knee, counted from when a request was due, not from when it was sent.
- A round with steal or foreign CPU above 2 %, or on a core slowed by its neighbour, is void and is repeated.
- Client and origin must agree on how many requests there were.
- Instructions are counted by callgrind, system calls by strace, in runs of their own.
- Absolutes belong to this machine: believe ratios. A difference under 5 % of CPU time is noise.
"""


def summary(result: Mapping[str, Any]) -> str:
    """The text for whoever ran it."""
    quick = result["quick"]
    lines = ["# Benchmark, quick" if quick else "# Benchmark", ""]
    if quick:
        lines += ["Quick: two pairs of one scenario. It shows that nothing is far off; it proves no figure.", ""]
    return "\n".join([*lines, _machine(result), "", *_tables(result), tables.NOISE]) + "\n"


def page(result: Mapping[str, Any]) -> str:
    """The text of docs/benchmarks.md."""
    head = ["# Benchmarks", "", "<!-- written by `make docs` from benchmarks.json -->", ""]
    when = f"{_machine(result)} Measured {result['time'][:10]}, in {result['seconds'] / 60:.0f} minutes."
    lines = [*head, when, *_complaints(result), "", "## Method", "", METHOD, *_tables(result)]
    return "\n".join(lines).rstrip() + "\n"


def _tables(result: Mapping[str, Any]) -> list[str]:
    rows, counts = result["rows"], result["instructions"]
    return [
        *tables.judged(targets.judge(result)),
        *tables.relays(rows),
        *tables.scenarios(rows),
        *tables.memory(result["memory"]),
        *tables.instructions(counts),
        *tables.phases(counts),
        *tables.routes(result["routes"]),
    ]


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['model']}, {machine['cpus']} CPUs, Linux {machine['kernel']}."


def _complaints(result: Mapping[str, Any]) -> list[str]:
    failures = [f"**failed: {line.splitlines()[0]}**" for line in result["failures"]]
    return [f"\n{line}" for line in (*failures, *result["skipped"])]


def take_over() -> bool:
    """Keeps the last run's result if it is of everything and newer; whether it did."""
    if not LATEST.exists():
        return False
    latest = json.loads(LATEST.read_text())
    if not latest.get("whole") or (KEPT.exists() and json.loads(KEPT.read_text())["time"] >= latest["time"]):
        return False
    KEPT.write_text(one_a_line(latest))
    return True


def one_a_line(result: Mapping[str, Any]) -> str:
    """The result as JSON that can be compared: each field, and each element of a list, on a line of its own."""
    fields = []
    for name, value in result.items():
        listed = isinstance(value, list) and value
        text = ",\n  ".join(map(json.dumps, value)) if listed else json.dumps(value)
        fields.append(f"{json.dumps(name)}: " + (f"[\n  {text}\n ]" if listed else text))
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def main() -> None:
    """Takes a newer result over and writes the page."""
    if take_over():
        print(f"took over {LATEST.relative_to(ROOT)}")
    PAGE.write_text(page(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
