"""`--bridge URL`: what the words of a bridge mean, and the bridge running.

zookeeper://10.0.0.1:2181,10.0.0.2:2181/services    both ways, in the layout of Curator
file:/etc/pannier/static.toml                       in
dns://orders.example.com:8080?service=orders        in: its addresses, all with that port
dns://_http._tcp.orders.example.com?service=orders  in: its SRV records; &server=10.0.0.53:53&every=5s
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from dns.exception import DNSException
from dns.name import from_text
from pannier.shared.backoff import full_jitter
from pannier.shared.duration import milliseconds
from pannier.shared.errors import Blame, PannierError
from pannier.shared.registration import key_of
from pannier.sidecars.pilot.bridges.inward import Inward, Inwards
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.members import ZOOKEEPER_PORT, hosts_of

ZOOKEEPER: Final = "zookeeper"
SERVICES: Final = "/services"
LINGERS_SECONDS: Final = 30.0
"""Of what is written to a ZooKeeper, after the pilot has gone: another one believes that after half of it, and takes it
over."""
_DNS_PORT: Final = 53
_KNOWN: Final = "zookeeper://HOST:PORT,.../BASE, file:/PATH, dns://NAME[:PORT]?service=SERVICE"

_log = logging.getLogger("pannier.pilot.bridge")


class Place(msgspec.Struct, frozen=True):
    """A URL, understood. `hosts` are (host, port) of a ZooKeeper, or the one of a DNS server."""

    scheme: str
    path: str
    hosts: Sequence[tuple[str, int]] = ()
    service: str = ""
    port: int | None = None
    every: float = 0.0


class Status(Inwards, frozen=True):
    """A bridge: `written` are the instances that the other side has of us, `taken` counts those that it could not be
    told of."""

    written: int = 0
    taken: int = 0


class Bridge:
    """One bridge, running; `statistics` at any time."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = named(place)
        self._statistics: Callable[[], Status] = lambda: Status(False, 0, 0, 0, 0)

    def statistics(self) -> Status:
        return self._statistics()

    async def run(self, registry: Registry) -> None:
        """Until cancelled. An error of ours in it is logged, and it goes on: the registry is worth more than a
        bridge."""
        await _persistently(self.name, lambda: self._run(registry))

    async def _run(self, registry: Registry) -> None:
        place = self.place
        if place.scheme == ZOOKEEPER:
            await self._run_zookeeper(registry)
            return
        if place.scheme == "file":
            from pannier.sidecars.pilot.bridges.file import FileSource

            inward = Inward(registry, FileSource(Path(place.path)))
        else:
            from pannier.sidecars.pilot.bridges.dns import EVERY_SECONDS, DnsSource

            server = place.hosts[0] if place.hosts else None
            every = place.every or EVERY_SECONDS
            source = DnsSource(place.path, place.service, name=self.name, port=place.port, server=server, every=every)
            inward = Inward(registry, source)
        self._statistics = lambda: Status(**msgspec.structs.asdict(inward.statistics()))
        await _persistently(self.name, inward.run)

    async def _run_zookeeper(self, registry: Registry) -> None:
        from pannier.sidecars.pilot.bridges.outward import Outward
        from pannier.sidecars.pilot.bridges.zookeeper import ZooKeeperSource
        from pannier.sidecars.pilot.stores.zookeeper_session import open_session

        async with open_session(self.place.hosts, lingers=LINGERS_SECONDS) as session, trio.open_nursery() as nursery:
            inward = Inward(registry, ZooKeeperSource(session, self.place.path, name=self.name))
            outward = Outward(registry, session, self.place.path, name=self.name)

            def statistics() -> Status:
                out = outward.statistics()
                return Status(**msgspec.structs.asdict(inward.statistics()), written=out.instances, taken=out.taken)

            self._statistics = statistics
            nursery.start_soon(_persistently, self.name, inward.run)
            nursery.start_soon(_persistently, self.name, outward.run)


async def _persistently(name: str, run: Callable[[], Awaitable[None]]) -> None:
    for attempt in count():
        try:
            await run()
        except Exception:
            _log.exception("%s: an error of ours; the bridge begins anew, and who is known stays", name)
        await trio.sleep(full_jitter(attempt, base=1.0, cap=30.0, random=random.random()))


def named(place: Place) -> str:
    """Who a bridge is, for all pilots that have it: its instances say so. At most 256 characters."""
    if place.scheme == ZOOKEEPER:
        hosts = ",".join(f"{host}:{port}" for host, port in sorted(place.hosts))
        return f"zookeeper://{hosts}{place.path}"[:256]
    if place.scheme == "file":
        return f"file:{place.path}"[-256:]
    return f"dns:{place.service}={place.path}:{place.port or 'SRV'}"[:256]


def understood(url: str) -> Place:
    """Raises PannierError for what is no bridge."""
    try:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        if parts.scheme == ZOOKEEPER and not options:
            base = parts.path.rstrip("/") or SERVICES
            return Place(ZOOKEEPER, base, hosts_of(parts.netloc, ZOOKEEPER_PORT))
        if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc and not options:
            return Place("file", parts.path)
        if parts.scheme == "dns" and parts.hostname and options.keys() <= {"service", "server", "every"}:
            service, _ = key_of(options["service"], "any")
            hosts = hosts_of(options["server"], _DNS_PORT) if "server" in options else ()
            for host, _ in hosts:
                ip_address(host)
            every = milliseconds(options["every"]) / 1000 if "every" in options else 0.0
            from_text(parts.hostname)
            return Place("dns", parts.hostname, hosts, service, parts.port, every)
    except (KeyError, ValueError, DNSException) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _not_understood(url, reason) from error
    raise _not_understood(url, "no such kind, or an option that it does not have")


def _not_understood(url: str, reason: str) -> PannierError:
    return PannierError(f"{url!r} is no bridge: {reason}", hint=f"known: {_KNOWN}", blame=Blame.USAGE)
