"""`pannier run -f pannier.toml` as a child: started, watched for an early end, and ended without leaving anything.

It gets a session of its own, so that Ctrl-C reaches the load first, and the services once nobody asks them any more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import trio
from pannier.shared.messages import Status
from pannier.shared.runtime import service_dir

HERE = Path(__file__).resolve().parent
STOP_SECONDS = 30.0


class Mesh:
    """The running command. `ended_early` is set when it ends before it was told to."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.ended_early = False

    async def wait_early_end(self) -> int:
        """Its exit code."""
        code = await self.process.wait()
        self.ended_early = True
        return code


@asynccontextmanager
async def open_mesh(profile: str, *, ledgers: Path, log: Path) -> AsyncIterator[Mesh]:
    """Runs the shop's mesh with its output in `log`; on the way out it gets 30 s to drain and stop."""
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "SHOP_LEDGERS": str(ledgers),
    }
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [str(bin_folder / "pannier"), "run", "-f", str(HERE / "pannier.toml"), "--profile", profile],
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            cwd=HERE,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Mesh(process)
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: trio.Process) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()


def leftovers(services: Iterable[str], seen: Iterable[Status]) -> list[str]:
    """Folders and processes of the mesh that are still there after its end; there should be none."""
    folders = [str(path) for path in (service_dir(name, create=False) for name in services) if path.exists()]
    processes = [
        f"{status.name}/{process.name} (pid {process.pid})"
        for status in seen
        for process in status.processes
        if process.pid and _runs(process.pid)
    ]
    return folders + processes


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def last_lines(log: Path, count: int) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-count:]
