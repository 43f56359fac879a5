"""An instance of a service: what it is called, where it is in its life, and how its addresses look. Said by whoever
registers one, wherever it is registered."""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, TypeAlias

from msgspec import Meta
from pannier.shared.runtime import SOCKET_NAME_LIMIT

EVERY = "*"
"""In the place of a service's name: all of them."""
SERVICE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
STAGE_PATTERN = SERVICE_PATTERN
INSTANCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)"

ServiceName = Annotated[str, Meta(pattern=SERVICE_PATTERN, description='a service name such as "orders"')]
InstanceId = Annotated[str, Meta(pattern=INSTANCE_PATTERN, description='an instance id such as "host-18080"')]
Key: TypeAlias = tuple[str, str]
"""(service, instance id)"""


_IP_AND_PORT = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})", re.ASCII)


class State(StrEnum):
    """Where an instance is in its life. STARTING and DOWN get no traffic, DRAINING none that could go elsewhere."""

    STARTING = "STARTING"
    UP = "UP"
    DRAINING = "DRAINING"
    DOWN = "DOWN"


def default_id(hostname: str, address: str, service: str) -> str:
    """The id of an instance that is given none: `<hostname>-<port>`; a Unix address has no port, so the service's name
    stands for it."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", hostname).lstrip("._-")[:100]
    suffix = service if address.startswith("unix:") else address.rpartition(":")[2]
    return f"{host or 'host'}-{suffix}"[:128]


def check_address(address: str) -> str:
    """Returns an `Address` that the proxy can connect to, as everybody spells it: one place is one text. Raises
    ValueError for a port or path out of range, and for brackets around what is no address."""
    if address.startswith("unix:"):
        if len(address.removeprefix("unix:").encode()) > SOCKET_NAME_LIMIT:
            raise ValueError(f"{address[:80]!r}: the path of a socket has at most {SOCKET_NAME_LIMIT} bytes")
        return address
    host, _, digits = address.rpartition(":")
    port = int(digits)
    if not 1 <= port <= 65535:
        raise ValueError(f"{address!r}: a port is 1 to 65535")
    try:
        ip = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        if host.startswith("["):
            raise ValueError(f"{address!r}: what is in brackets is no address") from None
        return f"{host}:{port}"
    return f"[{ip}]:{port}" if isinstance(ip, IPv6Address) else f"{ip}:{port}"


def check_ip_address(address: str) -> IPv4Address | IPv6Address:
    """The IP address in one with a port, as that of a Central is, which nobody looks up. Raises ValueError for anything
    else: names, sockets, a port out of range."""
    found = _IP_AND_PORT.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(f"{address[:80]!r} is no IP address with a port")
    return IPv4Address(found["four"]) if found["six"] is None else IPv6Address(found["six"])
