"""Reaching the keeper of a service's folder, and starting one where none lives.

Whoever starts a keeper first binds its socket, so that connecting never races with its start; the folder is locked
meanwhile, so that there is one starter.

Refused: `subprocess` for the start, since the socket must be descriptor 3 and `pass_fds` keeps numbers; a lock file,
since the directory itself can be locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal as signals
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio
from pannier.shared.errors import Blame, PannierError
from pannier.shared.unix import credentials
from pannier.supervisor import keeper_protocol as protocol
from pannier.supervisor.keeper import Keeper, receive_message
from pannier.supervisor.keeper_protocol import Greeting, KeeperError, KeeperGone, Op, Reader
from pannier.supervisor.presence import answers

SOCKET_NAME = "keeper.sock"
BUS_NAME = "bus.sock"
"""Where a living supervisor answers, with or without a keeper."""

_LISTENER = 3
_ANSWER_PATIENCE = 5.0
_ENDING_PATIENCE = 5.0
_ENDING_POLL = 0.02


@asynccontextmanager
async def connect_keeper(directory: Path) -> AsyncIterator[Keeper]:
    """Controls the keeper that runs in `directory`; leaving the block ends the connection, not the keeper.

    Raises KeeperGone if none runs, KeeperError EBUSY if another supervisor controls it, ESHUTDOWN if it is ending.
    """
    try:
        connection = _connect(directory)
    except BlockingIOError as error:
        raise PannierError(
            f"the keeper in {directory} accepts nobody",
            hint="is it stopped? kill -CONT its process",
            blame=Blame.PLATFORM,
            retryable=True,
        ) from error
    if connection is None:
        raise KeeperGone(f"no keeper runs in {directory}")
    greeting = await _greet(connection)
    async with _conversation(Keeper(connection, greeting, adopted=True), None) as keeper:
        yield keeper


@asynccontextmanager
async def start_keeper(directory: Path, orphan_grace_ms: int, *, own_group: bool = True) -> AsyncIterator[Keeper]:
    """Controls the keeper of `directory`, and starts one if none lives; one that is just ending is waited for.

    The grace is in milliseconds, or `NEVER`, and is a new keeper's: one that lives keeps what it was told, until its
    controller has understood what it holds. `own_group`: a new keeper leaves our process group, so that a signal to
    the group, SIGKILL above all, spares whoever ends what is orphaned by it. Raises KeeperError EBUSY if another
    supervisor controls the keeper or lives on without one, and PannierError if none can be started.
    """
    connection, greeting, child = await _reach(directory, orphan_grace_ms, own_group)
    async with _conversation(Keeper(connection, greeting, adopted=child is None), child) as keeper:
        yield keeper


async def _reach(
    directory: Path, orphan_grace_ms: int, own_group: bool
) -> tuple[trio.socket.SocketType, Greeting, int | None]:
    """A connection to the keeper, its greeting, and its pid if it was started here."""
    deadline = trio.current_time() + _ENDING_PATIENCE
    while True:
        child = None
        try:
            with _locked(directory):
                connection = _connect(directory)
                if connection is None:
                    if answers(directory / BUS_NAME):
                        raise KeeperError(errno.EBUSY, "its supervisor lives on without a keeper")
                    child = _start(directory, orphan_grace_ms, own_group)
                    connection = _connect(directory)
            if connection is not None:
                return connection, await _greet(connection), child
            reason = PannierError(
                f"the keeper in {directory} ended at once",
                hint="its lines above say why; `pannier check` looks at this host",
                blame=Blame.PLATFORM,
            )
        except KeeperError as error:
            if error.errno != errno.ESHUTDOWN:
                raise
            reason = error
        except KeeperGone as error:
            reason = error
        except (BlockingIOError, FileNotFoundError) as error:
            reason = PannierError(
                f"cannot reach the keeper in {directory}: {error.strerror}",
                hint="another `pannier run` of that name may be starting or stopping; try again in a moment",
                blame=Blame.PLATFORM,
            )
        if child is not None:
            _collect(child)
        if child is not None or trio.current_time() > deadline:
            raise reason
        await trio.sleep(_ENDING_POLL)


@asynccontextmanager
async def _conversation(keeper: Keeper, child: int | None) -> AsyncIterator[Keeper]:
    with _single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.receive)
            if child is not None:
                nursery.start_soon(_reap, child)
            try:
                yield keeper
            finally:
                if not keeper.close():
                    nursery.cancel_scope.cancel()
                # A keeper that ended leaves a zombie in a moment; one that lives on is not ours to wait for.
                nursery.cancel_scope.shield = True
                nursery.cancel_scope.deadline = trio.current_time() + 1


async def _reap(child: int) -> None:
    descriptor = os.pidfd_open(child)
    try:
        await trio.lowlevel.wait_readable(descriptor)
        _collect(child)
    finally:
        os.close(descriptor)


def _collect(child: int) -> None:
    """Takes the exit status of a keeper that ended; one that has not is left alone."""
    with suppress(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


@contextmanager
def _single_error() -> Iterator[None]:
    """The nursery is our own affair: what the block raised leaves it as it was raised."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            del error, context


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One starter at a time. Raises BlockingIOError if there is another."""
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _connect(directory: Path) -> trio.socket.SocketType | None:
    """A connection, or None if nobody listens. Never blocks."""
    path = directory / SOCKET_NAME
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        connection.connect(os.fspath(path))
        connected = trio.socket.from_stdlib_socket(connection)
        if credentials(connected).uid != os.geteuid():
            raise PannierError(f"{path} belongs to another user", hint=f"rm {path}", blame=Blame.PLATFORM)
        return connected
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BlockingIOError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise PannierError(
            f"cannot connect to {path}: {error.strerror}", hint=f"see what it is: ls -l {path}", blame=Blame.PLATFORM
        ) from error
    except BaseException:
        connection.close()
        raise


def keeper_program() -> Path:
    """The keeper of this installation. Not resolved: in a virtual environment the interpreter is a symlink, and the
    keeper is beside the link."""
    return Path(sys.executable).parent / "pannier-keeper"


def _start(directory: Path, orphan_grace_ms: int, own_group: bool) -> int:
    """Binds the socket, which nobody listens to, and starts a keeper on it; its pid."""
    path = directory / SOCKET_NAME
    command = [str(keeper_program()), "--dir", str(directory), "--orphan-grace-ms", str(orphan_grace_ms)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            _remove_stale(path)
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(path))
            listener.listen()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PannierError(
                f"cannot listen on {path}: {error.strerror}",
                hint="check that its folder exists and is yours",
                blame=Blame.PLATFORM,
            ) from error
        try:
            return os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, listener.fileno(), _LISTENER)],
                setsigmask=[],
                # The interpreter ignores these, and what is ignored is inherited.
                setsigdef=[signals.SIGPIPE, signals.SIGXFSZ],
                setpgroup=0 if own_group else os.getpgrp(),
            )
        except OSError as error:
            hint = "install pannier again: pip install --force-reinstall pannier"
            raise PannierError(
                f"cannot start {command[0]}: {error.strerror}", hint=hint, blame=Blame.PLATFORM
            ) from error


def _remove_stale(path: Path) -> None:
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise PannierError(
                f"{path} is no socket of yours", hint=f"look at what it is, then: rm {path}", blame=Blame.PLATFORM
            )
        path.unlink()


async def _greet(connection: trio.socket.SocketType) -> Greeting:
    """Says HELLO before anything else runs on the connection, which is closed if that fails."""
    try:
        with trio.move_on_after(_ANSWER_PATIENCE):
            await connection.send(protocol.request(Op.HELLO, 0, protocol.hello()))
            message, _ = await receive_message(connection)
            if not message:
                raise KeeperGone("the keeper went away before it answered")
            status = struct.unpack_from("<i", message, 5)[0]
            if status != 0:
                raise KeeperError(status, Reader(message[9:]).text())
            return protocol.read_greeting(message[9:])
        raise PannierError(
            f"the keeper does not answer within {_ANSWER_PATIENCE:g} s",
            hint="is it stopped? kill -CONT its process",
            blame=Blame.PLATFORM,
        )
    except OSError as error:
        connection.close()
        raise KeeperGone(f"the keeper went away before it answered: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
