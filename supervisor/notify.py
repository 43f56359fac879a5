"""The notify socket: how the proxy, which is no peer of the bus, says that it is ready, alive and drained.

The format is systemd's sd_notify: datagrams of `KEY=value` lines. The kernel says which process sent one, so what a
dead proxy left in the queue is never taken for its successor's word.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from pannier.shared.errors import Blame, PannierError

READY: Final = "READY"
WATCHDOG: Final = "WATCHDOG"
DRAINED: Final = "PANNIER_DRAINED"

_CREDENTIALS = struct.Struct("=iII")
_LONGEST = 4096


def open_notify(path: Path) -> trio.socket.SocketType:
    """Binds `path`, mode 0600, in the place of what an earlier supervisor left. Raises PannierError."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        os.fchmod(found.fileno(), 0o600)
        found.bind(os.fspath(path))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    except OSError as error:
        found.close()
        raise PannierError(
            f"cannot listen on {path}: {error.strerror}",
            hint="check that its folder exists and is yours",
            blame=Blame.PLATFORM,
        ) from error
    return trio.socket.from_stdlib_socket(found)


async def hear(notify: trio.socket.SocketType, told: Callable[[int, dict[str, str]], None]) -> None:
    """Calls `told(pid, fields)` for every datagram of this user, until cancelled."""
    space = socket.CMSG_SPACE(_CREDENTIALS.size)
    while True:
        try:
            data, ancillary, _, _ = await notify.recvmsg(_LONGEST, space)
        except ConnectionError:
            continue
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid, uid, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
                if uid == os.geteuid():
                    told(pid, fields_of(data))


def fields_of(data: bytes) -> dict[str, str]:
    """The `KEY=value` lines of one datagram; lines without `=` are left out."""
    pairs = (line.partition("=") for line in data.decode(errors="replace").splitlines())
    return {key: value for key, equals, value in pairs if equals}
