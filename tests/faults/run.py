"""`make faults`: break everything that is promised to survive, and write down what came of it.

    python -m tests.faults.run [--rows "kill-* storm"] [--table bus] [--repeat N] [--short]

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
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tests.faults import bus, hostile, independence, processes, record, resources
from tests.faults.rig import CLEAN_S, PAUSE_S, Rig
from tests.faults.row import Row, pick
from tests.faults.verdict import TOLD, Outcome, Trial

ROWS = (*processes.ROWS, *independence.ROWS, *bus.ROWS, *hostile.ROWS, *resources.ROWS)
FEW = 3
SETTLED_S = 0.5
BED_S = 6.0


def main() -> int:
    """Parse, choose, try, report."""
    options = parse_options()
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        of_table = [row for row in ROWS if options.table.casefold() in row.table.casefold()]
        rows = pick([row for row in of_table if row.quick or options.rows or not options.short], options.rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(plan(rows, options), flush=True)
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
    parser.add_argument("--table", default="", help="only the rows of this table: a part of its name will do")
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


def minutes(rows: Sequence[Row], options: argparse.Namespace) -> Mapping[str, float]:
    """How long the rows will take, by table: loads, pauses, and for each row a clean window and maybe a new bed."""
    taken: dict[str, float] = {}
    for row in rows:
        each = row.short_seconds if options.short and row.short_seconds else row.seconds
        seconds = BED_S + CLEAN_S + times(row, options) * (each + PAUSE_S + SETTLED_S)
        taken[row.table] = taken.get(row.table, 0.0) + seconds / 60
    return taken


def plan(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """What is about to be tried, in a line."""
    taken = minutes(rows, options)
    tables = ", ".join(f"{table} {each:.0f}" for table, each in taken.items())
    return f"{len(rows)} rows, about {sum(taken.values()):.0f} min: {tables}"


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
