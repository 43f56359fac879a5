"""Random conversations through Pannier to four real origins; one that is told differently is made small and shown.

python -m tests.conformance.differential.run                       # 200 000 requests, a seed that is shown
python -m tests.conformance.differential.run --seed 7 --case 1234  # one conversation again
python -m tests.conformance.differential.run --origins nginx,node --requests 10000
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.conformance.differential.bench import Bench, Problem, Tally
from tests.conformance.differential.cases import Case, make
from tests.conformance.differential.origins import SERVERS, Server, find

LONG = 200_000
BATCH = 50
#: So often an origin may crash in one run.
CRASHES = 2
#: Attempts at making a case smaller.
PATIENCE = 40


def try_cases(server: Server, program: str, cases: Iterable[Case], requests: int) -> tuple[Tally, list[Problem]]:
    """Tries cases until so many requests are logged or there is a problem; then looks for one case that shows it.

    An origin that crashes proves nothing of us: what was under way is dropped, and the next cases go to a fresh one.
    (nginx 1.22 has, once in 300 000 requests, by a null pointer of its own.)
    """
    tally, cases = Tally(), iter(cases)
    batch: Sequence[Case] = ()
    problems: list[Problem] = []
    while tally.logged < requests and not problems:
        batch, problems, has_crashed = _try_on_one(server, program, cases, requests, tally)
        if not batch:
            break
        tally.crashes += has_crashed
        if has_crashed:
            crashed = Problem(server.name, f"it has crashed {tally.crashes} times", tuple(batch))
            problems = [crashed] if tally.crashes > CRASHES else []
    if problems and len(batch) > 1:
        problems = _alone(server, program, batch) or problems
    return tally, problems


def _try_on_one(
    server: Server, program: str, cases: Iterator[Case], requests: int, tally: Tally
) -> tuple[Sequence[Case], list[Problem], bool]:
    """Tries cases on one origin, until it crashes at the latest; the last of them, their problems, whether it did."""
    with tempfile.TemporaryDirectory(prefix="pannier-") as folder:
        os.chmod(folder, 0o755)
        batch: list[Case] = []
        problems: list[Problem] = []
        with Bench(Path(folder), server, program, tally) as bench:
            while tally.logged < requests and not problems and not bench.has_crashed:
                batch = list(itertools.islice(cases, BATCH))
                if not batch:
                    break
                problems = bench.check([bench.converse(case) for case in batch])
            has_crashed = bench.has_crashed
            return batch, problems + bench.leave(), has_crashed


def _alone(server: Server, program: str, batch: Sequence[Case]) -> list[Problem]:
    """The problems of one of these cases that has some by itself, in its smallest form."""
    if len(batch) == 1:
        problems = try_cases(server, program, batch, 1)[1]
        return _smallest(server, program, batch[0], problems) if problems else []
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        if problems := try_cases(server, program, part, LONG)[1]:
            return problems
    return []


def _smallest(server: Server, program: str, case: Case, problems: list[Problem]) -> list[Problem]:
    left = PATIENCE
    while left > 0:
        for smaller in case.smaller():
            left -= 1
            if left > 0 and (found := try_cases(server, program, [smaller], 1)[1]):
                case, problems = smaller, found
                break
        else:
            break
    return [Problem(one.server, one.text, (case,)) for one in problems]


def told(seed: int, problem: Problem) -> str:
    """A problem with what reproduces it."""
    text = f"{problem.server}: {problem.text[:2000]}\n  seed {seed}, "
    match problem.cases:
        case [case]:
            return f"{text}case {case.number}, {len(case.mutations)} mutations: {case.data!r}"
        case [first, *_, last]:
            return f"{text}none of the cases {first.number} to {last.number} alone, but all of them in a row"
    return f"{text}after the last case"


def main(arguments: Sequence[str] | None = None) -> int:
    """The number of problems, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.differential.run")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--requests", type=int, default=LONG, help="over all origins")
    parser.add_argument("--case", type=int, help="only the case of that number")
    parser.add_argument("--origins", default=",".join(server.name for server in SERVERS))
    options = parser.parse_args(arguments)
    servers = [server for server in SERVERS if server.name in options.origins.split(",")]
    print(f"seed {options.seed}", flush=True)
    failures = 0
    for server in servers:
        program = find(server.program)
        if program is None:
            print(f"{server.program} is not installed: `make peers` does it", file=sys.stderr)
            return 1
        began = time.monotonic()
        numbers = itertools.count() if options.case is None else [options.case]
        cases = (make(options.seed, number) for number in numbers)
        tally, problems = try_cases(server, program, cases, options.requests // len(servers))
        print(
            f"{server.name:9} {tally.cases} conversations, {tally.logged} requests logged, "
            f"{tally.forwarded} forwarded, {tally.seen} seen by the origin, {tally.refused_by_origin} refused by it, "
            f"{len(problems)} problems, {tally.crashes} crashes of it, {time.monotonic() - began:.1f} s",
            flush=True,
        )
        for problem in problems:
            print(told(options.seed, problem))
        failures += len(problems)
    return min(failures, 100)


if __name__ == "__main__":
    sys.exit(main())
