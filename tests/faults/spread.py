"""A bed whose services are on hosts of their own and know each other by pilots alone.

A host is a runtime folder and a state folder: nobody finds in a registry of the host what is on another one. Both
callees are called `orders` there. The pilots are reached over their sockets; behind them is a file (`sqlite`), an etcd
on a host with a network of its own (`etcd`), or an etcd of three with a pilot beside each (`etcds`). What has a network
takes root.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from tests.faults.bed import CALLEE, ORDERS, REMAINDERS, ROUTE, SECOND, SHOP, Bed, Stage, app
from tests.faults.waiting import wait_until
from tests.model.sites import MEMBERS, Site
from tests.system.host import PATIENCE, Host
from tests.system.network import Network
from tests.system.test_pilot import UnixConnection

PILOT = "pilot"
STORE = MEMBERS[0]
APART = "apart"
NAMES = (ORDERS, SECOND, SHOP)


class Spread(Bed):
    """Three services on three hosts; `site` has the pilots and their store."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._stack = ExitStack()
        try:
            self.site = self._site()
        except BaseException:
            self._stack.close()
            raise
        self._hosts = {name: self._host(name) for name in NAMES}

    def make(self) -> None:
        self.site.start_all()
        for pilot in self.site.pilots:
            self.wait_pilot(pilot)
        super().make()

    def start(self, name: str) -> subprocess.Popen[str]:
        self.open_doors(name)
        pilots = json.dumps([f"unix:{self._door(name, pilot)}" for pilot in self.site.pilots])
        settings: Sequence[str] = ("--set", f'sidecars.discovery.pilot={{addresses={pilots}, advertise="127.0.0.1"}}')
        if name == SHOP:
            settings = (*settings, "--set", f"sidecars.traffic.routes=[{ROUTE}]")
            return self.run(name, *settings, command=("sleep", "86400"))
        port = self.ports[name]
        command = app(port, self, REMAINDERS[name])
        return self.run(name, "--port", "0", "--app-port", str(port), *settings, command=command)

    def host_of(self, name: str) -> Host:
        return self._hosts.get(name, self.host)

    def named(self, name: str) -> str:
        return CALLEE if name == SECOND else name

    def hosts(self) -> Sequence[Host]:
        return [self.host, *self._hosts.values()]

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._stack.close()

    def settle(self) -> None:
        super().settle()
        for pilot in self.site.pilots:
            wait_until(lambda pilot=pilot: len(self.told(pilot)) == 2, f"{pilot} knows both", within=PATIENCE)  # type: ignore[misc]

    def shut_doors(self, name: str) -> None:
        """A host reaches no pilot any more, once those that it has reached are gone."""
        for pilot in self.site.pilots:
            self._door(name, pilot).unlink()

    def open_doors(self, name: str) -> None:
        """It does."""
        for pilot in self.site.pilots:
            with suppress(FileExistsError):
                self._door(name, pilot).symlink_to(self.site.socket(pilot))

    def ask(self, pilot: str, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Status and body of what a pilot answers. Raises OSError."""
        connection = UnixConnection(self.site.socket(pilot))
        with closing(connection):
            given = json.dumps(body) if body is not None else None
            connection.request(method, target, given, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def told(self, pilot: str = PILOT, service: str = CALLEE) -> Mapping[str, Mapping[str, Any]]:
        """What a pilot tells of a service, by id; nobody while it does not answer."""
        with suppress(OSError):
            status, found = self.ask(pilot, "GET", f"/v1/services/{service}")
            if status == 200:
                return {row["id"]: row for row in found["instances"]}
        return {}

    def wait_pilot(self, pilot: str = PILOT) -> None:
        """Returns when a pilot answers; an AssertionError says what it has said."""

        def answers() -> bool:
            with suppress(OSError):
                return self.ask(pilot, "GET", "/v1/status")[0] == 200
            return False

        try:
            wait_until(answers, f"{pilot} answers", within=PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.site.said(pilot)[-300:]!r}") from error

    def _door(self, name: str, pilot: str) -> Path:
        """Where a host has a pilot's socket."""
        return self._hosts[name].folder / f"{pilot}.sock"

    def _host(self, name: str) -> Host:
        folder = self.folder / {SHOP: "0", ORDERS: "1", SECOND: "2"}[name]
        folder.mkdir(exist_ok=True)
        return Host(folder)

    def _site(self) -> Site:
        folder = self.folder / "p"
        folder.mkdir()
        match self.stage.store:
            case "etcd":
                network = self._stack.enter_context(Network(STORE, APART))
                site = Site(folder, {PILOT: APART}, network=network, etcd=etcd_program(), members=1)
            case "etcds":
                network = self._stack.enter_context(Network(*MEMBERS))
                pilots = {f"{PILOT}-{name}": name for name in MEMBERS}
                site = Site(folder, pilots, network=network, etcd=etcd_program(), members=len(MEMBERS))
            case _:
                site = Site(folder, {PILOT: ""})
        self._stack.callback(site.close)
        return site


def etcd_program() -> str:
    found = shutil.which("etcd")
    if found is None:
        raise OSError("etcd is not installed: `make peers` does it")
    return found


def spread(bed: Bed) -> Spread:
    """The bed, as one whose services are spread."""
    assert isinstance(bed, Spread)
    return bed
