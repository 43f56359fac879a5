from __future__ import annotations

import os
import socket
import stat

import pytest
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.unix import connect_unix, credentials, listen_unix


async def test_only_the_owner_may_connect_from_the_first_moment(short_path):
    path = short_path / "bus.sock"
    before = os.umask(0)
    try:
        async with listen_unix(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_both_ends_know_each_other(short_path):
    path = short_path / "bus.sock"
    async with listen_unix(path) as listener, await connect_unix(path) as client, await listener.accept() as server:
        for end in (client, server):
            assert (credentials(end.socket).pid, credentials(end.socket).uid) == (os.getpid(), os.geteuid())


async def test_a_stale_socket_is_replaced(short_path):
    path = short_path / "bus.sock"
    async with listen_unix(path):
        pass
    assert path.exists()
    async with listen_unix(path), await connect_unix(path):
        pass


async def test_a_socket_that_answers_is_not(short_path):
    path = short_path / "bus.sock"
    async with listen_unix(path):
        with pytest.raises(PannierError, match="in use"):
            listen_unix(path)
        async with await connect_unix(path):
            pass


@pytest.mark.parametrize("make", ["file", "folder", "symlink", "dangling"])
async def test_what_is_no_socket_stays(short_path, make):
    path, other = short_path / "bus.sock", short_path / "other.sock"
    if make == "file":
        path.write_text("precious")
    elif make == "folder":
        path.mkdir()
    elif make == "symlink":
        async with listen_unix(other):
            pass
        path.symlink_to(other)
    else:
        path.symlink_to(other)
    with pytest.raises(PannierError, match="in the way"):
        listen_unix(path)
    assert path.is_symlink() or path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's socket")
async def test_another_users_socket_stays(short_path):
    path = short_path / "bus.sock"
    async with listen_unix(path):
        pass
    os.chown(path, 65534, -1)
    with pytest.raises(PannierError, match="belongs to uid 65534"):
        listen_unix(path)


async def test_a_path_that_is_too_long_says_so(short_path):
    path = short_path / ("x" * 107)
    with pytest.raises(PannierError, match="107"):
        listen_unix(path)
    with pytest.raises(PannierError, match="107"):
        await connect_unix(path)


async def test_the_longest_path_works(short_path):
    path = short_path / ("x" * (106 - len(str(short_path))))
    assert len(str(path)) == 107
    async with listen_unix(path), await connect_unix(path):
        pass


@pytest.mark.parametrize("there", ["nothing", "stale", "file"])
async def test_nobody_answers(short_path, there):
    path = short_path / "bus.sock"
    if there == "stale":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif there == "file":
        path.touch()
    with pytest.raises(Unreachable):
        await connect_unix(path)


async def test_a_folder_that_is_missing(short_path):
    with pytest.raises(PannierError, match="No such file"):
        listen_unix(short_path / "none" / "bus.sock")
