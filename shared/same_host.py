"""Whether a request on a loopback port comes from this host, and not from somebody else's page in a browser here.

A browser says whose page it is (`Origin`) and by which name it came (`Host`), which a stranger's name server can lead
to loopback (DNS rebinding): both have to be `localhost` or an IP address.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import trio

HERE = "localhost"


def comes_from_here(host: str, origin: str) -> bool:
    """By the headers `Host` and `Origin`; who says none of them is no browser: `HERE` stands for it."""
    return is_local(f"//{host}") and (origin == HERE or is_local(origin))


def is_local(url: str) -> bool:
    """Whether the host of a URL is `localhost` or an IP address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == HERE or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_loopback(listener: object) -> bool:
    """Whether a listener is a TCP port that this host alone reaches."""
    if not isinstance(listener, trio.SocketListener):
        return False
    name = listener.socket.getsockname()
    return isinstance(name, tuple) and ipaddress.ip_address(name[0]).is_loopback
