"""Runs the generator and reads its one line of JSON."""

import json
import os
import resource
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.configurations import SERVICE
from tests.bench.processes import BenchmarkError, end, pinned, unhurried
from tests.bench.scenarios import Scenario

CORE = Path(__file__).resolve().parents[2] / "shared" / "core"


@dataclass(frozen=True)
class Load:
    """What one run of the generator found; latencies as `{upper edge in ns: count}`."""

    requests: int
    errors: int
    seconds: float
    rps: float
    p50_us: float
    p99_us: float
    first_error: str = ""
    histogram: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Generator:
    """The generator's binary and the folder of expected bodies."""

    binary: Path
    folder: Path
    cpus: Collection[int]

    def run(
        self,
        port: int,
        scenario: Scenario,
        *,
        seconds: float | None = None,
        requests: int | None = None,
        rate: int | None = None,
    ) -> Load:
        """One run, pinned; an open loop where `rate` (requests a second) is given.

        Raises BenchmarkError when the generator cannot run at all, for example when nobody listens.
        """
        body = self.folder / scenario.name
        body.write_bytes(scenario.body)
        argv = [str(self.binary), "load", "--connect", f"127.0.0.1:{port}", "--host", SERVICE]
        argv += ["--path", scenario.path, "--connections", str(scenario.connections), "--expect-body", str(body)]
        for name, value in (("seconds", seconds), ("requests", requests), ("rate", rate)):
            if value is not None:
                argv += [f"--{name}", str(value)]
        with pinned(self.cpus):
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        try:
            line, complaint = process.communicate(timeout=120)
        except BaseException:
            with unhurried():
                end(process)
            raise
        if process.returncode != 0:
            raise BenchmarkError(complaint.decode(errors="replace").strip())
        return parse(line)


def parse(line: bytes | str) -> Load:
    """Reads the generator's line."""
    fields = json.loads(line)
    for told in ("repeated", "lost"):  # by a client that repeats, which no benchmark's is
        fields.pop(told, None)
    histogram = {int(edge): int(count) for edge, count in fields.pop("histogram")}
    return Load(**fields, histogram=histogram)


def children_ran() -> int:
    """Nanoseconds that this process and the children it has waited for ran so far."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return int(used * 1e9)


def build() -> Path:
    """Builds the generator in the workspace's own target folder; cargo does nothing when it is fresh.

    Raises BenchmarkError when it does not build.
    """
    command = ["cargo", "build", "--release", "--quiet", "-p", "pannier-bench"]
    try:
        subprocess.run(command, cwd=CORE, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"the generator does not build: {error}") from error
    target = Path(os.environ.get("CARGO_TARGET_DIR", CORE / "target"))
    return target / "release" / "pannier-bench"
