"""Names in somebody else's DNS as a bridge: SRV records, or the addresses of a name and one port for all.

- A name that is not there, or has no such record, is a service without instances: that is doubted as any such answer.
- A server that fails or is silent is one that says nothing.
- Of SRV records only those of the least priority are taken, and the target `.` is a service that says it has nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Mapping
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import trio
from pannier.shared.errors import Unreachable
from pannier.shared.instances import Key
from pannier.sidecars.pilot.bridges.source import Found, Look, id_of

EVERY_SECONDS: Final = 5.0
LOOKUP_SECONDS: Final = 4.0
RESOLV_CONF: Final = "/etc/resolv.conf"
MAX_RECORDS: Final = 500
"""SRV records whose targets are looked up, one after the other if they have not come along."""
_ADDRESSES: Final = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsSource:
    """A `source.Source` for one service. Without a `port` the name has SRV records. `server` is (IP address,
    port); without one it is the machine's."""

    def __init__(
        self,
        domain: str,
        service: str,
        *,
        name: str,
        port: int | None = None,
        server: tuple[str, int] | None = None,
        every: float = EVERY_SECONDS,
    ) -> None:
        self.name = name
        self.every = every
        self._domain = dns.name.from_text(domain)
        self._service = service
        self._port = port
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._configured = server is not None
        if server is not None:
            self._resolver.nameservers = [server[0]]
            self._resolver.port = server[1]
        self._resolver.lifetime = LOOKUP_SECONDS

    async def look(self) -> Look:
        if self._port is not None:
            found = [(host, self._port, 1) async for host in self._hosts(self._domain, {})]
            return self._looked(found)
        answer = await self._ask(self._domain, dns.rdatatype.SRV)
        records = list(answer.rrset or ()) if answer is not None else []
        if any(record.target == dns.name.root for record in records):
            return Look({}, emptied={self._service})
        if len(records) > MAX_RECORDS:
            raise Unreachable(f"DNS has {len(records)} services for {self._domain}: at most {MAX_RECORDS}")
        beside = {rrset.name: [record.address for record in rrset] for rrset in _beside(answer)}
        least = min((record.priority for record in records), default=0)
        places: list[tuple[str, int, int]] = []
        for record in records:
            if record.priority == least:
                async for host in self._hosts(record.target, beside):
                    places.append((host, record.port, record.weight))
        return self._looked(places)

    async def news(self) -> None:
        await trio.sleep_forever()

    def _looked(self, places: list[tuple[str, int, int]]) -> Look:
        instances: dict[Key, Found] = {}
        for host, port, weight in places:
            address = f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
            metadata = {"weight": str(weight)} if weight != 1 else {}
            instances[self._service, id_of(address)] = Found(address, metadata)
        return Look(instances)

    async def _hosts(self, name: dns.name.Name, beside: Mapping[dns.name.Name, list[str]]) -> AsyncIterator[str]:
        if name in beside:
            for host in beside[name]:
                yield host
            return
        for kind in _ADDRESSES:
            answer = await self._ask(name, kind)
            for record in (answer.rrset or ()) if answer is not None else ():
                yield record.address

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer | None:
        """None: there is no such name. Raises Unreachable."""
        try:
            if not self._configured:
                self._resolver.read_resolv_conf(RESOLV_CONF)
                self._configured = True
            return await self._resolver.resolve(name, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.DNSException, OSError) as error:
            raise Unreachable(f"DNS does not say where {name} is: {error or type(error).__name__}") from error


def _beside(answer: dns.resolver.Answer | None) -> list[dns.rrset.RRset]:
    """The addresses that an answer brings along."""
    if answer is None:
        return []
    return [rrset for rrset in answer.response.additional if rrset.rdtype in _ADDRESSES]
