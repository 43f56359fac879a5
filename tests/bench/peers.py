"""Who is compared. A peer is a small frozen description; starting it is the same for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench.configurations import (
    Place,
    envoy_binary,
    envoy_command,
    haproxy_binary,
    haproxy_command,
    nginx_binary,
    nginx_command,
    pannier_binary,
    pannier_command,
    pannier_environment,
    plain_command,
    relay_command,
)
from tests.bench.processes import command_line, descendants


@dataclass(frozen=True)
class Peer:
    """One way between client and origin. `command` writes the configuration and answers the argv; None: no proxy.

    `key` tells variants of one `name` apart, for scenarios and ratios; in results `features` does.
    """

    key: str
    features: str
    binary: Callable[[], str | None]
    command: Callable[[Place], Sequence[str]] | None
    remedy: str = "make peers"
    over_tcp: bool = False
    """Its origin is on TCP whatever the scenario says."""
    proxies: Callable[[int], list[int]] = lambda pid: [pid]
    environment: Callable[[Place], dict[str, str]] = field(default=lambda _: {})

    @property
    def name(self) -> str:
        return self.key.partition("-")[0]


def pannier_proxies(supervisor: int) -> list[int]:
    """The data path's processes below a supervisor: `pannierd proxy`."""
    found = []
    for pid in descendants(supervisor):
        words = command_line(pid)
        if len(words) > 1 and Path(words[0]).name == "pannierd" and words[1] == "proxy":
            found.append(pid)
    return found


def _relay(key: str, features: str, reactor: str) -> Peer:
    return Peer(key, features, lambda: "built by the harness", partial(relay_command, reactor=reactor))


def _pannier_peer(
    key: str, features: str, command: Callable[[Place], Sequence[str]] = pannier_command, *, over_tcp: bool = False
) -> Peer:
    return Peer(
        key,
        features,
        pannier_binary,
        command,
        remedy="make build",
        over_tcp=over_tcp,
        proxies=pannier_proxies,
        environment=pannier_environment,
    )


PEERS = (
    Peer("direct", "no hop", nginx_binary, None),
    _relay("relay", "epoll, bytes only", "epoll"),
    _relay("relay-tokio", "tokio, bytes only", "tokio"),
    _relay("relay-io_uring", "io_uring, bytes only", "io_uring"),
    Peer("nginx", "http proxy, 1 worker", nginx_binary, nginx_command),
    Peer("haproxy", "http mode, 1 thread", haproxy_binary, haproxy_command),
    Peer("envoy", "router only, 1 worker", envoy_binary, envoy_command, remedy="make build"),
    _pannier_peer("pannier", "production: all four, outbound"),
    _pannier_peer("pannier-tcp", "production: all four, outbound, origin over TCP", over_tcp=True),
    _pannier_peer("pannier-plain", "no sidecars, outbound", plain_command),
)
