"""Unix stream sockets that only their owner can use: binding, and knowing who is at the other end.

Everything of ours runs under one uid, so the kernel's word for it (`SO_PEERCRED`) is checked on both ends: a server
refuses strangers, and a client refuses a server that a stranger put there first.
Refused: `umask` around `bind` (it is the whole process's, and another thread creates files meanwhile). The mode is set
on the socket before it is bound, so there is no moment at which the name exists with another one.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import trio
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.shared.runtime import SOCKET_NAME_LIMIT

_BACKLOG = 128
_UCRED = struct.Struct("=iII")


@dataclass(frozen=True)
class Credentials:
    """Who was at the other end when the connection was made; `pid` is 0 if it lives in another namespace."""

    pid: int
    uid: int


def credentials(sock: trio.socket.SocketType) -> Credentials:
    """Credentials of the process at the other end of a connected Unix socket."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(pid, uid)


def listen_unix(path: Path) -> trio.SocketListener:
    """Listens on `path`, mode 0600. A stale socket of ours is replaced; the caller unlinks the name when it is done.

    Raises `PannierError` if the path is too long, if something that is no stale socket of ours is there (a file, a
    symlink, another user's socket, a socket that answers), or if the system refuses.
    """
    _check_length(path)
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise PannierError(
            f"cannot listen on {path}: {error.strerror}",
            hint="check that its folder exists and is yours",
            blame=Blame.PLATFORM,
        ) from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def connect_unix(path: Path) -> trio.SocketStream:
    """Connects to `path`. Raises `Unreachable` if nobody listens there, `PannierError` if a stranger does."""
    _check_length(path)
    try:
        stream = await trio.open_unix_socket(path)
    except OSError as error:
        raise Unreachable(
            f"nobody listens on {path}: {error.strerror or error}",
            hint="is the service running? `pannier ps` lists what runs",
        ) from error
    server = credentials(stream.socket)
    if server.uid != os.geteuid():
        await trio.aclose_forcefully(stream)
        raise PannierError(
            f"{path} is served by uid {server.uid}, not by {os.geteuid()}",
            hint="run the command as the user who started the service",
            blame=Blame.PEER,
        )
    return stream


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > SOCKET_NAME_LIMIT:
        raise PannierError(
            f"{path} takes {length} bytes; a socket's path holds {SOCKET_NAME_LIMIT}",
            hint="set PANNIER_RUNTIME_DIR to a shorter folder",
            blame=Blame.CONFIG,
        )


def remove_stale(path: Path) -> None:
    """Removes a socket of ours that nobody answers on. Raises `PannierError` if anything else is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PannierError(f"cannot look at {path}: {error.strerror}", blame=Blame.PLATFORM) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise PannierError(f"{path} is in the way: it is no socket", hint="remove it", blame=Blame.PLATFORM)
    if found.st_uid != os.geteuid():
        raise PannierError(
            f"{path} belongs to uid {found.st_uid}",
            hint="remove it, or set PANNIER_RUNTIME_DIR to a folder of your own",
            blame=Blame.PLATFORM,
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # its backlog is full, or it is a socket of another type
    raise PannierError(
        f"{path} is in use by another process", hint="stop it, or choose another name", blame=Blame.PLATFORM
    )
