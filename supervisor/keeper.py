"""The supervisor's side of the keeper: what lives longer than the supervisor is asked for here.

One connection, one controller. Requests are numbered and may overlap; a reply finds its caller by that number. Rules:

* Every message is one datagram of at most 192 KiB; nothing is ever split or joined.
* A refusal of the keeper is a `KeeperError` with the errno. A keeper that goes away makes every call under way, and
  every later one, raise `KeeperGone`, and ends `Keeper.events`. Nothing here reconnects: who lost the keeper decides.
* A call that is cancelled may still be carried out: `list` tells.

How a connection comes about, and a keeper if there is none, is in `keeper_start.py`.
"""

from __future__ import annotations

import errno
import math
import os
import signal as signals
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio
from pannier.supervisor import keeper_protocol as protocol
from pannier.supervisor.keeper_protocol import (
    MESSAGE_MAX,
    NOTE_MAX,
    REPLY,
    Exited,
    Greeting,
    KeeperError,
    KeeperGone,
    Listing,
    Op,
    Process,
    Reader,
    Stdio,
)

__all__ = [
    "NEVER",
    "NOTE_MAX",
    "Exited",
    "Greeting",
    "Keeper",
    "KeeperError",
    "KeeperGone",
    "Listing",
    "Process",
    "Stdio",
]

NEVER = -1
"""A grace that never ends."""

_RIGHTS = socket.CMSG_SPACE(struct.calcsize("i"))


class _Waiter:
    """A call under way."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.answered = trio.Event()
        self.status: int | None = None
        self.body = b""
        self.fd: int | None = None


class Keeper:
    """The connection to a keeper; made by `start_keeper` and `connect_keeper`. Not usable after their block.

    Every method raises KeeperGone when the keeper is gone, and KeeperError when it refuses.
    """

    def __init__(self, connection: trio.socket.SocketType, greeting: Greeting, *, adopted: bool) -> None:
        self.pid = greeting.pid
        self.started_ms = greeting.started_ms
        self.adopted = adopted
        """Whether the keeper was running before: then it may hold what an earlier supervisor left."""
        self.patience = math.inf
        """Seconds for an answer; a keeper that takes longer is stopped or stuck, and is killed."""
        self._connection = connection
        self._sending = trio.Lock()
        self._waiting: dict[int, _Waiter] = {}
        self._sequence = 1
        self._gone = False
        self._exits, self._events = trio.open_memory_channel[Exited](math.inf)

    def __repr__(self) -> str:
        return f"<Keeper pid={self.pid} {'gone' if self._gone else 'connected'} waiting={len(self._waiting)}>"

    async def hello(self) -> Greeting:
        """Asks the keeper who it is; says at the same time that it answers."""
        return protocol.read_greeting((await self._call(Op.HELLO, protocol.hello())).body)

    async def list(self) -> Listing:
        """What the keeper has. Exits that nobody was connected to hear of show here."""
        return protocol.read_listing((await self._call(Op.LIST, b"")).body)

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | Path = "",
        own_group: bool = True,
        stdin: Stdio = Stdio.NULL,
        stdout: Stdio = Stdio.INHERIT,
        stderr: Stdio = Stdio.INHERIT,
        held: Sequence[str] = (),
    ) -> int:
        """Starts a process and returns its pid.

        `env` is its complete environment; the program is searched for on the PATH in there. `cwd` "" is the keeper's
        own. `held` names descriptors to inherit (a listener's name means all its sockets), which `PANNIER_FDS` tells
        the child. A dead entry of that name is replaced, and its pipes are closed.
        KeeperError: EEXIST if one of that name runs; ENOENT, EACCES and the like if it cannot be executed; EMSGSIZE if
        arguments and environment are over 192 KiB.
        """
        environment = [f"{key}={value}" for key, value in env.items()]
        body = b"".join(
            (
                protocol.text(name),
                protocol.texts(argv),
                protocol.texts(environment),
                protocol.text(os.fspath(cwd)),
                struct.pack("<BBBB", own_group, stdin, stdout, stderr),
                protocol.texts(held),
            )
        )
        return Reader((await self._call(Op.SPAWN, body)).body).u32()

    async def signal(self, name: str, signal: int, *, whole_group: bool = False) -> None:
        """Signals a process, or its whole group if it has its own. KeeperError ESRCH if it does not run."""
        await self._call(Op.SIGNAL, protocol.text(name) + struct.pack("<iB", signal, whole_group))

    async def listen(self, name: str, address: str, count: int) -> int:
        """Holds `count` listening sockets as `name.0`, `name.1`, …; returns their port.

        `address` is `127.0.0.1:80` or `[::]:80`; port 0 picks one. The same request again changes nothing and returns
        the same port; for more sockets, the listener gets those that it lacks, and it never loses one. KeeperError:
        EADDRINUSE, also when the port belongs to another keeper of this user; EEXIST if the name is taken.
        """
        body = protocol.text(name) + protocol.text(address) + struct.pack("<H", count)
        return Reader((await self._call(Op.LISTEN, body)).body).u16()

    async def listen_unix(self, name: str, path: str, mode: int, count: int) -> None:
        """Holds one Unix listener, whose file has exactly `mode`, by `count` descriptors `name.0`, `name.1`, ….

        The file is removed when the keeper lets go of it. The same request again changes nothing. KeeperError:
        EADDRINUSE if there is a file of that name, whatever it is; EEXIST if the listener's name is taken.
        """
        body = protocol.text(name) + protocol.text(path) + struct.pack("<IH", mode, count)
        await self._call(Op.LISTEN_UNIX, body)

    async def memfd(self, name: str, size: int) -> bool:
        """Holds `size` bytes of sealed memory; whether it was created now. KeeperError EEXIST: it has another size."""
        return Reader((await self._call(Op.MEMFD, protocol.text(name) + struct.pack("<Q", size))).body).u8() != 0

    async def fetch(self, name: str) -> int:
        """A descriptor of what is held by that name, or of `PROCESS.stdout` / `PROCESS.stderr`; the caller closes it.

        KeeperError ENOENT if there is none.
        """
        waiter = await self._call(Op.FETCH, protocol.text(name))
        if waiter.fd is None:
            raise KeeperError(errno.EBADMSG, f"the keeper answered without the descriptor {name}")
        return waiter.fd

    async def release(self, name: str) -> None:
        """Lets the keeper close what it holds by that name; processes that inherited it keep theirs."""
        await self._call(Op.RELEASE, protocol.text(name))

    async def note_put(self, key: str, value: bytes) -> None:
        """Leaves a note of at most `NOTE_MAX` bytes for the next supervisor."""
        await self._call(Op.NOTE_PUT, protocol.text(key) + struct.pack("<I", len(value)) + value)

    async def note_get(self, key: str) -> bytes:
        """Reads a note. KeeperError ENOENT if there is none. The keeper itself leaves `PROCESS.discarded` (u64,
        little-endian) when it had to discard piped output that nobody read."""
        return Reader((await self._call(Op.NOTE_GET, protocol.text(key))).body).blob()

    async def grace(self, milliseconds: int) -> None:
        """How long everything lives on without a supervisor; `NEVER` for ever."""
        await self._call(Op.GRACE, struct.pack("<q", milliseconds))

    async def forget(self, name: str) -> None:
        """Drops the entry of a process that ended, with its pipes. KeeperError: EBUSY if it runs, ENOENT."""
        await self._call(Op.FORGET, protocol.text(name))

    async def swap(self, one: str, other: str) -> None:
        """Has two processes exchange their names, at once. KeeperError ENOENT if there are not both."""
        await self._call(Op.SWAP, protocol.text(one) + protocol.text(other))

    async def renew(self, program: str | Path) -> None:
        """Has the keeper become `program`, another version of it, with the same PID and everything that it has; returns
        when that one serves. KeeperError, and the old one goes on: ENOEXEC if the program cannot take over (its reason
        is in the message), ESHUTDOWN if the keeper is ending."""
        await self._call(Op.RENEW, protocol.text(os.fspath(program)))

    async def shutdown(self, term_ms: int) -> None:
        """Ends everything: TERM to all that runs, KILL after `term_ms`, then the service's files, then the keeper.

        Returns once the keeper agreed; its end shows as the end of `events`.
        """
        await self._call(Op.SHUTDOWN, struct.pack("<I", term_ms))

    def events(self) -> trio.MemoryReceiveChannel[Exited]:
        """Exits as they happen, for one reader; ends when the keeper is gone. Those before the first read are kept."""
        return self._events

    def kill(self) -> None:
        """Ends a keeper that does not answer, SIGSTOP or not; what it started runs on."""
        if not self._gone:
            with suppress(OSError):
                os.kill(self.pid, signals.SIGKILL)
            self.close()

    async def aclose(self) -> None:
        """Ends the connection, not the keeper: its grace begins."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> bool:
        """Ends the connection; whether the keeper had ended it before."""
        was_gone = self._gone
        self._connection.close()
        self._end()
        return was_gone

    async def _call(self, op: Op, body: bytes) -> _Waiter:
        self._sequence = sequence = self._sequence % 0xFFFF_FFFF + 1
        message = protocol.request(op, sequence, body)
        waiter = _Waiter(op)
        if self._gone:
            raise self._farewell()
        self._waiting[sequence] = waiter
        try:
            with trio.move_on_after(self.patience) as waiting:
                async with self._sending:
                    try:
                        await self._connection.send(message)
                    except (OSError, trio.ClosedResourceError) as error:
                        raise self._farewell() from error
                await waiter.answered.wait()
            if waiting.cancelled_caught:
                self.kill()
        except BaseException:
            if waiter.fd is not None:
                os.close(waiter.fd)
            raise
        finally:
            self._waiting.pop(sequence, None)
        if waiter.status is None:
            raise self._farewell()
        if waiter.status != 0:
            raise KeeperError(waiter.status, Reader(waiter.body).text())
        return waiter

    def _farewell(self) -> KeeperGone:
        return KeeperGone(
            f"the keeper (pid {self.pid}) is gone", hint="what it started may still run; start the service again"
        )

    async def receive(self) -> None:
        """Hands out replies and events until the keeper is gone, or talks nonsense; raises nothing."""
        with suppress(OSError, trio.ClosedResourceError, KeeperError, struct.error):
            while True:
                message, fd = await receive_message(self._connection)
                if not message:
                    break
                self._deliver(message, fd)
        self._connection.close()
        self._end()

    def _deliver(self, message: bytes, fd: int | None) -> None:
        op, sequence = struct.unpack_from("<BI", message)
        waiter = self._waiting.get(sequence)
        if op == Op.EXITED:
            self._exits.send_nowait(protocol.read_exited(Reader(message[5:])))
        elif waiter is not None and op == waiter.op | REPLY and not waiter.answered.is_set():
            waiter.status, waiter.body, waiter.fd = struct.unpack_from("<i", message, 5)[0], message[9:], fd
            waiter.answered.set()
            fd = None
        if fd is not None:
            os.close(fd)

    def _end(self) -> None:
        self._gone = True
        self._exits.close()
        for waiter in self._waiting.values():
            waiter.answered.set()


async def receive_message(connection: trio.socket.SocketType) -> tuple[bytes, int | None]:
    """One message, empty at the end of the connection, and the descriptor that came with it."""
    message, ancillary, _, _ = await connection.recvmsg(MESSAGE_MAX, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return message, struct.unpack_from("i", data)[0]
    return message, None
