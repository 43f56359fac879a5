"""The page `docs/promises.md`: every row of `make faults`, what came of it, and how to try it again.

    python -m tests.faults.promises     # `make docs`

The page is what `page` makes of the rows as they stand in the code and of docs/promises.json, the results that were
taken over. `make docs` takes over from build/faults/latest.json what is at least as well tried as what is known, and
everything that has not held: a failure is never hidden behind an older success. A row that has never run, or was void,
is shown as such. What was known of rows that no longer exist, or whose fault or promise was changed, goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.run import describe_machine
from tests.faults import record
from tests.faults.row import Row
from tests.faults.run import ROWS, TOLD_OF

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "promises.json"
PAGE = ROOT / "docs" / "promises.md"
REASON_CHARACTERS = 160
HIDDEN = ("strike_s", "slowest_s")
"""Times that say how the trial went, not what it was about."""

Result = Mapping[str, Any]

HEAD = """\
# Promises, and how often they were kept

<!-- written by `make docs` from promises.json and the tables in tests/faults -->

Each row breaks something under load, again and again: an open loop of numbered requests, an origin that writes down
what it is asked, every answer compared. Failed is what was refused, reset, wrong, over 2 s, or seen twice although it
may come once. A row holds only if every repetition does. Times are the median and the worst of all repetitions. Rows
are tried four at a time, each with services of its own, except those that compare times with others, or hold against
the clock what is mostly work of a CPU: these have the machine for themselves. The rules are in
`tests/faults/verdict.py`; `make faults` tries all rows in less than an hour, `make faults TABLE=...` those of one
table, `LANES=1` one at a time.
"""


def page(rows: Sequence[Row], kept: Mapping[str, Any]) -> str:
    """The text of docs/promises.md."""
    known = _by_key(kept["rows"])
    found = [known.get((row.table, row.fault)) for row in rows]
    lines = [HEAD, f"{kept['machine']} {_summary(found)}", ""]
    for table in dict.fromkeys(row.table for row in rows):
        lines += [f"## {table}", "", "| fault | promise | held | figures | again |", "| --- | --- | --- | --- | --- |"]
        for row, result in zip(rows, found, strict=True):
            if row.table == table:
                cells = (row.fault, row.promise, held(row, result), figures(result), f"`make faults ROWS={row.name}`")
                lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _summary(found: Sequence[Result | None]) -> str:
    tried = [result for result in found if result is not None and "void" not in result["figures"]]
    held_ = sum(result["held"] for result in tried)
    return f"{len(found)} rows: {held_} held, {len(tried) - held_} did not, {len(found) - len(tried)} have no result."


def held(row: Row, result: Result | None) -> str:
    """How often the promise was kept, and the first reason why it was not."""
    if result is None:
        return "**never run**"
    if reason := result["figures"].get("void"):
        return f"**void**: {_shortened(reason)}"
    times = result["repetitions"]
    kept_ = f"{result['figures']['held']}/{times}"
    of = f" (a whole run has {row.repetitions})" if times < row.repetitions else ""
    if result["held"]:
        return f"{kept_}{of}"
    return f"**not held** {kept_}{of}: {_shortened(result['figures'].get('broken', ['?'])[0])}"


def figures(result: Result | None) -> str:
    """What was measured: failed requests, and the times with their unit."""
    if result is None:
        return ""
    found = result["figures"]
    shown = [f"{found['failed']} of {found['requests']} failed"] if "failed" in found else []
    shown += [f"{found['came']} came of {found['asked']}"] if "came" in found else []
    shown += [f"{found[name]} {words}" for name, words in TOLD_OF.items() if name in found]
    for name, each in found.items():
        if name.endswith("_s") and name not in HIDDEN:
            words = name.removesuffix("_s").replace("_", " ")
            shown.append(f"{words} {each['median']:g} ... {each['worst']:g} s")
    return ", ".join(shown)


def _shortened(reason: str) -> str:
    return reason if len(reason) <= REASON_CHARACTERS else reason[: REASON_CHARACTERS - 3] + "..."


def merged(rows: Sequence[Row], kept: Sequence[Result], fresh: Sequence[Result]) -> list[Result]:
    """What is known of the rows, in their order, when `fresh` is taken over."""
    known, newer = _by_key(kept), _by_key(fresh)
    found = []
    for row in rows:
        old, new = known.get((row.table, row.fault)), newer.get((row.table, row.fault))
        best = new if old is None or (new is not None and _is_better(new, old, row.repetitions)) else old
        if best is not None and best["promise"] == row.promise:
            found.append(best)
    return found


def _is_better(new: Result, old: Result, whole: int) -> bool:
    """A result of a whole run is, whatever was found before by however many repetitions of a shorter form."""
    if new["promise"] != old["promise"]:
        return True
    failed = not new["held"] and "void" not in new["figures"]
    return failed or new["repetitions"] >= min(old["repetitions"], whole)


def _by_key(results: Sequence[Result]) -> dict[tuple[str, str], Result]:
    return {(result["table"], result["fault"]): result for result in results}


def take_over() -> None:
    """Keeps what the runs of this working copy have found; on the machine that this is."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {"machine": "", "rows": []}
    rows = merged(ROWS, kept["rows"], record.read())
    where = machine() if rows != kept["rows"] else kept["machine"]
    KEPT.write_text(one_a_line({"machine": where, "rows": rows}))


def one_a_line(kept: Mapping[str, Any]) -> str:
    """The results as JSON that can be compared: each on a line of its own."""
    rows = ",\n  ".join(map(json.dumps, kept["rows"]))
    return f'{{\n "machine": {json.dumps(kept["machine"])},\n "rows": [\n  {rows}\n ]\n}}\n'


def machine() -> str:
    """This one, in a sentence."""
    found = describe_machine()
    return f"{found['model']}, {found['cpus']} CPUs, Linux {found['kernel']}."


def main() -> None:
    """Takes results over and writes the page."""
    take_over()
    PAGE.write_text(page(ROWS, json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
