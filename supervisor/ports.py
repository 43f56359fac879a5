"""TCP addresses: taking them apart, binding them, and what to say when one is taken.

The keeper binds, and it alone decides whether a port is taken: every listener of ours is SO_REUSEPORT, so asking the
kernel with the same option would let a second service of this user take half of the first one's connections in silence.
"""

from __future__ import annotations

import errno
import socket
from typing import Final, Protocol

from pannier.shared.errors import Blame, PannierError, UsageError
from pannier.supervisor.keeper import KeeperError
from pannier.supervisor.plan import Listener

NEXT_FREE_TRIES: Final = 200
_WORLD: Final = "192.0.2.1"
"""Of a network that nobody has."""


class Binder(Protocol):
    """What is needed of the keeper."""

    async def listen(self, name: str, address: str, count: int) -> int: ...


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:80` or `[::1]:80` as (host, port); raises UsageError for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{address!r} is no address", hint="write it as 127.0.0.1:8080 or [::1]:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def outward() -> str:
    """This host's own address where it would leave for the world; empty if there is no way. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((_WORLD, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


async def bind(keeper: Binder, listener: Listener) -> int:
    """Has the keeper hold the listener; the port. One that was not asked for by name gives way to the next free one.

    Raises PannierError that names the port and the option to change.
    """
    last = listener.port if listener.exact else min(listener.port + NEXT_FREE_TRIES, 65535)
    for port in range(listener.port, last + 1):
        try:
            return await keeper.listen(listener.name, f"{listener.host}:{port}", listener.count)
        except KeeperError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refused(listener, port, error) from error
    raise taken(last, listener.name, listener.option)


def taken(port: int, what: str, option: str) -> PannierError:
    """The error for a port that somebody else has."""
    return PannierError(
        f"port {port} ({what}) is taken",
        hint=f"see who has it with `ss -ltnp sport = :{port}`, or choose another with {option}",
        blame=Blame.USAGE,
    )


def _refused(listener: Listener, port: int, error: KeeperError) -> PannierError:
    hint = "choose a port from 1024 up" if error.errno == errno.EACCES else "choose an address of this host"
    return PannierError(
        f"cannot listen on {listener.host}:{port} ({listener.name}): {error.message}",
        hint=f"{hint}: {listener.option}",
        blame=Blame.PLATFORM,
    )
