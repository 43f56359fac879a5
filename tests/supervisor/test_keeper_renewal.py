"""A keeper that becomes another program: nobody whom it holds may notice. A real `pannier-keeper`, real processes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from pannier.supervisor.keeper import Exited, Keeper, KeeperError, Stdio
from pannier.supervisor.keeper_start import start_keeper

from tests.supervisor.test_keeper import ENV, PATIENCE, ended, exists, exit_of, is_there, read_line, spawn_shell

PROGRAM = Path(sys.executable).parent / "pannier-keeper"


@pytest.fixture
async def keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keeper]:
    async with start_keeper(tmp_path_factory.mktemp("k"), 0) as started:
        yield started
        await started.aclose()
        await ended(started.pid)


async def test_it_has_everything_that_it_had(keeper: Keeper, short_path: Path) -> None:
    port = await keeper.listen("public", "127.0.0.1:0", 2)
    await keeper.listen_unix("local", str(short_path / "a.sock"), 0o600, 1)
    await keeper.memfd("hot", 4096)
    await keeper.note_put("plan", b"\0plan")
    output = await spawn_shell(keeper, "app", "trap 'echo told' USR1; echo ready; while :; do sleep 0.05; done")
    assert await read_line(output) == "ready"
    await keeper.spawn("over", ["sh", "-c", "exit 3"], env=ENV)
    assert await exit_of(keeper, "over")
    before = await keeper.list()
    pid, started = keeper.pid, keeper.started_ms

    await keeper.renew(PROGRAM)

    assert await keeper.list() == before
    greeting = await keeper.hello()
    assert (greeting.pid, greeting.started_ms) == (pid, started)
    assert await keeper.note_get("plan") == b"\0plan"
    assert await keeper.listen("public", "127.0.0.1:0", 2) == port
    with socket.socket(fileno=await keeper.fetch("local.0")) as listener:
        assert listener.getsockname() == str(short_path / "a.sock")
    memory = await keeper.fetch("hot")
    assert os.fstat(memory).st_size == 4096
    os.close(memory)
    await keeper.signal("app", signal.SIGUSR1)
    assert await read_line(output) == "told"


async def test_a_process_that_ends_afterwards_is_reaped_and_told(keeper: Keeper) -> None:
    pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
    await keeper.renew(PROGRAM)
    await keeper.signal("app", signal.SIGTERM)
    assert await exit_of(keeper, "app") == Exited("app", pid, signal=signal.SIGTERM)
    assert not exists(pid)
    assert await keeper.spawn("app", ["sleep", "60"], env=ENV) != pid


async def test_children_inherit_nothing_of_what_was_left(keeper: Keeper) -> None:
    await keeper.listen("public", "127.0.0.1:0", 1)
    await keeper.memfd("hot", 4096)
    await keeper.renew(PROGRAM)
    await keeper.spawn("app", ["sh", "-c", "ls /proc/$$/fd; echo end"], env=ENV, stdout=Stdio.PIPE)
    output = trio.lowlevel.FdStream(await keeper.fetch("app.stdout"))
    lines = []
    while not lines or lines[-1] != "end":
        lines.append(await read_line(output))
    assert set(lines) <= {"0", "1", "2", "end"}


async def test_hundred_in_a_row_leak_no_descriptor(keeper: Keeper) -> None:
    await keeper.listen("public", "127.0.0.1:0", 2)
    await spawn_shell(keeper, "app", "sleep 60")
    await keeper.renew(PROGRAM)
    before = os.listdir(f"/proc/{keeper.pid}/fd")
    for _ in range(100):
        await keeper.renew(PROGRAM)
    assert os.listdir(f"/proc/{keeper.pid}/fd") == before


async def test_a_file_of_a_socket_goes_with_it_as_ever(keeper: Keeper, short_path: Path) -> None:
    path = short_path / "a.sock"
    await keeper.listen_unix("local", str(path), 0o600, 2)
    await keeper.renew(PROGRAM)
    await keeper.release("local")
    assert not is_there(path)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/bin/false", "cannot take over"),
        ("/nowhere/pannier-keeper", "No such file"),
        ("/bin/sleep", "cannot take over"),
    ],
)
async def test_a_program_that_cannot_take_over_is_refused_and_the_old_one_goes_on(
    keeper: Keeper, program: str, reason: str, short_path: Path
) -> None:
    await keeper.listen_unix("local", str(short_path / "a.sock"), 0o600, 1)
    pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
    with pytest.raises(KeeperError, match=reason) as caught:
        await keeper.renew(program)
    assert caught.value.errno == errno.ENOEXEC
    (running,) = (await keeper.list()).processes
    assert (running.pid, running.running) == (pid, True)
    assert is_there(short_path / "a.sock")


async def test_a_program_that_looks_and_says_nothing_is_given_up(keeper: Keeper, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    with pytest.raises(KeeperError, match="cannot take over"):
        await keeper.renew(hangs)
    assert (await keeper.list()).processes == ()


async def test_another_file_becomes_the_program(keeper: Keeper, tmp_path: Path) -> None:
    """As after an installation: the old file may be gone by then."""
    copy = tmp_path / "pannier-keeper-2"
    shutil.copy2(PROGRAM, copy)
    await keeper.renew(copy)
    assert os.readlink(f"/proc/{keeper.pid}/exe") == str(copy)


async def test_two_processes_exchange_their_names(keeper: Keeper) -> None:
    first = await keeper.spawn("proxy", ["sleep", "60"], env=ENV)
    second = await keeper.spawn("proxy.2", ["sleep", "60"], env=ENV)
    await keeper.swap("proxy", "proxy.2")
    assert {process.name: process.pid for process in (await keeper.list()).processes} == {
        "proxy.2": first,
        "proxy": second,
    }
    with trio.fail_after(PATIENCE):
        await keeper.signal("proxy", signal.SIGKILL)
        assert (await exit_of(keeper, "proxy")).pid == second
    with pytest.raises(KeeperError) as caught:
        await keeper.swap("proxy", "nobody")
    assert caught.value.errno == errno.ENOENT
