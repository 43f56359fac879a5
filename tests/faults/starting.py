"""What a start finds where its own files should be: nothing, what a killed life left, or something of somebody else.

A start may come to one of three ends: ready within a second and whole; over, with a message that names the file; or not
ready and saying so by `ps`, by /readyz and with the file's name, the app not started and nobody sent there. Never may
its public port be taken after it is over, and never may it write through what somebody else has put there (a link in
place of the access log excepted, which is a way of choosing where that is written).
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bed import ORDERS, Bed, app
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.victims import kill
from tests.faults.waiting import wait_until
from tests.proxy.wire import Wire, request
from tests.system.host import free_port

EXTRA = "extra"
FILES = ("keeper.sock", "bus.sock", "notify.sock", "api.sock", "urls.json", "access.log")
READY_S = 1.0
JUDGED_S = 5.0
GIVEN_UP_S = 10.0
CLEAN_STARTS = 3
PRECIOUS = "this belongs to somebody else\n"


def leave(path: Path) -> None:
    """It stays as a killed life left it."""


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def put_file(path: Path) -> None:
    remove(path)
    path.write_text(PRECIOUS)


def put_folder(path: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "theirs").write_text(PRECIOUS)


def put_link_to_file(path: Path) -> None:
    remove(path)
    theirs = path.parent.parent / "theirs"
    theirs.write_text(PRECIOUS)
    path.symlink_to(theirs)


def put_link_to_folder(path: Path) -> None:
    remove(path)
    put_folder(path.parent / "theirs")
    path.symlink_to(path.parent / "theirs")


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def give_away(path: Path) -> None:
    """To another user; where we are none who may, it stays ours."""
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


@dataclass(frozen=True)
class Case:
    """One file of the runtime folder, or the folder itself if it has no name, and what is done to it before a start."""

    what: str
    spoil: Callable[[Path], None]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.name or 'the folder'}"


STALE = (
    Case("stale", leave),
    Case("missing", remove),
    *(Case("missing", remove, name) for name in FILES),
)
FOREIGN = (
    *(Case("a file for", put_file, name) for name in ("", *FILES)),
    *(Case("a folder for", put_folder, name) for name in FILES),
    *(Case("a link for", put_link_to_file, name) for name in FILES if name != "access.log"),
    Case("a link for", put_link_to_folder),
    Case("writable for all", open_to_all),
    Case("of another user", give_away),
)


@dataclass(frozen=True)
class RuntimeFiles(Fault):
    """One case after the other. `after_a_life`: what is spoiled is what a service left whose processes were all killed
    at once; else a folder in which nobody ever lived."""

    cases: Sequence[Case]
    after_a_life: bool

    def clean(self, bed: Bed) -> str:
        """The best of three starts with nothing spoiled must be as fast as is promised of all."""
        fastest = math.inf
        for _ in range(CLEAN_STARTS):
            began = time.monotonic()
            run(bed, free_port())
            bed.wait_ready(EXTRA, within=GIVEN_UP_S)
            fastest = min(fastest, time.monotonic() - began)
            clear(bed)
        return "" if fastest <= READY_S else f"a start with nothing in its way takes {fastest:.2f} s at best"

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        for case in self.cases:
            try:
                self._spoil(bed, case)
                start(bed, trial, case)
            except (AssertionError, OSError) as error:
                trial.require(False, f"{case}: {error}")
            finally:
                clear(bed)

    def _spoil(self, bed: Bed, case: Case) -> None:
        folder = bed.host.runtime / EXTRA
        if self.after_a_life:
            run(bed, free_port())
            bed.wait_ready(EXTRA, within=GIVEN_UP_S)
            kill(process.pid for process in bed.processes(EXTRA).values())
            bed.running.pop(EXTRA).wait()
        else:
            folder.mkdir(mode=0o700)
        case.spoil(folder / case.name if case.name else folder)


def start(bed: Bed, trial: Trial, case: Case) -> None:
    """Starts the service and judges how that ends."""
    bed.log(EXTRA).write_text("")
    public = free_port()
    began = time.monotonic()
    process = run(bed, public)
    try:
        wait_until(lambda: process.poll() is not None or bed.host.ready(EXTRA), "ready or over", within=JUDGED_S)
    except AssertionError:
        end, faults = "not_ready", not_ready(bed, case, public)
    else:
        if process.returncode is None:
            trial.within("ready_s", time.monotonic() - began, READY_S)
            end, faults = "ready", in_service(bed, public)
        else:
            end, faults = "over", given_up(bed, case, public, process.returncode)
    trial.add(end, 1)
    for fault in [*faults, *written_through(bed)]:
        trial.require(False, f"{case}: {fault}")


def in_service(bed: Bed, public: int) -> list[str]:
    """What is wrong with a service that says it is ready; it is ended in order."""
    faults = []
    if (status := asked(public)) != 200:
        faults.append(f"ready, and the first answer is {status}")
    if missing := bed.processes(ORDERS).keys() - bed.processes(EXTRA).keys():
        faults.append(f"ready, and without {missing}")
    if code := bed.stop(EXTRA):
        faults.append(f"ended with {code}")
    return faults


def not_ready(bed: Bed, case: Case, public: int) -> list[str]:
    """What is wrong with a start that goes on and is not ready."""
    faults = []
    processes = bed.processes(EXTRA)
    if case.name not in bed.log(EXTRA).read_text():
        faults.append(f"not ready, and {case.name} is not named: {bed.log(EXTRA).read_text().splitlines()[-3:]}")
    if not processes or processes["supervisor"].ready or bed.answers(EXTRA, "readyz") != 503:
        faults.append("not ready, and does not say so")
    if processes and processes["app"].pid:
        faults.append("not ready, and its app runs")
    if (status := asked(public)) != 503:
        faults.append(f"not ready, and somebody is answered {status}")
    if any((bed.host.runtime / "registry" / EXTRA).glob("*.json")):
        faults.append("not ready, and announced to others")
    return faults


def asked(public: int) -> int:
    """What the public port answers."""
    with Wire(socket.create_connection(("127.0.0.1", public), GIVEN_UP_S)) as wire:
        wire.send(request("/probe", host=EXTRA))
        return wire.read_answer().status


def given_up(bed: Bed, case: Case, public: int, code: int) -> list[str]:
    """What is wrong with a start that ended by itself."""
    faults = []
    said = bed.log(EXTRA).read_text()
    if code <= 0:
        faults.append(f"gave up with code {code}")
    if "Traceback" in said or (case.name or EXTRA) not in said or "try: " not in said:
        faults.append(f"gave up and said {said.strip().splitlines()[-3:]}")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", public)) == 0:
            faults.append("gave up, and its public port is taken")
    return faults


def written_through(bed: Bed) -> list[str]:
    """Whether what was linked to has changed."""
    linked = (bed.folder / "r" / "theirs", bed.folder / "theirs")
    found = [path / "theirs" if path.is_dir() else path for path in linked if path.exists()]
    strange = [entry for path in linked if path.is_dir() for entry in path.iterdir() if entry.name != "theirs"]
    return [f"wrote to what is not ours: {path}" for path in found if path.read_text() != PRECIOUS] + [
        f"left {entry.name} in a folder that is not ours" for entry in strange
    ]


def clear(bed: Bed) -> None:
    """Ends what a start has left, and takes its folder away."""
    process = bed.running.pop(EXTRA, None)
    others = {each.pid for name in bed.running for each in bed.processes(name).values()}
    kill(set(bed.host.survivors()) - others)
    if process is not None:
        process.wait()
    for name in (EXTRA, "theirs", f"registry/{EXTRA}"):
        path = bed.host.runtime / name
        path.unlink() if path.is_symlink() else remove(path)


def run(bed: Bed, public: int) -> subprocess.Popen[str]:
    """Starts the service that is spoiled."""
    port = free_port()
    return bed.run(EXTRA, "--port", str(public), "--app-port", str(port), command=app(port, bed))
