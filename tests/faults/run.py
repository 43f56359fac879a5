"""`make faults`: break everything that is promised to survive, and write down what came of it.

    python -m tests.faults.run [--rows "kill-* storm"] [--repeat N] [--short]

Results accumulate in build/faults/latest.json: a row replaces its older self. Exit code 1: a row is void or has not
held.
`--short` repeats three times and shortens what can be; unless rows are named, it tries the quick ones alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from typing import NoReturn

from tests.faults import bus, hostile, processes, record, resources
from tests.faults.rig import Rig
from tests.faults.row import Row, pick
from tests.faults.verdict import TOLD, Outcome, Trial

ROWS = (*processes.ROWS, *bus.ROWS, *hostile.ROWS, *resources.ROWS)
FEW = 3


def main() -> int:
    """Parse, choose, try, report."""
    options = parse_options()
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        rows = pick([row for row in ROWS if row.quick or options.rows or not options.short], options.rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    began = time.monotonic()
    lost = []
    with Rig() as rig:
        for row in rows:
            found = rig.try_row(row, times(row, options), short=options.short, said=dot)
            record.write([entry(row, found)])
            print(f"\r{line(row, found)}", flush=True)
            for reason in found.broken[:TOLD]:
                print(f"    {reason}", flush=True)
            if not found.held:
                lost.append(row.name)
    took = f"{time.monotonic() - began:.0f} s, {record.LATEST}"
    print(f"{len(rows) - len(lost)} of {len(rows)} rows held{': not ' if lost else ''}{', '.join(lost)}; {took}")
    return 1 if lost else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=words, default=[], help=f"only these: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--repeat", type=positive, help="repetitions of each row")
    parser.add_argument(
        "--short", action="store_true", help="three repetitions, of the quick rows unless others are named"
    )
    return parser.parse_args()


def words(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def times(row: Row, options: argparse.Namespace) -> int:
    """How often a row is repeated."""
    return options.repeat or (min(FEW, row.repetitions) if options.short or os.environ.get("CI") else row.repetitions)


def dot(trial: Trial) -> None:
    print("x" if trial.broken else ".", end="", flush=True)


def entry(row: Row, found: Outcome) -> dict[str, object]:
    """A row of latest.json."""
    return {
        "table": row.table,
        "fault": row.fault,
        "promise": row.promise,
        "repetitions": found.repetitions,
        "held": found.held,
        "figures": dict(found.figures),
    }


def line(row: Row, found: Outcome) -> str:
    """A row for the reader."""
    if found.void:
        return f"void  {row.name}: {found.void}"
    figures = found.figures
    shown = [f"{figures['failed']} of {figures['requests']} failed"] if "failed" in figures else []
    shown += [f"{figures['came']} came of {figures['asked']}"] if "came" in figures else []
    shown += [f"{name} {each['median']:g} … {each['worst']:g}" for name, each in figures.items() if name.endswith("_s")]
    shown += [f"waited for a CPU {figures['cpu_wait']['worst']:.0%}"] if "cpu_wait" in figures else []
    verdict = "held" if found.held else "LOST"
    return f"{verdict}  {row.name}  {figures['held']}/{found.repetitions}  {', '.join(shown)}"


def _on_terminate(*_: object) -> NoReturn:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
