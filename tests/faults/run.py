"""`make faults`: break everything that is promised to survive, and write down what came of it.

    python -m tests.faults.run [--rows "kill-* storm"] [--table bus] [--repeat N] [--lanes N] [--short]

Results accumulate in build/faults/latest.json: a row replaces its older self. Exit code 1: a row is void or has not
held.
Rows are tried side by side in lanes, longest first, except those which compare times: these have the machine for
themselves afterwards, as all have with `--lanes 1`.
`--short` repeats three times and shortens what can be; unless rows are named, it tries the quick ones alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from tests.faults import bus, central, discovery, hostile, independence, processes, record, resources
from tests.faults.lanes import side_by_side
from tests.faults.plan import apart, plan, seconds
from tests.faults.rig import Rig
from tests.faults.row import Row, pick
from tests.faults.verdict import TOLD, Outcome, Trial

ROWS = (*processes.ROWS, *independence.ROWS, *bus.ROWS, *discovery.ROWS, *central.ROWS, *hostile.ROWS, *resources.ROWS)
FEW = 3
LANES = 3
TOLD_OF = {"moved": "by way of a Central", "repeated": "repeated", "in_flight": "in flight at a kill"}
ENDING = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Parse, choose, try, report."""
    options = parse_options()
    for number in ENDING:
        signal.signal(number, _on_end)
    try:
        of_table = [row for row in ROWS if options.table.casefold() in row.table.casefold()]
        rows = pick([row for row in of_table if row.quick or options.rows or not options.short], options.rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    tried = [(row, times(row, options)) for row in rows]
    if not options.bare:
        print(plan(tried, options.lanes, short=options.short), flush=True)
    began = time.monotonic()
    beside, alone = apart(rows, options.lanes)
    beside.sort(key=lambda row: seconds(row, times(row, options), short=options.short), reverse=True)
    lost = side_by_side(beside, options.lanes, lambda row: command(row, options)) + one_by_one(alone, options)
    if not options.bare:
        took = f"{time.monotonic() - began:.0f} s, {record.LATEST}"
        print(f"{len(rows) - len(lost)} of {len(rows)} rows held{': not ' if lost else ''}{', '.join(lost)}; {took}")
    return 1 if lost else 0


def one_by_one(rows: Sequence[Row], options: argparse.Namespace) -> list[str]:
    """Tries and records the rows, and says a line about each; the names of those that have not held."""
    lost = []
    with Rig() as rig:
        for row in rows:
            found = rig.try_row(row, times(row, options), short=options.short, said=quiet if options.bare else dot)
            record.write([entry(row, found)])
            lines = [line(row, found), *(f"    {reason}" for reason in found.broken[:TOLD])]
            print("" if options.bare else "\r", "\n".join(lines), sep="", flush=True)
            if not found.held:
                lost.append(row.name)
    return lost


def command(row: Row, options: argparse.Namespace) -> Sequence[str]:
    """What tries one row in a process of its own."""
    words = [sys.executable, "-m", "tests.faults.run", "--bare", "--lanes", "1", "--rows", row.name]
    words += ["--repeat", str(options.repeat)] if options.repeat else []
    return [*words, "--short"] if options.short else words


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=words, default=[], help=f"only these: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--table", default="", help="only the rows of this table: a part of its name will do")
    parser.add_argument("--repeat", type=positive, help="repetitions of each row")
    parser.add_argument("--lanes", type=positive, default=LANES, help=f"rows that are tried side by side: {LANES}")
    parser.add_argument("--bare", action="store_true", help="say no more than the line of each row")
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


def quiet(_: Trial) -> None:
    """Says nothing: others would say it in between."""


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
    shown += [f"{figures[name]} {words}" for name, words in TOLD_OF.items() if name in figures]
    shown += [f"{name} {each['median']:g} … {each['worst']:g}" for name, each in figures.items() if name.endswith("_s")]
    shown += [f"waited for a CPU {figures['cpu_wait']['worst']:.0%}"] if "cpu_wait" in figures else []
    verdict = "held" if found.held else "LOST"
    return f"{verdict}  {row.name}  {figures['held']}/{found.repetitions}  {', '.join(shown)}"


def _on_end(number: int, _: object) -> NoReturn:
    """Leaves in order; whoever asks twice does not break into that."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
