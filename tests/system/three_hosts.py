"""Three hosts with networks of their own: an app that leans on a Central, the Central, and whoever is called and calls.

    app 10.77.0.1       shop: the app with its suite, which starves        one core
    central 10.77.0.2   the Central, and the pilot                         the other core
    origin 10.77.0.3    origin: what shop calls, and who calls shop        the other core

All find each other by the pilot alone. Calls of the app go through shop's outbound listener to the service `origin`,
calls to the app through origin's to the service `shop`. It takes root. Leaving the block ends all that was started in
it.

The kernel counts who waits for a CPU for this machine, and not for a namespace. So the suites of the app and of the
Central are shown other files in place of those of the kernel: those of a host on which nobody waits (`pressure`), and
which says nothing of its idle time, whatever else this machine does. A control group with all that runs on a host has
true ones: see `Groups`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from pannier.shared.central import CentralForce, CentralState, CentralStatus
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing

from tests.faults.victims import kill
from tests.faults.waiting import wait_until
from tests.system.host import PATIENCE, Host
from tests.system.network import Network

APP, CENTRAL, ORIGIN = "app", "central", "origin"
SHOP: Final = "shop"
PLACES: Final = {SHOP: APP, CENTRAL: CENTRAL, ORIGIN: ORIGIN}
CALM: Final = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
_SHOWN: Final = 'for pair in $0; do mount --bind "${pair%:*}" "${pair#*:}" || exit 1; done; exec "$@"'
GATEWAY_PORT: Final = 15090
PILOT_PORT: Final = 18800
_FORCED_S: Final = 3.0
_URGENT: Final = "-5"


@dataclass(frozen=True)
class Leaning:
    """How the app leans on its Central: the way `outbound`, and what is set besides, for the app and for the Central.
    `queue_wait` lets work leave; by itself that is no reason here. `addresses` are named as Centrals besides.
    `grouped`: all on the app's host is in a control group, whose pressure is that of the host, and goes before what
    else this machine does."""

    outbound: str = "relay"
    inbound: bool = True
    queue_wait: str = "10s"
    app: Sequence[str] = ()
    central: Sequence[str] = ()
    addresses: Sequence[str] = ()
    profile: str = "production"
    grouped: bool = False


class ThreeHosts:
    """The hosts; `start` and the like begin what runs on them."""

    def __init__(self, folder: Path, leaning: Leaning) -> None:
        self.folder = folder
        self.leaning = leaning
        self.cores = sorted(os.sched_getaffinity(0))
        self._stack = ExitStack()
        self.network = Network(APP, CENTRAL, ORIGIN)
        self.hosts: dict[str, Host] = {}
        self.running: dict[str, subprocess.Popen[str]] = {}
        self._token = folder / "token"
        self.pressure = {name: folder / f"{name}.pressure" for name in (APP, CENTRAL)}
        self._stat = folder / "stat"
        self._group: Path | None = None
        self.addresses = [f"{self.network.address(CENTRAL)}:{GATEWAY_PORT}", *leaning.addresses]

    def __enter__(self) -> Self:
        self._stack.enter_context(self.network)
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_urlsafe(32))
        for file in self.pressure.values():
            file.write_text(CALM)
        self._stat.write_text(Path("/proc/stat").read_text())
        if self.leaning.grouped:
            self._group_app()
        for number, name in enumerate((APP, CENTRAL, ORIGIN)):
            folder = self.folder / str(number)
            folder.mkdir()
            self.hosts[name] = Host(folder, self.inside(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        finally:
            self._stack.close()

    def inside(self, host: str) -> Sequence[str]:
        """The words before a command on that host: its network, and its core."""
        core = self.cores[0] if host == APP else self.cores[-1]
        before = ("nice", "-n", _URGENT) if host == APP and self.leaning.grouped else ()
        return (*before, "taskset", "--cpu-list", str(core), *self.network.inside(host))

    def shown(self, host: str) -> Sequence[str]:
        """The words before a suite on that host, which reads `pressure` as if it were the kernel's."""
        files = pressure_files() if self._group is None or host != APP else [Path("/proc/pressure/cpu")]
        pairs = [f"{self.pressure[host]}:{file}" for file in files] + [f"{self._stat}:/proc/stat"]
        before = self.grouped() if host == APP else self.inside(host)
        return (*before, "unshare", "--mount", "sh", "-c", _SHOWN, " ".join(pairs))

    def _group_app(self) -> None:
        group = unified() / f"pannier-hosts-{os.getpid()}"
        group.mkdir()
        self._group = group
        self.pressure[APP] = group / "cpu.pressure"

    def grouped(self) -> Sequence[str]:
        """The words before a command on the app's host that is in its control group, if there is one."""
        if self._group is None:
            return self.inside(APP)
        return (*self.inside(APP), "sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._group / "cgroup.procs"))

    def start(self, name: str, *options: str, command: Sequence[str] = ()) -> None:
        """Starts `pilot`, `central`, `origin` or `shop`; does not wait."""
        match name:
            case "pilot":
                secret = self.hosts[CENTRAL].folder / "s" / "pilot" / "token"
                secret.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                secret.touch(mode=0o600)
                secret.write_text(self._token.read_text())
                listen = f"{self.network.address(CENTRAL)}:{PILOT_PORT}"
                self._run(CENTRAL, "pilot", "pilot", "--listen", listen)
            case "central":
                self.hosts[CENTRAL].inside = self.shown(CENTRAL)
                words = ["central", "--listen", f"0.0.0.0:{GATEWAY_PORT}", "--advertise", self.network.address(CENTRAL)]
                words += self._set(f'central.plain=["{self._all}"]', self._pilot(CENTRAL), *self.leaning.central)
                self._run(CENTRAL, CENTRAL, *words, *options)
            case "origin":
                words = ["run", "--name", ORIGIN, "--profile", "staging", "--outbound-port", "auto", *options]
                own = f'advertise="{self.network.address(ORIGIN)}", outbound="off", inbound=false'
                settings = self._set(self._pilot(ORIGIN), f'central={{plain=["{self._all}"], {own}}}')
                self._run(ORIGIN, ORIGIN, *words, *settings, "--", *command)
            case _:
                words = ["run", "--name", SHOP, "--profile", self.leaning.profile, "--outbound-port", "auto", *options]
                self.hosts[APP].inside = self.shown(APP)
                advertise = self.network.address(APP)
                central = f'{{addresses={json.dumps(self.addresses)}, plain=["{self._all}"], advertise="{advertise}", '
                central += f'outbound="{self.leaning.outbound}", inbound={json.dumps(self.leaning.inbound)}}}'
                enter = f'central.enter.queue_wait="{self.leaning.queue_wait}"'
                settings = self._set(self._pilot(APP), f"central={central}", enter, *self.leaning.app)
                self._run(APP, SHOP, *words, *settings, "--", *command)

    @property
    def central(self) -> str:
        """The Central's gateway."""
        return f"{self.network.address(CENTRAL)}:{GATEWAY_PORT}"

    def ready(self, name: str) -> bool:
        return self.hosts[PLACES[name]].ready(name)

    def address(self, name: str, what: str) -> str:
        """host:port of a service's `inbound`, `outbound` and so on, on its own host."""
        return urlsplit(self.hosts[PLACES[name]].urls(name)[what]).netloc

    def status(self) -> CentralStatus:
        """What `central status` shows of the app's host."""
        return self.hosts[APP].ask(SHOP, "central.status", Nothing(), CentralStatus)

    def state(self) -> CentralState:
        """Where the app's proxy stands; a state of nothing while nobody says anything."""
        with suppress(PannierError, OSError):
            return self.status().state or CentralState()
        return CentralState()

    def central_state(self) -> CentralState:
        """Where the Central itself stands."""
        status = self.hosts[CENTRAL].ask(CENTRAL, "central.status", Nothing(), CentralStatus)
        return status.state or CentralState()

    def force(self, weight: float | None) -> None:
        """`pannier central shift WEIGHT`, or `return`; does not wait for it."""
        self.hosts[APP].ask(SHOP, "central.force", CentralForce(weight), CentralStatus)

    def shift(self, weight: float = 100.0, *, within: float = _FORCED_S) -> float:
        """Seconds until so much has left."""
        self.force(weight)
        return wait_until(lambda: self.state().weight >= weight, f"{weight:g} points have left", within=within)

    def bring_back(self, *, within: float = _FORCED_S) -> float:
        """Seconds until all is back."""
        self.force(None)
        return wait_until(lambda: self.state().weight == 0, "all is back", within=within)

    def linked(self) -> bool:
        """Whether a Central has tokens for the app's host."""
        return any(central.up and central.granted_rps > 0 and not central.trouble for central in self.state().centrals)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def pids(self, name: str) -> dict[str, int]:
        """Processes of a service, by what they are."""
        return self.hosts[PLACES[name]].pids(name)

    def tree(self, host: str) -> list[int]:
        """Every process of a host, by whomever it was started."""
        return self.hosts[host].survivors()

    def kill_central(self) -> None:
        """`kill -9` of everything of the Central at once; its host and the pilot stay."""
        running = self.running.pop(CENTRAL)
        pilot = self.running["pilot"].pid
        kill([pid for pid in self.tree(CENTRAL) if pid != pilot and pid != os.getpid()])
        running.wait(PATIENCE)

    def _run(self, host: str, name: str, *words: str) -> None:
        with self.log(name).open("ab") as log:
            self.running[name] = self.hosts[host].start(*words, stdout=log, stderr=log)

    def _set(self, *settings: str) -> list[str]:
        return [word for setting in settings for word in ("--set", setting)]

    @property
    def _all(self) -> str:
        return f"{self.network.address(APP).rpartition('.')[0]}.0/24"

    def _pilot(self, host: str) -> str:
        where = json.dumps([f"{self.network.address(CENTRAL)}:{PILOT_PORT}"])
        own = self.network.address(host)
        return f'sidecars.discovery.pilot={{addresses={where}, token_file="{self._token}", advertise="{own}"}}'

    def _end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for host in self.hosts.values():
            for process in host.started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            kill(host.survivors())
            for process in host.started:
                process.wait(PATIENCE)
        if self._group is not None:
            group = self._group
            wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty", within=PATIENCE)
            group.rmdir()


def unified() -> Path:
    """Where the control groups of version 2 are. Raises OSError."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] == "cgroup2":
            return Path(words[4])
    raise OSError("there are no control groups of version 2 here")


def pressure_files() -> list[Path]:
    """Where the kernel says who waits for a CPU: on this machine, and in our own control group."""
    found = [Path("/proc/pressure/cpu")]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    with suppress(OSError):
        found += [unified() / line[3:].lstrip("/") / "cpu.pressure" for line in lines if line.startswith("0::")]
    return [file for file in found if file.exists()]


def known(host: Host, name: str, service: str) -> list[dict[str, Any]]:
    """The endpoints of a service that another one knows."""
    from tests.system.test_pilot import UnixConnection, ask

    with suppress(OSError):
        _, found = ask(UnixConnection(host.runtime / name / "api.sock"), "GET", f"/v1/services/{service}")
        return list(found.get("endpoints", []))
    return []
