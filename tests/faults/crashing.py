"""A sidecar that cannot start, whose siblings and whose callers must not notice."""

from __future__ import annotations

from pathlib import Path

from tests.faults.bed import Bed, app
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until
from tests.system.host import free_port

EXTRA = "extra"
STARTS = 5
FAILED_S = 12.0
AGAIN_S = 60.0

CRASHER = {
    "crasher/__init__.py": "",
    "crasher/config.py": "import msgspec\nclass Config(msgspec.Struct, frozen=True):\n    pass\n",
    "crasher/__main__.py": """
import os, sys, time
with open(os.environ["CRASHES"], "a") as file:
    print(time.monotonic(), file=file)
sys.exit(1)
""",
    "crasher-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: crasher\nVersion: 1.0\n",
    "crasher-1.0.dist-info/entry_points.txt": "[pannier.sidecars]\ncrasher = crasher.config:Config\n",
}
"""A third party's sidecar, installed in a folder of its own, that ends as soon as it runs."""


class CrashLoop(Fault):
    """A sidecar ends at once whenever it is started. `again`: it is waited for until it is tried once more."""

    def __init__(self, *, again: bool = False) -> None:
        self._again = again

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        crashes = bed.folder / "crashes"
        crashes.write_text("")
        for name, text in CRASHER.items():
            path = bed.folder / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        port = free_port()
        options = ("--port", "0", "--app-port", str(port), "--set", "sidecars.crasher=true")
        given = {"PYTHONPATH": str(bed.folder / "site"), "CRASHES": str(crashes)}
        bed.run(EXTRA, *options, command=app(port, bed), **given)
        lives: dict[str, set[int]] = {}

        def failed() -> bool:
            processes = bed.processes(EXTRA)
            for each in processes.values():
                if each.pid and each.name != "crasher":
                    lives.setdefault(each.name, set()).add(each.pid)
            return "crasher" in processes and processes["crasher"].state == "failed"

        trial.times["failed_s"] = wait_until(failed, "the sidecar is failed", within=FAILED_S)
        starts = times(crashes)
        trial.require(len(starts) <= STARTS, f"it was started {len(starts)} times: {starts}")
        pause(1.0)
        processes = bed.processes(EXTRA)
        trial.require(processes["supervisor"].state == "starting", f"the service is {processes['supervisor'].state}")
        status = bed.answers(EXTRA, "readyz")
        trial.require(status == 503, f"/readyz answers {status}")
        if self._again:
            wait_until(lambda: len(times(crashes)) > len(starts), "it is tried again", within=AGAIN_S + 5)
            trial.times["again_s"] = times(crashes)[-1] - starts[-1]
            trial.require(
                abs(trial.times["again_s"] - AGAIN_S) < 2, f"it was tried after {trial.times['again_s']:.1f} s"
            )
            failed()
        touched = {name: pids for name, pids in lives.items() if len(pids) > 1}
        trial.require(not touched, f"siblings were touched: {touched}")

    def heal(self, bed: Bed) -> None:
        bed.stop(EXTRA)


def times(crashes: Path) -> list[float]:
    """When the sidecar was started, by the monotonic clock."""
    return [float(line) for line in crashes.read_text().split()]
