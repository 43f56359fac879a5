"""`pannier run -f pannier.toml` as a child: started, watched for an early end, and ended without leaving anything.

It gets a session of its own, so that Ctrl-C reaches the load first, and the services once nobody asks them any more.
Further instances, which some stages have, outlive the mesh: nobody is called who is gone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import BinaryIO

import trio
from pannier.shared.messages import Status
from pannier.shared.runtime import service_dir
from stages import Instance

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.05


class Mesh:
    """The running command. `ended_early` is set when it ends before it was told to."""

    def __init__(self, process: trio.Process, instances: Sequence[Instance]) -> None:
        self.process = process
        self.ended_early = False
        self._instances = instances

    async def wait_early_end(self) -> int:
        """Its exit code."""
        code = await self.process.wait()
        self.ended_early = True
        return code

    async def wait_instances(self) -> None:
        """Returns once every further instance listens."""
        for instance in self._instances:
            while not await _listens(instance):  # noqa: ASYNC110 - a port that is bound elsewhere has no event
                await trio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def open_mesh(
    profile: str, *, instances: Sequence[Instance] = (), ledgers: Path, log: Path
) -> AsyncIterator[Mesh]:
    """Runs the shop's mesh with its output in `log`; on the way out it gets 30 s to drain and stop."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "SHOP_LEDGERS": str(ledgers),
    }
    async with AsyncExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        for one in instances:
            words = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{one.port}", f"{one.service}:app"]
            own = {"SHOP_INSTANCE": one.name, **one.environment}
            await stack.enter_async_context(_open_process(words, output, {**environment, **own}))
        words = [str(BIN / "pannier"), "run", "-f", str(HERE / "pannier.toml"), "--profile", profile]
        yield Mesh(await stack.enter_async_context(_open_process(words, output, environment)), instances)


async def say_to_pannier(words: Sequence[str]) -> str:
    """Gives a command of `pannier` as an operator would; what it said if it failed, else nothing."""
    done = await trio.run_process(
        [str(BIN / "pannier"), *words], stdin=b"", capture_stdout=True, stderr=STDOUT, check=False
    )
    return f"{done.stdout.decode(errors='replace').strip()} (exit code {done.returncode})" if done.returncode else ""


@asynccontextmanager
async def _open_process(
    words: Sequence[str], output: BinaryIO, environment: Mapping[str, str]
) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        words, stdin=DEVNULL, stdout=output, stderr=STDOUT, cwd=HERE, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def _listens(instance: Instance) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", instance.port)).aclose()
    except OSError:
        return False
    return True


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
