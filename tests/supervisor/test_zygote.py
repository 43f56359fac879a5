"""The zygote behind a real keeper: what it forks is what would have been executed, and it may fail at any time."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.supervisor.keeper import Exited, Keeper, KeeperError, KeeperGone, Stdio
from pannier.supervisor.keeper_protocol import ZYGOTE, Op
from pannier.supervisor.keeper_start import start_keeper

PATIENCE = 20.0
MODULE = "a_sidecar"
SOURCE = "import os\nexec(os.environ['SCRIPT'])\n"
PORTRAIT = """
import json, os, sys
fds = {}
for number in range(256):
    try:
        fds[number] = os.readlink(f"/proc/self/fd/{number}").partition(":")[0], os.get_inheritable(number)
    except OSError:
        pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "fds": fds, "env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv[1:], "orig_argv": sys.orig_argv,
    "parent": os.getppid(), "leads": os.getpgrp() == os.getpid(), "session": os.getsid(0),
    "signals": [status[key].split()[0] for key in ("SigBlk", "SigIgn", "SigCgt")],
    "flags": str(sys.flags), "path": sys.path, "name": __name__, "spec": __spec__.name,
    "shown": open("/proc/self/cmdline").read().rstrip(chr(0)), "random": __import__("random").random(),
}))
"""


class Nest:
    """A keeper, and a folder from which the zygote's children are loaded."""

    def __init__(self, keeper: Keeper, folder: Path) -> None:
        self.keeper = keeper
        self.folder = folder
        (folder / f"{MODULE}.py").write_text(SOURCE)

    async def hatch(self, *preloaded: str) -> int:
        """Starts a zygote, which loads; its PID."""
        argv = [sys.executable, "-P", "-m", "pannier.supervisor.zygote", *preloaded]
        return await self.keeper.spawn(ZYGOTE, argv, env=self.environment(), how=Op.ZYGOTE)

    async def hatched(self) -> int:
        """Starts a zygote and waits until it can be used; its PID."""
        news = self.keeper.zygote_news
        pid = await self.hatch()
        with trio.fail_after(PATIENCE):
            await news.wait()
        return pid

    async def start(self, name: str, script: str, how: Op = Op.FORK, **more: Any) -> int:
        return await self.keeper.spawn(
            name,
            [sys.executable, "-P", "-m", MODULE, "word"],
            env=self.environment(SCRIPT=script),
            stdout=Stdio.PIPE,
            stderr=Stdio.PIPE,
            how=how,
            **more,
        )

    async def exits(self, count: int) -> list[Exited]:
        found: list[Exited] = []
        with trio.fail_after(PATIENCE):
            while len(found) < count:
                exited = await self.keeper.events().receive()
                if exited.name != ZYGOTE:
                    found.append(exited)
        return found

    async def wait_ended(self, name: str) -> Exited:
        with trio.fail_after(PATIENCE):
            while (exited := await self.keeper.events().receive()).name != name:
                pass
        return exited

    async def output(self, name: str) -> str:
        stream = trio.lowlevel.FdStream(await self.keeper.fetch(f"{name}.stdout"))
        with trio.fail_after(PATIENCE):
            return b"".join([data async for data in stream]).decode()

    def environment(self, **more: str) -> Mapping[str, str]:
        return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.folder), "EMPTY": "", "EQUALS": "a=b", **more}


@pytest.fixture
async def nest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nest]:
    folder = tmp_path_factory.mktemp("z")
    async with start_keeper(folder / "k", 0) as keeper:
        yield Nest(keeper, folder)
        with suppress(KeeperGone), trio.fail_after(PATIENCE):
            await keeper.shutdown(0)
            async for _ in keeper.events():
                pass


def is_forked(pid: int) -> bool:
    """Whether it is the zygote's: an executed interpreter has its program's name."""
    return Path(f"/proc/{pid}/comm").read_text().strip() == MODULE


async def test_a_forked_process_sees_what_an_executed_one_sees(nest: Nest) -> None:
    await nest.keeper.memfd("table", 4096)
    await nest.keeper.listen("metrics", "127.0.0.1:0", 2)
    await nest.hatched()
    portraits = []
    for how in (Op.SPAWN, Op.FORK):
        await nest.start("a", PORTRAIT, how, cwd=nest.folder, held=("table", "metrics"))
        portraits.append(json.loads(await nest.output("a")))
        await nest.exits(1)
    executed, forked = portraits
    assert executed.pop("random") != forked.pop("random")
    assert len(forked["env"]["PANNIER_FDS"].split(",")) == 3
    assert forked == executed


@pytest.mark.parametrize(
    ("script", "code", "signal_"),
    [
        ("pass", 0, None),
        ("raise SystemExit(3)", 3, None),
        ("raise ValueError", 1, None),
        ("os._exit(7)", 7, None),
        ("os.kill(os.getpid(), 9)", None, 9),
        ("os.kill(os.getpid(), 15)", None, 15),
    ],
)
async def test_an_end_is_reported_as_that_of_any_process(
    nest: Nest, script: str, code: int | None, signal_: int | None
) -> None:
    await nest.hatched()
    pid = await nest.start("a", script)
    assert await nest.exits(1) == [Exited("a", pid, code=code, signal=signal_)]


async def test_no_end_is_lost_however_soon_it_comes(nest: Nest) -> None:
    await nest.hatched()
    pids = [await nest.start(f"a{number}", "os._exit(5)") for number in range(20)]
    ends = await nest.exits(20)
    assert sorted(end.pid for end in ends) == sorted(pids)
    assert {end.code for end in ends} == {5}


async def test_what_was_printed_last_arrives_once(nest: Nest) -> None:
    await nest.hatched()
    await nest.start("a", "import atexit; atexit.register(print, 'bye'); print('said', end=' ')")
    assert await nest.output("a") == "said bye\n"


async def test_a_directory_that_may_not_be_entered_is_refused_as_by_exec(nest: Nest) -> None:
    await nest.hatched()
    with pytest.raises(KeeperError) as caught:
        await nest.start("a", "pass", cwd=nest.folder / "nowhere")
    assert caught.value.errno == errno.ENOENT
    pid = await nest.start("b", "import time; time.sleep(60)")
    assert is_forked(pid)


async def test_children_share_no_randomness(nest: Nest) -> None:
    """Trio's clock starts at a random time, by which tasks of different processes keep out of each other's way."""
    news = nest.keeper.zygote_news
    await nest.hatch("trio")
    with trio.fail_after(PATIENCE):
        await news.wait()
    origin = "import time, trio\nasync def f(): print(round(trio.current_time() - time.perf_counter()))\ntrio.run(f)"
    said = set()
    for number in range(3):
        await nest.start(f"a{number}", origin)
        said.add(await nest.output(f"a{number}"))
    assert len(said) == 3


async def test_another_command_line_is_executed(nest: Nest) -> None:
    zygote = await nest.hatched()
    command = ["sh", "-c", "exit 4"]
    pid = await nest.keeper.spawn(
        "a", command, env=nest.environment(), stdout=Stdio.PIPE, stderr=Stdio.PIPE, how=Op.FORK
    )
    assert await nest.exits(1) == [Exited("a", pid, code=4)]
    os.kill(zygote, 0)


async def test_without_a_zygote_it_is_executed(nest: Nest) -> None:
    pid = await nest.start("a", "print('here')")
    assert await nest.exits(1) == [Exited("a", pid, code=0)]


async def test_one_that_loads_is_not_waited_for_by_the_keeper(nest: Nest) -> None:
    gate = nest.folder / "gate"
    os.mkfifo(gate)
    (nest.folder / "slow.py").write_text(f"open({str(gate)!r}).read()\n")
    news = nest.keeper.zygote_news
    await nest.hatch("slow")
    with pytest.raises(KeeperError) as caught:
        await nest.start("a", "pass")
    assert caught.value.errno == errno.EAGAIN
    await trio.to_thread.run_sync(gate.write_text, "go")
    with trio.fail_after(PATIENCE):
        await news.wait()
    assert is_forked(await nest.start("a", "import time; time.sleep(60)"))


async def test_one_that_cannot_load_a_module_serves_all_the_same(nest: Nest) -> None:
    (nest.folder / "broken.py").write_text("1 / 0\n")
    news = nest.keeper.zygote_news
    await nest.hatch("no.such.module", "broken")
    with trio.fail_after(PATIENCE):
        await news.wait()
    assert is_forked(await nest.start("a", "import time; time.sleep(60)"))


async def test_one_that_is_stopped_is_given_up(nest: Nest) -> None:
    zygote = await nest.hatched()
    os.kill(zygote, signal.SIGSTOP)
    pid = await nest.start("a", "import time; print('once', flush=True); time.sleep(60)")
    assert not is_forked(pid)
    assert (await nest.wait_ended(ZYGOTE)).signal == signal.SIGKILL
    await nest.hatched()
    assert is_forked(await nest.start("b", "import time; time.sleep(60)"))


async def test_whenever_it_is_killed_everybody_starts_exactly_once(nest: Nest) -> None:
    starts = nest.folder / "starts"
    script = f"os.write(os.open({str(starts)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'%d ' % os.getpid())"
    pids = []
    for number in range(12):
        zygote = await nest.hatched()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_after, zygote, number * 0.001)
            pids.append(await nest.start(f"a{number}", script))
        await nest.wait_ended(f"a{number}")
        while any(process.name == ZYGOTE and process.running for process in (await nest.keeper.list()).processes):
            await trio.lowlevel.checkpoint()
    assert [int(pid) for pid in starts.read_text().split()] == pids


async def _kill_after(pid: int, seconds: float) -> None:
    await trio.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


async def test_it_ends_with_the_keeper(nest: Nest) -> None:
    zygote = await nest.hatched()
    descriptor = os.pidfd_open(zygote)
    try:
        nest.keeper.kill()
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
