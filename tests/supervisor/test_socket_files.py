"""Which paths may be listened on, and which files may be replaced: a real keeper, real sockets."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import trio
from pannier.shared.errors import PannierError
from pannier.supervisor.keeper import Keeper
from pannier.supervisor.keeper_start import start_keeper
from pannier.supervisor.plan import UnixListener
from pannier.supervisor.socket_files import bind_unix, check_folder


@pytest.fixture
async def keeper(short_path: Path) -> AsyncIterator[Keeper]:
    async with start_keeper(short_path / "keeper", 0) as started:
        yield started
        await started.shutdown(0)


@pytest.fixture
def path(short_path: Path) -> Path:
    (short_path / "sockets").mkdir()
    return short_path / "sockets" / "orders.sock"


def wanted(path: Path) -> UnixListener:
    return UnixListener("inbound", str(path), 0o660, 2, "--port")


async def bind(keeper: Keeper, path: Path) -> str:
    return await bind_unix(keeper, wanted(path), path.parent.parent)


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))


def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    if kind is not socket.SOCK_DGRAM:
        sock.listen(0)
    return sock


def overrun(path: Path) -> socket.socket:
    """One whose backlog is full."""
    sock = listening(path)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
    return sock


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def answers(path: Path) -> bool:
    try:
        await (await trio.open_unix_socket(path)).aclose()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("before", [lambda _: None, stale])
async def test_a_free_path_and_a_dead_services_are_listened_on(
    keeper: Keeper, path: Path, before: Callable[[Path], None]
) -> None:
    before(path)
    assert await bind(keeper, path) == str(path)
    assert mode(path) == 0o660
    assert await answers(path)


async def test_a_keeper_that_holds_it_already_holds_it(keeper: Keeper, path: Path) -> None:
    for _ in range(2):
        assert await bind(keeper, path) == str(path)
    assert await answers(path)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (listening, "in use by another process"),
        (overrun, "in use by another process"),
        (lambda path: listening(path, socket.SOCK_SEQPACKET), "in use by another process"),
        (lambda path: nullcontext(path.write_text("kept")), "it is no socket"),
        (lambda path: nullcontext(path.symlink_to("/nowhere")), "it is no socket"),
        (lambda path: nullcontext(path.mkdir()), "it is no socket"),
    ],
)
async def test_what_is_somebody_elses_is_refused_and_left(
    keeper: Keeper, path: Path, before: Callable[[Path], AbstractContextManager[object]], message: str
) -> None:
    with before(path):
        found = os.lstat(path).st_ino
        with pytest.raises(PannierError, match=message) as caught:
            await bind(keeper, path)
        assert (str(path) in caught.value.message, "--port" in caught.value.hint) == (True, True)
        assert os.lstat(path).st_ino == found
        assert (await keeper.list()).held == ()


async def test_of_two_that_start_at_once_one_is_refused(short_path: Path, path: Path) -> None:
    """The second one must not take the first one's new socket for the stale file that it saw."""
    for _ in range(20):
        stale(path)
        outcomes: list[str] = []

        async def start(name: str, outcomes: list[str] = outcomes) -> None:
            async with start_keeper(short_path / name, 0) as keeper:
                try:
                    await bind(keeper, path)
                    outcomes.append("bound")
                except PannierError as error:
                    outcomes.append("refused" if "in use" in error.message else error.message)
                while len(outcomes) < 2:  # noqa: ASYNC110  # one event a keeper would say no more
                    await trio.sleep(0.001)
                await keeper.shutdown(0)
                async for _ in keeper.events():
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, "one")
            nursery.start_soon(start, "two")
        assert sorted(outcomes) == ["bound", "refused"]
        assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o700, False), (0o755, False), (0o775, False), (0o1777, False), (0o777, True), (0o702, True)],
)
def test_a_folder_in_which_everybody_may_replace_the_socket(path: Path, mode: int, refused: bool) -> None:
    path.parent.chmod(mode)
    if not refused:
        check_folder(path, "--port")
        return
    with pytest.raises(PannierError, match="everybody may write") as caught:
        check_folder(path, "--port")
    assert f"chmod o-w {path.parent}" in caught.value.hint


def test_a_folder_that_is_not_there_or_is_none(path: Path) -> None:
    with pytest.raises(PannierError, match="No such file") as caught:
        check_folder(path.parent / "more" / "a.sock", "--outbound-port")
    assert f"mkdir -p {path.parent}/more" in caught.value.hint
    assert "--outbound-port" in caught.value.hint
    path.write_text("")
    with pytest.raises(PannierError, match="is no folder"):
        check_folder(path / "a.sock", "--port")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(path: Path) -> None:
    os.chown(path.parent, 12345, -1)
    with pytest.raises(PannierError, match="belongs to uid 12345"):
        check_folder(path, "--port")


def test_a_folder_of_root_is_as_good_as_ones_own() -> None:
    check_folder(Path("/run/orders.sock"), "--port")
    check_folder(Path("/tmp/orders.sock"), "--port")
