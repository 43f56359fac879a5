"""Reaching the keeper of a service's folder, and starting one where none lives.

How a keeper's process is started is in `keeper_birth.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio
from pannier.shared.errors import Blame, PannierError
from pannier.shared.unix import credentials
from pannier.supervisor import keeper_protocol as protocol
from pannier.supervisor.keeper import Keeper, receive_message
from pannier.supervisor.keeper_birth import BUS_NAME, SOCKET_NAME, Born, locked, start
from pannier.supervisor.keeper_protocol import Greeting, KeeperError, KeeperGone, Op, Reader
from pannier.supervisor.presence import answers

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
async def start_keeper(
    directory: Path, orphan_grace_ms: int, *, own_group: bool = True, born: Born | None = None
) -> AsyncIterator[Keeper]:
    """Controls the keeper of `directory`, and starts one if none lives; one that is just ending is waited for.

    The grace is in milliseconds, or `NEVER`, and is a new keeper's: one that lives keeps what it was told, until its
    controller has understood what it holds. `own_group`: a new keeper leaves our process group, so that a signal to
    the group, SIGKILL above all, spares whoever ends what is orphaned by it. `born` is a keeper that was started for
    this call; its grace is 0 until it is told another. Raises KeeperError EBUSY if another
    supervisor controls the keeper or lives on without one, and PannierError if none can be started.
    """
    connection, greeting, child = await _meet(born) or await _reach(directory, orphan_grace_ms, own_group)
    async with _conversation(Keeper(connection, greeting, adopted=child is None), child) as keeper:
        yield keeper


async def _meet(born: Born | None) -> tuple[trio.socket.SocketType, Greeting, int | None] | None:
    """The keeper that was started for us; None if there is none, or if it is gone: then `_reach` says why."""
    if born is None:
        return None
    connection = trio.socket.from_stdlib_socket(born.connection)
    try:
        return connection, await _greeted(connection), born.pid
    except KeeperGone:
        _collect(born.pid)
        return None


async def _reach(
    directory: Path, orphan_grace_ms: int, own_group: bool
) -> tuple[trio.socket.SocketType, Greeting, int | None]:
    """A connection to the keeper, its greeting, and its pid if it was started here."""
    deadline = trio.current_time() + _ENDING_PATIENCE
    while True:
        child = None
        try:
            with locked(directory):
                connection = _connect(directory)
                if connection is None:
                    if answers(directory / BUS_NAME):
                        raise KeeperError(errno.EBUSY, "its supervisor lives on without a keeper")
                    child = start(directory, orphan_grace_ms, own_group)
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


async def _greet(connection: trio.socket.SocketType) -> Greeting:
    """Says HELLO before anything else runs on the connection, which is closed if that fails."""
    try:
        await connection.send(protocol.request(Op.HELLO, 0, protocol.hello()))
    except OSError as error:
        connection.close()
        raise KeeperGone(f"the keeper went away before it answered: {error.strerror}") from error
    return await _greeted(connection)


async def _greeted(connection: trio.socket.SocketType) -> Greeting:
    """The answer to HELLO; the connection is closed if there is none."""
    try:
        with trio.move_on_after(_ANSWER_PATIENCE):
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
