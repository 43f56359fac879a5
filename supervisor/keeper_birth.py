"""Starting the keeper of a service's folder. Nothing here needs trio, so that it can be done before that is imported.

Whoever starts a keeper first binds its socket, so that connecting never races with its start; the folder is locked
meanwhile, so that there is one starter.

Refused: `subprocess` for the start, since the socket must be descriptor 3 and `pass_fds` keeps numbers; a lock file,
since the directory itself can be locked.
"""

from __future__ import annotations

import fcntl
import os
import signal as signals
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pannier.shared.errors import Blame, PannierError
from pannier.supervisor import keeper_protocol as protocol
from pannier.supervisor.keeper_protocol import ZYGOTE, Op, Stdio
from pannier.supervisor.preloading import zygote_argv
from pannier.supervisor.presence import answers

SOCKET_NAME = "keeper.sock"
BUS_NAME = "bus.sock"
"""Where a living supervisor answers, with or without a keeper."""

_LISTENER = 3


class Born(NamedTuple):
    """A keeper that was started, and the connection on which HELLO has been said."""

    pid: int
    connection: socket.socket

    def undo(self) -> None:
        """Ends it, since nobody needs it, and returns when nothing is left of it."""
        self.connection.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def begin(directory: Path, environment: Mapping[str, str], *, own_group: bool) -> Born | None:
    """Starts a keeper and has it start the zygote, waiting for neither; None where that is not plainly possible.

    Then the ordinary way finds a keeper that lives already, or says what is wrong. The keeper's grace is 0: it ends
    with this process, until it is told another.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        stdio = (Stdio.NULL, Stdio.PIPE, Stdio.PIPE)
        marked = {**environment, "PANNIER_BUS": os.fspath(directory / BUS_NAME)}
        zygote = protocol.spawn(ZYGOTE, zygote_argv(), env=marked, cwd="", own_group=True, stdio=stdio, held=())
        messages = protocol.request(Op.HELLO, 0, protocol.hello()), protocol.request(Op.ZYGOTE, 1, zygote)
        with locked(directory):
            if answers(directory / SOCKET_NAME, socket.SOCK_SEQPACKET) or answers(directory / BUS_NAME):
                raise FileExistsError
            pid = start(directory, 0, own_group)
            connection.setblocking(False)
            connection.connect(os.fspath(directory / SOCKET_NAME))
        for message in messages:
            connection.send(message)
    except (OSError, PannierError):
        connection.close()
        return None
    return Born(pid, connection)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One starter at a time. Raises BlockingIOError if there is another."""
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def keeper_program() -> Path:
    """The keeper of this installation. Not resolved: in a virtual environment the interpreter is a symlink, and the
    keeper is beside the link."""
    return Path(sys.executable).parent / "pannier-keeper"


def start(directory: Path, orphan_grace_ms: int, own_group: bool) -> int:
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
            text = f"cannot start {command[0]}: {error.strerror}"
            raise PannierError(text, hint=hint, blame=Blame.PLATFORM) from error


def _remove_stale(path: Path) -> None:
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise PannierError(
                f"{path} is no socket of yours", hint=f"look at what it is, then: rm {path}", blame=Blame.PLATFORM
            )
        path.unlink()
