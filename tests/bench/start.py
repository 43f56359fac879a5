"""`make bench-start`: how long a service takes to be ready, what it weighs, and what it costs while nothing happens.

    python -m tests.bench.start [--runs N] [--idle SECONDS] [--profile NAME]

Prints medians with the best and the worst run: milliseconds from the command to readiness with all its sidecars, and
until a sidecar that is added live is ready; then the proportional memory of each process, and its CPU time in per cent
of one core while idle. Figures for people, on a quiet machine. The app is a listening socket of ours,
so that no interpreter of an app is in any figure. Bytecode is written first, as pip does for who installs: a working
copy without it, where PYTHONDONTWRITEBYTECODE is set, compiles its sources at each start, for 80 ms and 4 MB.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio
from pannier.shared.bus import open_bus
from pannier.shared.messages import Nothing, SidecarName, Status

ROOT = Path(__file__).parents[2]
PANNIER = Path(sys.executable).parent / "pannier"
SERVICE = "started"
ADDED = "traffic"
PATIENCE = 30.0
SETTLED = 3.0  # seconds after readiness, before memory and idleness are read


class Running:
    """One `pannier run` in folders of its own; `ready_ms` from its command to all of its readiness."""

    def __init__(self, profile: str, folder: Path, app: socket.socket, *, fuse: bool) -> None:
        environment = {
            **os.environ,
            "PANNIER_RUNTIME_DIR": str(folder / "r"),
            "PANNIER_STATE_DIR": str(folder / "s"),
        }
        port = str(app.getsockname()[1])
        read, write = os.pipe()
        words = ["run", "--profile", profile, "--name", SERVICE, "--app-port", port, "--port", "0"]
        words += ["--outbound-port", "auto", "--ready-fd", str(write), "--set", f"fuse={str(fuse).lower()}"]
        begun = time.monotonic()
        self.bus = folder / "r" / SERVICE / "bus.sock"
        self.process = subprocess.Popen(
            [PANNIER, *words], env=environment, cwd=folder, pass_fds=[write], stderr=subprocess.DEVNULL
        )
        os.close(write)
        with open(read, "rb") as ready:
            said = ready.read()
        self.ready_ms = (time.monotonic() - begun) * 1000
        if said != b"ready":
            raise SystemExit(f"{' '.join(words)} did not become ready: exit code {self.process.wait()}")

    def add_ms(self, sidecar: str) -> float:
        """Adds a sidecar that the profile does not have; milliseconds until the supervisor says that it is ready."""

        async def add() -> float:
            async with open_bus(self.bus, role="cli") as bus:
                begun = time.monotonic()
                await bus.request("supervisor", "sidecar.add", SidecarName(sidecar), Nothing, timeout=PATIENCE)
                return (time.monotonic() - begun) * 1000

        return trio.run(add)

    def status(self) -> Status:
        """What `pannier ps` shows."""

        async def ask() -> Status:
            async with open_bus(self.bus, role="cli") as bus:
                return await bus.request("supervisor", "status", Nothing(), Status, timeout=PATIENCE)

        return trio.run(ask)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(profile: str, app: socket.socket, *, fuse: bool = False) -> Iterator[Running]:
    """A service, from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="pannier-") as folder:
        service = Running(profile, Path(folder), app, fuse=fuse)
        try:
            yield service
        finally:
            service.end()


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, in nanoseconds; 0 if it is gone."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return 0


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):7.0f} ms   ({min(values):.0f} to {max(values):.0f}, {len(values)} runs)"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--idle", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--profile", default="production")
    options = parser.parse_args()
    for package in ("shared", "sidecars", "supervisor", "profiles"):
        compileall.compile_dir(ROOT / package, maxlevels=2, quiet=1)
    with socket.create_server(("127.0.0.1", 0)) as app:
        for fuse in (False, True):
            ready = []
            for _ in range(options.runs):
                with running(options.profile, app, fuse=fuse) as service:
                    ready.append(service.ready_ms)
            print(f"{called(options.profile, fuse)}: command to ready   {spread(ready)}")
        added = []
        for _ in range(options.runs):
            with running("dev", app) as service:
                time.sleep(SETTLED / 3)
                added.append(service.add_ms(ADDED))
        print(f"dev: {ADDED} added, to ready   {spread(added)}")
        for fuse in (False, True):
            with running(options.profile, app, fuse=fuse) as service:
                print_costs(called(options.profile, fuse), service, options.idle)


def called(profile: str, fuse: bool) -> str:
    return f"{profile}, fused" if fuse else profile


def print_costs(name: str, service: Running, idle: float) -> None:
    """What each process weighs and uses while nothing happens; sidecars that share one are shown as one."""
    time.sleep(SETTLED)
    processes = service.status().processes
    before = {process.pid: cpu_ns(process.pid) for process in processes}
    begun = time.monotonic()
    time.sleep(idle)
    took = time.monotonic() - begun
    used = {pid: (cpu_ns(pid) - ns) / 1e7 / took for pid, ns in before.items()}
    print(f"{name}, {SETTLED:g} s after readiness; CPU in {idle:g} idle seconds:")
    for pid in before:
        sharing = [process for process in processes if process.pid == pid]
        row = "+".join(process.name for process in sharing)
        print(f"  {row:16} {sum(p.pss_bytes for p in sharing) / 1e6:6.1f} MB   {used[pid]:6.3f} %")
    print(f"  {'all':16} {sum(p.pss_bytes for p in processes) / 1e6:6.1f} MB   {sum(used.values()):6.3f} %")


if __name__ == "__main__":
    main()
