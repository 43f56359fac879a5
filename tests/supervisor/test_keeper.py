"""The keeper as its controller sees it: a real `pannier-keeper`, real processes."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.inheritance import inherited_fds
from pannier.supervisor.keeper import NEVER, Exited, Keeper, KeeperError, KeeperGone, Stdio
from pannier.supervisor.keeper_start import BUS_NAME, SOCKET_NAME, connect_keeper, start_keeper

PATIENCE = 5.0
ENV = {"PATH": "/usr/bin:/bin"}
IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 1; done"
OPEN_DESCRIPTORS = """
import os
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
print(os.environ.get("PANNIER_FDS", ""))
print(*[number for number in range(256) if is_open(number)])
"""


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("k")


@pytest.fixture
async def keeper(directory: Path) -> AsyncIterator[Keeper]:
    async with start_keeper(directory, 0) as started:
        yield started
        await started.aclose()
        await ended(started.pid)


async def ended(pid: int) -> None:
    """Waits for the end of any process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def exit_of(keeper: Keeper, name: str) -> Exited:
    with trio.fail_after(PATIENCE):
        async for exited in keeper.events():
            if exited.name == name:
                return exited
    raise AssertionError(f"{name} did not end")


async def spawn_shell(keeper: Keeper, name: str, script: str, *, own_group: bool = True) -> trio.lowlevel.FdStream:
    """Starts a script; its output."""
    await keeper.spawn(name, ["sh", "-c", script], env=ENV, stdout=Stdio.PIPE, own_group=own_group)
    return trio.lowlevel.FdStream(await keeper.fetch(f"{name}.stdout"))


async def read_line(stream: trio.abc.ReceiveStream) -> str:
    line = b""
    with trio.fail_after(PATIENCE):
        while not line.endswith(b"\n"):
            data = await stream.receive_some(1)
            assert data, f"the output ended after {line!r}"
            line += data
    return line.decode().strip()


async def read_all(stream: trio.abc.ReceiveStream) -> str:
    with trio.fail_after(PATIENCE):
        return b"".join([data async for data in stream]).decode()


def is_there(path: Path) -> bool:
    return os.path.exists(path)


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return is_there(Path(f"/proc/{pid}"))


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def refused(awaitable: Awaitable[object]) -> int:
    with pytest.raises(KeeperError) as caught:
        await awaitable
    return caught.value.errno


class TestProcesses:
    @pytest.mark.parametrize(
        ("script", "code", "signal_", "shell"),
        [
            ("exit 0", 0, None, 0),
            ("exit 3", 3, None, 3),
            ("kill -9 $$", None, 9, 137),
            ("kill -TERM $$", None, 15, 143),
        ],
    )
    async def test_an_end_is_an_event_and_stays_on_the_list(
        self, keeper: Keeper, script: str, code: int | None, signal_: int | None, shell: int
    ) -> None:
        pid = await keeper.spawn("app", ["sh", "-c", script], env=ENV)
        exited = await exit_of(keeper, "app")
        assert exited == Exited("app", pid, code=code, signal=signal_)
        assert exited.exit_code == shell
        (process,) = (await keeper.list()).processes
        assert (process.pid, process.running, process.exited) == (pid, False, exited)
        await keeper.forget("app")
        assert (await keeper.list()).processes == ()

    async def test_a_running_process_is_listed_with_its_start_time(self, keeper: Keeper) -> None:
        pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
        (process,) = (await keeper.list()).processes
        assert (process.name, process.pid, process.running, process.start_time) == (
            "app",
            pid,
            True,
            start_time(pid),
        )

    async def test_names_are_unique_while_they_run(self, keeper: Keeper) -> None:
        first = await keeper.spawn("app", ["sleep", "60"], env=ENV)
        assert await refused(keeper.spawn("app", ["sleep", "60"], env=ENV)) == errno.EEXIST
        assert await refused(keeper.forget("app")) == errno.EBUSY
        await keeper.signal("app", signal.SIGKILL)
        await exit_of(keeper, "app")
        second = await keeper.spawn("app", ["sleep", "60"], env=ENV)
        assert [process.pid for process in (await keeper.list()).processes] == [second] != [first]

    async def test_what_cannot_be_executed_is_refused_with_its_errno(self, keeper: Keeper, directory: Path) -> None:
        plain = directory / "plain"
        plain.write_text("no program")
        assert await refused(keeper.spawn("a", ["/no/such/program"], env=ENV)) == errno.ENOENT
        assert await refused(keeper.spawn("a", ["no-such-program"], env=ENV)) == errno.ENOENT
        assert await refused(keeper.spawn("a", [str(plain)], env=ENV)) == errno.EACCES
        assert await refused(keeper.spawn("a", ["true"], env=ENV, cwd="/no/such/folder")) == errno.ENOENT
        assert await refused(keeper.spawn("a", ["true"], env=ENV, cwd=plain)) == errno.ENOTDIR
        assert await refused(keeper.spawn("a", [], env=ENV)) == errno.EINVAL
        assert await refused(keeper.spawn("a", ["nul\0"], env=ENV)) == errno.EINVAL
        assert await refused(keeper.spawn("a", ["true"], env=ENV, held=["nothing"])) == errno.ENOENT
        assert await refused(keeper.spawn("a", ["true"], env=ENV, stdin=Stdio.PIPE)) == errno.EINVAL
        assert await refused(keeper.spawn("a", ["true"], env={"BIG": "x" * 70_000})) == errno.EMSGSIZE
        assert (await keeper.list()).processes == ()

    async def test_a_child_gets_its_own_environment_folder_and_arguments(self, keeper: Keeper, directory: Path) -> None:
        env = {**ENV, "ODD": "a=b", "RAW": os.fsdecode(b"\xff"), "PANNIER_FDS": "stale=9"}
        script = 'pwd; echo "$1"; env | sort'
        argv = ["sh", "-c", script, "sh", "an argument"]
        await keeper.spawn("app", argv, env=env, cwd=directory, stdout=Stdio.PIPE)
        async with trio.lowlevel.FdStream(await keeper.fetch("app.stdout")) as stream:
            lines = b"".join([data async for data in stream]).splitlines()
        assert lines[:2] == [os.fsencode(directory), b"an argument"]
        assert {b"ODD=a=b", b"RAW=\xff", b"PATH=/usr/bin:/bin"} <= set(lines)
        assert not [line for line in lines if line.startswith((b"PANNIER_FDS", b"HOME"))]

    async def test_signals_reach_one_process_or_its_group(self, keeper: Keeper) -> None:
        # The inner shell is a member of the group, and reports the signal by its end.
        inner = "trap 'echo inner; exit' USR1; echo ready; while :; do sleep 0.01; done"
        script = f'sh -c "{inner}" & trap : USR1; wait; wait'
        output = await spawn_shell(keeper, "app", script)
        assert await read_line(output) == "ready"
        await keeper.signal("app", signal.SIGUSR1, whole_group=True)
        assert await read_line(output) == "inner"
        await exit_of(keeper, "app")
        assert await refused(keeper.signal("app", signal.SIGTERM)) == errno.ESRCH
        assert await refused(keeper.signal("other", signal.SIGTERM)) == errno.ESRCH

    async def test_nonsense_signals_are_refused(self, keeper: Keeper) -> None:
        await keeper.spawn("app", ["sleep", "60"], env=ENV)
        for number in (0, -1, 9999):
            assert await refused(keeper.signal("app", number)) == errno.EINVAL

    async def test_a_process_leads_its_own_group_only_if_asked_to(self, keeper: Keeper) -> None:
        own = await keeper.spawn("own", ["sleep", "60"], env=ENV, own_group=True)
        shared = await keeper.spawn("shared", ["sleep", "60"], env=ENV, own_group=False)
        assert os.getpgid(own) == own
        assert os.getpgid(shared) == os.getpgid(keeper.pid)

    async def test_ignored_and_handled_signals_are_not_inherited(self, keeper: Keeper) -> None:
        output = await spawn_shell(keeper, "app", "grep -E 'Sig(Ign|Blk)' /proc/self/status")
        masks = {line.split(":")[0]: int(line.split()[1], 16) for line in (await read_all(output)).splitlines()}
        # 32 and 33 belong to the C library, which ignores them in what it spawns.
        assert masks == {"SigBlk": 0, "SigIgn": masks["SigIgn"] & (1 << 31 | 1 << 32)}

    async def test_terminal_signals_do_not_end_the_keeper(self, keeper: Keeper) -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(keeper.pid, number)
            assert (await keeper.hello()).pid == keeper.pid

    async def test_orphans_of_a_process_are_reaped(self, keeper: Keeper) -> None:
        output = await spawn_shell(keeper, "app", "sleep 60 & echo $!")
        stranger = int(await read_line(output))
        await exit_of(keeper, "app")
        os.kill(stranger, signal.SIGKILL)
        await ended(stranger)
        while exists(stranger):
            await keeper.list()


class TestHeld:
    async def test_listeners_share_one_port(self, keeper: Keeper) -> None:
        port = await keeper.listen("public", "127.0.0.1:0", 3)
        assert (await keeper.list()).held == ("public.0", "public.1", "public.2")
        for name in ("public.0", "public.1", "public.2"):
            with socket.socket(fileno=await keeper.fetch(name)) as listener:
                assert listener.getsockname() == ("127.0.0.1", port)
                assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
                assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
                assert not os.get_blocking(listener.fileno())
                assert not os.get_inheritable(listener.fileno())
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.aclose()

    async def test_asking_again_is_no_error_and_asking_differently_is(self, keeper: Keeper) -> None:
        port = await keeper.listen("public", "[::1]:0", 2)
        assert await keeper.listen("public", "[::1]:0", 2) == port
        assert await refused(keeper.listen("public", "127.0.0.1:0", 2)) == errno.EEXIST
        assert await refused(keeper.memfd("public.1", 4096)) == errno.EEXIST
        assert await refused(keeper.listen("other", "localhost:80", 1)) == errno.EINVAL
        assert await refused(keeper.listen("other", "127.0.0.1:0", 0)) == errno.EINVAL
        assert await refused(keeper.listen("a,b", "127.0.0.1:0", 1)) == errno.EINVAL

    async def test_a_listener_gets_the_sockets_that_it_lacks_and_loses_none(self, keeper: Keeper) -> None:
        port = await keeper.listen("public", "127.0.0.1:0", 1)
        assert await keeper.listen("public", "127.0.0.1:0", 3) == port
        assert await keeper.listen("public", f"127.0.0.1:{port}", 2) == port
        assert (await keeper.list()).held == ("public.0", "public.1", "public.2")
        with socket.socket(fileno=await keeper.fetch("public.2")) as listener:
            assert listener.getsockname() == ("127.0.0.1", port)
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1

    async def test_a_port_of_another_reuseport_listener_is_taken(self, keeper: Keeper) -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            assert await refused(keeper.listen("public", address, 2)) == errno.EADDRINUSE
        assert (await keeper.list()).held == ()

    async def test_released_is_closed(self, keeper: Keeper) -> None:
        port = await keeper.listen("public", "127.0.0.1:0", 2)
        await keeper.release("public")
        assert (await keeper.list()).held == ()
        assert await keeper.listen("public", f"127.0.0.1:{port}", 1) == port
        assert await refused(keeper.release("nothing")) == errno.ENOENT

    async def test_descriptors_of_a_unix_listener_are_one_socket(self, keeper: Keeper, short_path: Path) -> None:
        path = short_path / "a.sock"
        await keeper.listen_unix("public", str(path), 0o660, 3)
        assert (await keeper.list()).held == ("public.0", "public.1", "public.2")
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660, "whatever the umask"
        for number in range(3):
            async with await trio.open_unix_socket(path):
                with socket.socket(fileno=await keeper.fetch(f"public.{number}")) as listener:
                    assert listener.getsockname() == str(path)
                    assert not os.get_blocking(listener.fileno())
                    assert not os.get_inheritable(listener.fileno())
                    listener.accept()[0].close()
                    with pytest.raises(BlockingIOError):
                        listener.accept()

    async def test_asking_again_for_a_unix_listener(self, keeper: Keeper, short_path: Path) -> None:
        path = str(short_path / "a.sock")
        for count in (2, 2, 3, 1):
            await keeper.listen_unix("public", path, 0o600, count)
        assert (await keeper.list()).held == ("public.0", "public.1", "public.2")
        with socket.socket(fileno=await keeper.fetch("public.2")) as listener:
            assert listener.getsockname() == path
        assert await refused(keeper.listen_unix("public", path, 0o660, 2)) == errno.EEXIST
        assert await refused(keeper.listen("public", "127.0.0.1:0", 2)) == errno.EEXIST
        assert await refused(keeper.listen_unix("other", path, 0o600, 2)) == errno.EADDRINUSE
        assert await refused(keeper.listen_unix("other", str(short_path / "b.sock"), 0o600, 0)) == errno.EINVAL
        assert await refused(keeper.listen_unix("other", str(short_path / "no" / "b.sock"), 0o600, 1)) == errno.ENOENT
        assert await refused(keeper.listen_unix("other", "/" + "x" * 120, 0o600, 1)) == errno.ENAMETOOLONG
        assert os.listdir(short_path) == ["a.sock"]

    @pytest.mark.parametrize("how", ["release", "shutdown"])
    async def test_the_file_of_a_unix_listener_goes_with_it(self, keeper: Keeper, short_path: Path, how: str) -> None:
        kept, replaced = short_path / "kept.sock", short_path / "replaced.sock"
        for path in (kept, replaced):
            await keeper.listen_unix(path.stem, str(path), 0o600, 2)
        replaced.unlink()
        replaced.write_text("somebody else's")
        if how == "release":
            await keeper.release("kept")
            await keeper.release("replaced")
        else:
            await keeper.shutdown(0)
            await ended(keeper.pid)
        assert os.listdir(short_path) == ["replaced.sock"], "what took its place is not ours to remove"

    async def test_memory_is_sealed_and_shared(self, keeper: Keeper) -> None:
        size = 16 << 20
        assert await keeper.memfd("table.base", size)
        assert not await keeper.memfd("table.base", size)
        assert await refused(keeper.memfd("table.base", size + 1)) == errno.EEXIST
        first, second = await keeper.fetch("table.base"), await keeper.fetch("table.base")
        try:
            assert os.fstat(first).st_size == size
            for other in (0, size - 1, size + 1):
                with pytest.raises(PermissionError):
                    os.ftruncate(first, other)
            os.pwrite(first, b"shared", 4096)
            assert os.pread(second, 6, 4096) == b"shared"
        finally:
            os.close(first)
            os.close(second)
        assert await refused(keeper.fetch("nothing")) == errno.ENOENT

    async def test_a_child_sees_its_streams_and_what_it_was_given(self, keeper: Keeper) -> None:
        await keeper.memfd("table.base", 4096)
        await keeper.memfd("secret", 4096)
        await keeper.listen("public", "127.0.0.1:0", 2)
        for held, names in (
            (["public", "table.base", "public.0"], {"table.base", "public.0", "public.1"}),
            (["public.1"], {"public.1"}),
            ([], set()),
        ):
            argv = [sys.executable, "-c", OPEN_DESCRIPTORS]
            await keeper.spawn("app", argv, env=ENV, stdout=Stdio.PIPE, held=held)
            async with trio.lowlevel.FdStream(await keeper.fetch("app.stdout")) as stream:
                told, numbers = (await read_all(stream)).split("\n")[:2]
            await exit_of(keeper, "app")
            inherited = inherited_fds({"PANNIER_FDS": told})
            assert set(inherited) == names
            assert {int(number) for number in numbers.split()} == {0, 1, 2, *inherited.values()}

    async def test_notes_are_kept(self, keeper: Keeper) -> None:
        await keeper.note_put("plan", b"first")
        await keeper.note_put("plan", bytes(180 * 1024))
        assert await keeper.note_get("plan") == bytes(180 * 1024)
        assert (await keeper.list()).notes == ("plan",)
        assert await refused(keeper.note_get("nothing")) == errno.ENOENT
        assert await refused(keeper.note_put("plan", bytes(180 * 1024 + 1))) == errno.EMSGSIZE


class TestOutput:
    async def test_a_chatty_child_is_never_blocked(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as keeper:
            script = "head -c 3000000 /dev/zero; echo end >&2"
            pid = await keeper.spawn("app", ["sh", "-c", script], env=ENV, stdout=Stdio.PIPE, stderr=Stdio.PIPE)
        await ended(pid)
        async with connect_keeper(directory) as keeper:
            assert int.from_bytes(await keeper.note_get("app.discarded"), "little") >= 3_000_000 - (1 << 20)
            async with trio.lowlevel.FdStream(await keeper.fetch("app.stderr")) as stream:
                assert await read_all(stream) == "end\n"
            await keeper.forget("app")
            assert await refused(keeper.fetch("app.stdout")) == errno.ENOENT
            await keeper.shutdown(0)
            await ended(keeper.pid)


class TestAdoption:
    async def test_the_next_supervisor_finds_everything(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as first:
            assert not first.adopted
            lasting = await first.spawn("lasting", ["sleep", "60"], env=ENV)
            brief = await first.spawn("brief", ["sh", "-c", "sleep 0.1; exit 5"], env=ENV)
            port = await first.listen("public", "127.0.0.1:0", 1)
            await first.note_put("plan", b"v1")
        await ended(brief)
        async with start_keeper(directory, 0) as second:
            assert second.adopted
            assert (second.pid, second.started_ms) == (first.pid, first.started_ms)
            listing = await second.list()
            found = {process.name: (process.pid, process.exited) for process in listing.processes}
            assert found == {"lasting": (lasting, None), "brief": (brief, Exited("brief", brief, code=5))}
            assert (listing.held, listing.notes) == (("public.0",), ("plan",))
            assert await second.listen("public", "127.0.0.1:0", 1) == port
            await second.signal("lasting", signal.SIGKILL)
            assert (await exit_of(second, "lasting")).exit_code == 137
            await second.shutdown(0)
            await ended(second.pid)

    async def test_who_does_not_understand_what_it_finds_leaves_it_its_grace(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as first:
            pid = await first.spawn("lasting", ["sleep", "60"], env=ENV)
        async with start_keeper(directory, 0):
            pass
        async with connect_keeper(directory) as third:
            assert [process.pid for process in (await third.list()).processes if process.running] == [pid]
            await third.shutdown(0)
            await ended(third.pid)

    async def test_a_second_controller_is_told_who_is_first(self, keeper: Keeper, directory: Path) -> None:
        with pytest.raises(KeeperError, match=str(os.getpid())) as caught:
            async with start_keeper(directory, 0):
                pass
        assert caught.value.errno == errno.EBUSY
        assert (await keeper.hello()).pid == keeper.pid

    async def test_where_a_supervisor_lives_without_a_keeper_none_is_started(self, directory: Path) -> None:
        with socket.socket(socket.AF_UNIX) as bus:
            bus.bind(os.fspath(directory / BUS_NAME))
            bus.listen()
            with pytest.raises(KeeperError, match="without a keeper") as caught:
                async with start_keeper(directory, 0):
                    pass
        assert caught.value.errno == errno.EBUSY
        assert os.listdir(directory) == [BUS_NAME]

    async def test_of_two_starters_one_controls_and_no_second_keeper_runs(self, directory: Path) -> None:
        pids, refusals = set(), []
        together = trio.Event()

        async def start() -> None:
            try:
                async with start_keeper(directory, 0) as keeper:
                    pids.add(keeper.pid)
                    await together.wait()
                    await keeper.aclose()
            except KeeperError as error:
                refusals.append(error.errno)
            if len(pids) + len(refusals) == 4:
                together.set()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(start)
        assert refusals == [errno.EBUSY] * 3
        (pid,) = pids
        await ended(pid)

    async def test_a_stale_socket_is_replaced_and_a_foreign_file_is_not(self, directory: Path) -> None:
        path = directory / SOCKET_NAME
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
            stale.bind(os.fspath(path))
        async with start_keeper(directory, 0) as keeper:
            await keeper.aclose()
            await ended(keeper.pid)
        os.mkdir(directory)
        path.write_text("mine")
        with pytest.raises(Exception, match="no socket of yours"):
            async with start_keeper(directory, 0):
                pass

    async def test_nobody_to_connect_to_is_said(self, directory: Path) -> None:
        with pytest.raises(KeeperGone):
            async with connect_keeper(directory):
                pass

    async def test_a_killed_keeper_ends_calls_and_events(self, directory: Path) -> None:
        async with start_keeper(directory, 0) as keeper:
            os.kill(keeper.pid, signal.SIGSTOP)
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(KeeperGone):
                        await keeper.list()

                nursery.start_soon(call)
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(keeper.pid, signal.SIGKILL)
            with trio.fail_after(PATIENCE):
                assert [exited async for exited in keeper.events()] == []
            with pytest.raises(KeeperGone):
                await keeper.hello()
        # It was our child, and leaves no zombie.
        assert not exists(keeper.pid)
        async with start_keeper(directory, 0) as successor:
            assert successor.pid != keeper.pid
            await successor.aclose()
            await ended(successor.pid)

    async def test_an_error_in_the_block_leaves_it_as_it_was_raised(self, directory: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            async with start_keeper(directory, 0) as keeper:
                raise ZeroDivisionError
        await ended(keeper.pid)


class TestEnd:
    async def test_orphans_end_within_two_seconds_whatever_they_ignore(self, directory: Path) -> None:
        (directory / "access.log").write_text("line\n")
        async with start_keeper(directory, 0) as keeper:
            stubborn = await spawn_shell(keeper, "stubborn", IGNORES_TERM)
            grouped = await spawn_shell(keeper, "grouped", IGNORES_TERM, own_group=False)
            daemon = await spawn_shell(keeper, "daemon", f'setsid sh -c "echo \\$\\$; {IGNORES_TERM}" & wait')
            assert (await read_line(stubborn), await read_line(grouped)) == ("ready", "ready")
            pids = [int(await read_line(daemon)), *[process.pid for process in (await keeper.list()).processes]]
            assert await read_line(daemon) == "ready"
        before = time.monotonic()
        for pid in (*pids, keeper.pid):
            await ended(pid)
        assert time.monotonic() - before < 2
        assert not is_there(directory)

    async def test_a_keeper_without_processes_ends_at_once(self, directory: Path) -> None:
        async with start_keeper(directory, 0) as keeper:
            pass
        before = time.monotonic()
        await ended(keeper.pid)
        assert time.monotonic() - before < 0.5

    async def test_a_supervisor_that_returns_in_time_stops_the_clock(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as keeper:
            await keeper.grace(300)
            pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
        async with connect_keeper(directory) as keeper:
            clock = await keeper.spawn("clock", ["sleep", "0.5"], env=ENV)
            await exit_of(keeper, "clock")
            assert clock != pid
            assert [process.running for process in (await keeper.list()).processes] == [True, False]
        await ended(pid)
        await ended(keeper.pid)

    async def test_never_keeps_them(self, directory: Path) -> None:
        async with start_keeper(directory, 0) as keeper:
            await keeper.grace(NEVER)
            lasting = await keeper.spawn("lasting", ["sleep", "60"], env=ENV)
            clock = await keeper.spawn("clock", ["sleep", "0.5"], env=ENV)
        await ended(clock)
        async with connect_keeper(directory) as keeper:
            assert [process.pid for process in (await keeper.list()).processes if process.running] == [lasting]
            await keeper.shutdown(1000)
            await ended(keeper.pid)

    async def test_shutdown_reports_the_last_exits_and_leaves_nothing(self, directory: Path) -> None:
        for name in ("urls.json", "access.log"):
            (directory / name).write_text("")
        with socket.socket(socket.AF_UNIX) as bus:
            bus.bind(os.fspath(directory / "bus.sock"))
        async with start_keeper(directory, NEVER) as keeper:
            willing = await keeper.spawn("willing", ["sleep", "60"], env=ENV)
            output = await spawn_shell(keeper, "stubborn", IGNORES_TERM)
            assert await read_line(output) == "ready"
            await keeper.shutdown(200)
            assert await refused(keeper.spawn("late", ["true"], env=ENV)) == errno.ESHUTDOWN
            with trio.fail_after(PATIENCE):
                exits = [(exited.name, exited.signal) async for exited in keeper.events()]
            assert exits == [("willing", signal.SIGTERM), ("stubborn", signal.SIGKILL)]
            assert willing
        assert not is_there(directory)
        assert not exists(keeper.pid)

    async def test_what_is_not_ours_stays(self, directory: Path) -> None:
        (directory / "folder").mkdir()
        (directory / "link").symlink_to("/etc/hostname")
        (directory / "file").write_text("")
        async with start_keeper(directory, NEVER) as keeper:
            await keeper.shutdown(0)
            await ended(keeper.pid)
        assert sorted(os.listdir(directory)) == ["folder", "link"]

    async def test_a_successor_waits_for_the_end_of_its_predecessor(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as keeper:
            output = await spawn_shell(keeper, "stubborn", IGNORES_TERM)
            assert await read_line(output) == "ready"
            await keeper.shutdown(300)
        async with start_keeper(directory, 0) as successor:
            assert not successor.adopted
            assert successor.pid != keeper.pid
            assert (await successor.list()).processes == ()
            await successor.aclose()
            await ended(successor.pid)

    async def test_a_stopped_keeper_is_killed_when_its_answer_takes_too_long(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as keeper:
            pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
            os.kill(keeper.pid, signal.SIGSTOP)
            keeper.patience = 0.1
            with trio.fail_after(PATIENCE), pytest.raises(KeeperGone):
                await keeper.signal("app", signal.SIGTERM)
            assert [exited async for exited in keeper.events()] == []
        assert not exists(keeper.pid)
        os.kill(pid, signal.SIGKILL)

    async def test_sigterm_is_an_orderly_end(self, directory: Path) -> None:
        async with start_keeper(directory, NEVER) as keeper:
            pid = await keeper.spawn("app", ["sleep", "60"], env=ENV)
            os.kill(keeper.pid, signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                assert [exited.signal async for exited in keeper.events()] == [signal.SIGTERM]
            await ended(pid)
        assert not is_there(directory)


class TestHostileMessages:
    @pytest.fixture
    def raw(self, directory: Path, keeper: Keeper) -> socket.socket:
        """A connection beside the controller's."""
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        raw.settimeout(PATIENCE)
        raw.connect(os.fspath(directory / SOCKET_NAME))
        return raw

    async def answer(self, raw: socket.socket, message: bytes) -> tuple[int, int, int]:
        raw.send(message)
        reply = await trio.to_thread.run_sync(raw.recv, 65536)
        return struct.unpack_from("<BIi", reply)

    async def test_malformed_messages_get_einval(self, keeper: Keeper, raw: socket.socket) -> None:
        with raw:
            assert await self.answer(raw, b"\x07") == (0x87, 0, errno.EINVAL)
            assert await self.answer(raw, struct.pack("<BIH", 7, 5, 9)) == (0x87, 5, errno.EINVAL)
            assert await self.answer(raw, struct.pack("<BI", 99, 6)) == (0xE3, 6, errno.EINVAL)
            assert await self.answer(raw, struct.pack("<BI", 2, 7) + bytes(65536)) == (0x82, 7, errno.EINVAL)
            assert await self.answer(raw, struct.pack("<BI", 2, 8)) == (0x82, 8, errno.EPERM)
            assert await self.answer(raw, struct.pack("<BIII", 1, 9, 2, 1)) == (0x81, 9, errno.EPROTONOSUPPORT)
            assert await self.answer(raw, struct.pack("<BIII", 1, 9, 1, 1)) == (0x81, 9, errno.EBUSY)
        assert (await keeper.hello()).pid == keeper.pid

    async def test_random_bytes_do_not_end_it(self, keeper: Keeper, raw: socket.socket) -> None:
        chance = random.Random(1)
        with raw:
            for _ in range(300):
                message = bytes([chance.randrange(1, 15)]) + chance.randbytes(chance.randrange(0, 60))
                assert (await self.answer(raw, message))[2] in (errno.EINVAL, errno.EPERM, errno.EPROTONOSUPPORT)
        assert (await keeper.hello()).pid == keeper.pid

    async def test_a_peer_that_never_reads_holds_nobody_up(self, keeper: Keeper, raw: socket.socket) -> None:
        with raw:
            raw.setblocking(False)
            with pytest.raises(BlockingIOError):
                for sequence in range(1_000_000):
                    raw.send(struct.pack("<BI", 2, sequence))
            assert (await keeper.hello()).pid == keeper.pid

    async def test_descriptors_sent_along_are_not_kept(self, keeper: Keeper, raw: socket.socket) -> None:
        with raw:
            await self.answer(raw, struct.pack("<BI", 2, 0))
            before = len(os.listdir(f"/proc/{keeper.pid}/fd"))
            socket.send_fds(raw, [struct.pack("<BI", 2, 1)], [raw.fileno()])
            await trio.to_thread.run_sync(raw.recv, 65536)
            assert len(os.listdir(f"/proc/{keeper.pid}/fd")) == before

    async def test_out_of_descriptors_it_neither_spins_nor_forgets_who_waits(
        self, keeper: Keeper, directory: Path
    ) -> None:
        before = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
        clock = await spawn_shell(keeper, "clock", "sleep 0.6; echo over")
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (6, before[1]))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waiting:
            waiting.settimeout(PATIENCE)
            waiting.connect(os.fspath(directory / SOCKET_NAME))
            spent = cpu_seconds(keeper.pid)
            assert await read_line(clock) == "over"
            assert cpu_seconds(keeper.pid) - spent < 0.1
            resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, before)
            assert await self.answer(waiting, struct.pack("<BI", 2, 8)) == (0x82, 8, errno.EPERM)

    async def test_connections_are_limited(self, keeper: Keeper, directory: Path) -> None:
        crowd = []
        try:
            for _ in range(50):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                crowd.append(one)
                one.connect(os.fspath(directory / SOCKET_NAME))
            assert (await keeper.hello()).pid == keeper.pid
            await keeper.list()
            assert len(os.listdir(f"/proc/{keeper.pid}/fd")) < 32
        finally:
            for one in crowd:
                one.close()


async def test_a_used_keeper_is_small(keeper: Keeper) -> None:
    for number in range(8):
        await keeper.spawn(f"app-{number}", ["sleep", "60"], env=ENV, stdout=Stdio.PIPE)
        await keeper.memfd(f"memory-{number}", 16 << 20)
    await keeper.note_put("plan", bytes(60 * 1024))  # a plan takes about 2 KiB
    assert resident_kib(keeper.pid) <= 3 * 1024


async def test_wrong_usage_is_explained() -> None:
    program = str(Path(sys.executable).parent / "pannier-keeper")
    finished = await trio.run_process([program, "--dir"], check=False, capture_stderr=True)
    assert finished.returncode == 2
    assert b"--dir needs a value" in finished.stderr
