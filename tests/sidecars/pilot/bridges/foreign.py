"""Foreign registries as they are: a ZooKeeper with Curator's layout, a file, dnsmasq. What is in them is set here, as
somebody else would; nothing of Pannier writes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import dns.exception
import dns.message
import dns.query
import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError
from pannier.sidecars.pilot.bridges.dns import DnsSource
from pannier.sidecars.pilot.bridges.file import FileSource
from pannier.sidecars.pilot.bridges.source import Source, id_of
from pannier.sidecars.pilot.bridges.zookeeper import ZooKeeperSource
from pannier.sidecars.pilot.stores.zookeeper_session import Session

from tests.system.host import PATIENCE, free_port

SERVICE = "orders"


class Foreign(Protocol):
    """`put` makes these addresses all that there is of the service; `fail` makes it fall silent, or mumble."""

    source: Source

    def put(self, addresses: Sequence[str]) -> None: ...

    def fail(self) -> None: ...


class ForeignFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.source: Source = FileSource(path)

    def put(self, addresses: Sequence[str]) -> None:
        new = self._path.with_suffix(".new")
        endpoints = ", ".join(f'{{address = "{address}"}}' for address in addresses)
        new.write_text(f"[services]\n{SERVICE} = [{endpoints}]\n")
        new.replace(self._path)

    def fail(self) -> None:
        self._path.write_text("[[services.orders]]\naddress = ")


class ForeignDns:
    """dnsmasq with the addresses of one name, or SRV records of them."""

    def __init__(self, program: str, folder: Path, *, srv: bool) -> None:
        self._program, self._folder, self._srv = program, folder, srv
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        server = ("127.0.0.1", self._port)
        domain, of_all = ("_http._tcp.orders.example", None) if srv else ("orders.example", 80)
        source = DnsSource(domain, SERVICE, name="dns:orders", port=of_all, server=server, every=0.2)
        source._resolver.lifetime = 0.5
        self.source: Source = source

    def put(self, addresses: Sequence[str]) -> None:
        self.fail()
        lines = ["local=/example/", "local-ttl=0", "no-resolv", "no-hosts", "bind-interfaces", "no-daemon", "user=root"]
        lines += ["listen-address=127.0.0.1", f"port={self._port}", "host-record=dnsmasq.example,127.0.0.1"]
        lines += ["pid-file=", f"addn-hosts={self._folder}/hosts"]
        hosts = []
        for number, address in enumerate(addresses):
            host, _, port = address.rpartition(":")
            hosts.append(f"{host} {f'h{number}.example' if self._srv else 'orders.example'}")
            if self._srv:
                lines.append(f"srv-host=_http._tcp.orders.example,h{number}.example,{port},0,1")
        (self._folder / "hosts").write_text("\n".join([*hosts, ""]))
        (self._folder / "conf").write_text("\n".join([*lines, ""]))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, f"--conf-file={self._folder}/conf"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()

    def fail(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        try:
            dns.query.udp(dns.message.make_query("dnsmasq.example", "A"), "127.0.0.1", 0.2, self._port)
        except (dns.exception.Timeout, OSError):
            time.sleep(0.02)
            return False
        return True


class ForeignZooKeeper:
    """Instances of somebody else's session, written as Curator writes them."""

    def __init__(self, member: tuple[str, int], session: Session, base: str) -> None:
        self.base = base
        self.client = KazooClient(f"{member[0]}:{member[1]}")
        self.client.start()
        self._session = session
        self.source: Source = ZooKeeperSource(session, base, name=f"zookeeper://x{base}")

    def put(self, addresses: Sequence[str]) -> None:
        wanted = {id_of(address): address for address in addresses}
        for name in set(self.names()) - wanted.keys():
            self.client.delete(f"{self.base}/{SERVICE}/{name}")
        for name, address in wanted.items():
            self.register(name, address)

    def register(
        self, name: str, address: str, *, service: str = SERVICE, payload: Mapping[str, Any] | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        data = msgspec.json.encode(
            {
                "name": service,
                "id": name,
                "address": host,
                "port": int(port),
                "sslPort": None,
                "payload": payload,
                "registrationTimeUTC": 1,
                "serviceType": "DYNAMIC",
                "uriSpec": None,
            }
        )
        path = f"{self.base}/{service}/{name}"
        try:
            self.client.create(path, data, ephemeral=True, makepath=True)
        except NodeExistsError:
            self.client.set(path, data)

    def names(self, service: str = SERVICE) -> list[str]:
        try:
            return sorted(self.client.get_children(f"{self.base}/{service}"))
        except NoNodeError:
            return []

    def fail(self) -> None:
        self._session.client.stop()

    def close(self) -> None:
        self.client.stop()
        self.client.close()
