"""Unix listeners: whether a path may be listened on, and what to do about a file that is in the way.

The keeper binds, and says EADDRINUSE for whatever is there. What may be replaced is decided here: a socket of ours that
nobody answers on, nothing else.

Rules:
- Nobody but us and root may take a socket's place: its folder is ours or root's, and a folder in which everybody may
  write is sticky.
- The caller's side is 0660: `--port N` is open to all, and a proxy in front, which runs as another user, is let in by
  the group (the keeper's, or that of a setgid folder). What the app calls through is the app's alone: 0600.
- Of two services that find the same stale file, the second would remove the first one's new socket: starters of one
  runtime folder take turns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import trio
from pannier.shared.errors import Blame, PannierError
from pannier.shared.unix import remove_stale
from pannier.supervisor.keeper import KeeperError
from pannier.supervisor.plan import UnixListener

_TURN_PATIENCE: Final = 5.0  # seconds
_TURN_POLL: Final = 0.02


class Binder(Protocol):
    """What is needed of the keeper."""

    async def listen_unix(self, name: str, path: str, mode: int, count: int) -> None: ...


async def bind_unix(keeper: Binder, listener: UnixListener, runtime: Path) -> str:
    """Has the keeper hold the listener; its path. `runtime` is the folder whose services take turns.

    Raises PannierError that names the path and the option to change.
    """
    path = Path(listener.path)
    check_folder(path, listener.option)
    async with _turn(runtime):
        try:
            await _listen(keeper, listener)
        except KeeperError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refused(listener, error.message) from error
            _replace(path, listener)
            try:
                await _listen(keeper, listener)
            except KeeperError as again:
                raise _refused(listener, again.message) from again
    return listener.path


def check_folder(path: Path, option: str) -> None:
    """Raises PannierError unless the folder of `path` is one in which only we and root can put a socket there."""
    folder = path.parent
    other = f"or choose another path with {option}"
    try:
        found = folder.stat()
    except OSError as error:
        raise _unfit(f"{folder} cannot be used: {error.strerror}", f"make it: mkdir -p {folder}; {other}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unfit(f"{folder} is no folder", f"give {option} a path in one")
    if found.st_uid not in {0, os.geteuid()}:
        raise _unfit(
            f"{folder} belongs to uid {found.st_uid}, who could put a socket of his own in the place of ours",
            f"chown it, {other}",
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise _unfit(
            f"everybody may write in {folder}, and so put another socket in the place of ours",
            f"chmod o-w {folder}, {other}",
        )


async def _listen(keeper: Binder, listener: UnixListener) -> None:
    await keeper.listen_unix(listener.name, listener.path, listener.mode, listener.count)


def _replace(path: Path, listener: UnixListener) -> None:
    try:
        remove_stale(path)
    except PannierError as error:
        raise _unfit(
            f"{error.message} ({listener.name})",
            f"see who has it with `ss -lxp src {path}`, or choose another path with {listener.option}",
        ) from error


def _refused(listener: UnixListener, reason: str) -> PannierError:
    return PannierError(
        f"cannot listen on {listener.path} ({listener.name}): {reason}",
        hint=f"choose another path with {listener.option}",
        blame=Blame.PLATFORM,
    )


def _unfit(message: str, hint: str) -> PannierError:
    return PannierError(message, hint=hint, blame=Blame.USAGE)


@asynccontextmanager
async def _turn(runtime: Path) -> AsyncIterator[None]:
    descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with trio.move_on_after(_TURN_PATIENCE) as waiting:
            while not _locked(descriptor):  # noqa: ASYNC110  # a lock has no event
                await trio.sleep(_TURN_POLL)
        if waiting.cancelled_caught:
            raise PannierError(
                f"another service of {runtime} has been starting for {_TURN_PATIENCE:g} s",
                hint="try again in a moment",
                blame=Blame.PLATFORM,
                retryable=True,
            )
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
