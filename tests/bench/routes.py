"""What ten thousand routes cost: compiling them off the request path, and finding the one that matches on it."""

import json
import subprocess
from dataclasses import dataclass

from tests.bench.load import CORE
from tests.bench.processes import BenchmarkError

COMPILE_MS_ALLOWED = 1_000
MATCH_NS_ALLOWED = 1_000


@dataclass(frozen=True)
class RouteCost:
    """`compile_ms` of all `routes` at once, `match_ns` of one request."""

    routes: int
    compile_ms: float
    match_ns: float

    @property
    def holds(self) -> bool:
        return self.compile_ms <= COMPILE_MS_ALLOWED and self.match_ns <= MATCH_NS_ALLOWED


def measure() -> RouteCost:
    """Raises BenchmarkError when the program does not build, or a route is not found."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "pannier-decide", "--example", "routes"]
    done = subprocess.run(command, cwd=CORE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"the routes cannot be measured: {done.stderr.strip()}")
    return RouteCost(**json.loads(done.stdout))
