"""Which TCP ports are free, and what to say when one is not.

Every listener of ours is SO_REUSEPORT, so that a second service of the same user could bind the same port and silently
take half of the first one's connections. So a port is probed by a bind *without* that option, which fails if anybody
listens there. Refused: asking by connecting, since a listener with a full backlog would look free.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from pannier.shared.errors import Blame, PannierError, UsageError

NEXT_FREE_TRIES: Final = 200


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:80` or `[::1]:80` as (host, port); raises UsageError for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{address!r} is no address", hint="write it as 127.0.0.1:8080 or [::1]:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_free(host: str, port: int) -> bool:
    """Whether a listener could bind there; raises PannierError if the address cannot be bound for another reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            hint = "choose a port from 1024 up" if error.errno == errno.EACCES else "choose an address of this host"
            raise PannierError(
                f"cannot listen on {host}:{port}: {error.strerror}", hint=hint, blame=Blame.PLATFORM
            ) from error
    return True


def claim(host: str, port: int, *, what: str, option: str, exact: bool) -> int:
    """The port to listen on: `port`, or, unless it must be `exact`, the next free one above it. 0 stays 0 (any).

    Raises PannierError that names the port and the option to change.
    """
    if port == 0:
        return 0
    candidates = range(port, port + 1 if exact else min(port + NEXT_FREE_TRIES, 65536))
    for candidate in candidates:
        if is_free(host, candidate):
            return candidate
    if exact:
        raise PannierError(
            f"port {port} ({what}) is taken",
            hint=f"see who has it with `ss -ltnp sport = :{port}`, or choose another with {option}",
            blame=Blame.USAGE,
        )
    raise PannierError(
        f"no free port from {port} to {candidates[-1]} ({what})", hint=f"choose one with {option}", blame=Blame.PLATFORM
    )
