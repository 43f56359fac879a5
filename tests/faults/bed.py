"""Where rows are tried: a caller and two instances of what it calls, each beside a supervisor of its own.

    load ──► shop's proxy (outbound) ──► orders' proxy ──► origin        found in the host's registry
                                    └──► orders-two's proxy ──► origin   written down in shop's profile

The load depends on what the sidecars have published, so that a table which is lost shows as failed requests: it asks
for `front`, a name that only a route of traffic leads anywhere, and of the GETs some are answered 503 at first, which
only a retry by the limits of resilience makes good.

The bed has its own runtime and state folders. Whatever happens in it, leaving it ends every process that was started in
it, by PID. A row that breaks a promise gets a new bed, so that one fault does not answer for another.
"""

from __future__ import annotations

import http.client
import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import trio
from pannier.shared.bus import open_bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing, Process, Services, SidecarList

from tests.faults import origin
from tests.faults.ledger import Ledger
from tests.faults.load import Aim, Flow
from tests.faults.victims import kill
from tests.faults.waiting import wait_until
from tests.system.host import PATIENCE, Host, free_port
from tests.system.three_hosts import Leaning

SHOP, ORDERS, SECOND = "shop", "orders", "orders-two"
CALLEE, FRONT = "orders", "front"
ROUTE = f'{{name = "{FRONT}", hosts = ["{FRONT}"], to = {{{CALLEE} = 1}}, rewrite = {{host = "{CALLEE}"}}, \
request = {{set = {{x-faults = "routed"}}}}}}'
REMAINDERS = {ORDERS: 7, SECOND: 32}
"""Which numbers each origin answers 503 at first sight; no number is refused by both."""


@dataclass(frozen=True)
class Stage:
    """The profile under which a bed stands, and what is laid over it for every service. `disk_mib`: its runtime and its
    state folder are disks of their own, of so many MiB each, which takes root. `descriptors`: each process may open so
    many. `store`: each service is on a host of its own, and they know each other by pilots on that store (`spread.py`).
    `leaning`: there are three hosts, and one of them leans on a Central (`leant.py`).
    """

    profile: str
    settings: Sequence[str] = ()
    disk_mib: int = 0
    descriptors: int = 0
    store: Literal["", "sqlite", "etcd", "etcds"] = ""
    leaning: Leaning | None = None

    def limit(self) -> None:
        """Limits this process, and so whatever it starts. A service starts its keeper so early that who limits it from
        outside may be too late."""
        if self.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))


class Bed:
    """Three services, once `make` has started them and until `close`; `folder` is its own and goes with it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._temporary = tempfile.TemporaryDirectory(prefix="faults-")
        self.folder = Path(self._temporary.name)
        self.host = Host(self.folder)
        self.state = self.folder / "s"
        if stage.disk_mib:
            for folder in (self.host.runtime, self.state):
                folder.mkdir(mode=0o700)
                mount(folder, stage.disk_mib)
        self.body = self.folder / "body"
        self.body.write_bytes(origin.BODY)
        self.ledgers = self.folder / "ledgers"
        self.ledgers.mkdir()
        self.ledger = Ledger(self.ledgers)
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.ports = {name: free_port() for name in (ORDERS, SECOND)}
        self._public = free_port()

    def make(self) -> None:
        """Starts all three services and waits until they are one; `close` is due in any case."""
        for name in (ORDERS, SECOND, SHOP):
            self.start(name)
        self.settle()

    def start(self, name: str) -> subprocess.Popen[str]:
        """Starts a service, or its supervisor anew; does not wait for anything."""
        if name == SHOP:
            static = f'services.{CALLEE}=[{{address = "127.0.0.1:{self._public}"}}]'
            settings = ("--set", static, "--set", f"sidecars.traffic.routes=[{ROUTE}]")
            return self.run(name, *settings, command=("sleep", "86400"))
        port = self.ports[name]
        public = self._public if name == SECOND else 0
        options = ("--port", str(public), "--app-port", str(port), "--set", hosts(name))
        return self.run(name, *options, command=app(port, self, REMAINDERS[name]))

    def settings(self, name: str) -> Sequence[str]:
        """The assignments that a callee was started with."""
        return [*self.stage.settings, hosts(name)]

    def run(self, name: str, *options: str, command: Sequence[str], **given: str) -> subprocess.Popen[str]:
        """`pannier run` in this bed, its output in a file; `given` is added to its environment."""
        words = ["run", "--name", self.named(name), "--profile", self.stage.profile, "--outbound-port", "auto"]
        words += [word for setting in self.stage.settings for word in ("--set", setting)]
        host = self.host_of(name)
        usual = host.environment
        with self.log(name).open("ab") as log:
            host.environment = usual | given
            command = (*words, *options, "--", *command)
            process = host.start(*command, stdout=log, stderr=log, preexec_fn=self.stage.limit)
            host.environment = usual
        self.running[name] = process
        return process

    def host_of(self, name: str) -> Host:
        """Where a service runs."""
        return self.host

    def named(self, name: str) -> str:
        """What a service is called where it runs."""
        return name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def settle(self) -> None:
        """Waits until all three are ready and the caller knows both instances; fails after 20 s."""
        for name in (SHOP, ORDERS, SECOND):
            self.wait_ready(name, within=PATIENCE)
        wait_until(lambda: self.known() == 2, f"{SHOP} knows both instances", within=PATIENCE)

    def wait_ready(self, name: str, *, within: float) -> float:
        """Seconds until all processes of the service are ready; an AssertionError says who was not, or how it ended."""
        process = self.running[name]
        try:
            took = wait_until(lambda: process.poll() is not None or self.is_ready(name), "it is ready", within=within)
        except AssertionError as error:
            states = {each.name: each.state for each in self.processes(name).values() if not each.ready}
            raise AssertionError(f"{name}: {error}; {states or 'its supervisor does not answer'}") from error
        if process.poll() is not None:
            raise AssertionError(f"{name} ended with {process.returncode}: {self.log(name).read_text()[-300:]!r}")
        return took

    def is_ready(self, name: str) -> bool:
        """Whether all processes of the service are."""
        return self.host_of(name).ready(self.named(name))

    def known(self) -> int:
        """How many instances the caller's discovery holds for usable."""

        async def ask() -> Services:
            async with open_bus(self.host_of(SHOP).runtime / SHOP / "bus.sock") as bus:
                return await bus.request("discovery", "services", Nothing(), Services, timeout=PATIENCE)

        try:
            found = trio.run(ask)
        except PannierError:
            return 0
        return sum(each.state == "UP" for one in found.clusters if one.name == CALLEE for each in one.endpoints)

    def address(self, name: str, what: str) -> str:
        """host:port of a service's `inbound`, `outbound`, `readyz` and so on."""
        return urlsplit(self.host_of(name).urls(self.named(name))[what]).netloc

    def aim(self, flow: Flow, to: str) -> Aim:
        """Where a flow of a row goes whose load goes `to` this side."""
        service, host = (SHOP, FRONT) if to == "outbound" else (ORDERS, CALLEE)
        return Aim(self.address(service, to), host)

    def processes(self, name: str) -> dict[str, Process]:
        """What `ps` shows of a service, by the name of the process; nothing while no supervisor answers."""
        return {process.name: process for process in self.host_of(name).processes(self.named(name))}

    def sidecars(self, name: str) -> dict[str, tuple[int, bool]]:
        """(PID, ready) of each sidecar that runs: asked often, since it costs the supervisor next to nothing."""
        found = self.host_of(name).ask(self.named(name), "sidecar.list", Nothing(), SidecarList).sidecars
        return {sidecar.name: (sidecar.pid, sidecar.ready) for sidecar in found if sidecar.state}

    def answers(self, name: str, page: str) -> int:
        """The status of a page of observability's, such as `readyz`."""
        connection = http.client.HTTPConnection(self.address(name, page), timeout=PATIENCE)
        try:
            connection.request("GET", f"/{page}")
            return connection.getresponse().status
        finally:
            connection.close()

    def stop(self, name: str) -> int:
        """Ends a service in order; its exit code."""
        process = self.running.pop(name)
        process.terminate()
        return process.wait(PATIENCE)

    def fail(self, failing: bool) -> None:
        """Whether every origin answers 503 from now on."""
        (self.ledgers / "fail").touch() if failing else (self.ledgers / "fail").unlink()

    def hosts(self) -> Sequence[Host]:
        """All that services run on."""
        return [self.host]

    def close(self) -> None:
        """Ends everything that was started here."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for host in self.hosts():
            for process in host.started:
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            kill(host.survivors())
        if self.stage.disk_mib:
            for folder in (self.host.runtime, self.state):
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
        self._temporary.cleanup()


def hosts(name: str) -> str:
    """Under which other names a callee may be asked, as an assignment."""
    return f"inbound.hosts={json.dumps([CALLEE] if name == SECOND else [])}"


def mount(folder: Path, mib: int) -> None:
    """A disk of so many MiB in place of the folder. Raises OSError if that is not ours to do."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"no disk of one's own: {done.stderr.strip()}")


def app(port: int, bed: Bed, remainder: int = -1) -> Sequence[str]:
    """The command of an origin."""
    return (sys.executable, str(Path(origin.__file__)), str(port), str(bed.ledgers), str(remainder))
