"""Where real pilots run whose history is recorded: one beside a SQLite file, or three beside the members of an etcd, on
hosts of their own.

What can be done to a process is done to one that was started here, by its own handle. The time of day of a pilot is
what a file says (`clocked.py`): it jumps when that is written, while the clock that never jumps goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.system.network import Network

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
MEMBERS = ("one", "two", "three")


class Site:
    """Processes by name: members of an etcd on the first hosts of a network, and pilots, each on one of its hosts; or
    one pilot and a file. Each can be killed, started again, stopped."""

    def __init__(
        self,
        folder: Path,
        pilots: Mapping[str, str],
        *,
        network: Network | None = None,
        etcd: str = "",
        members: int = 0,
    ) -> None:
        self.folder = folder
        self.pilots = tuple(pilots)
        self.network = network
        self.members = network.names[:members] if network is not None else ()
        self.lives = dict.fromkeys(pilots, 0)
        self._hosts = pilots
        self._etcd = etcd
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_all(self) -> None:
        for name in (*self.members, *self.pilots):
            self.start(name)

    def socket(self, pilot: str) -> Path:
        return self.folder / f"{pilot}.sock"

    def source(self, pilot: str) -> str:
        """That pilot in the life that it has now."""
        return f"{pilot}.{self.lives[pilot]}"

    def start(self, name: str) -> None:
        """Starts a process, or starts it again; does not wait for it."""
        words = self._pilot(name) if name in self.lives else self._member(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                words, env=self._environment(name), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if name in self.lives:
            self.lives[name] += 1

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def cut(self, *parts: Sequence[str]) -> None:
        """Who is in one part reaches each other, and nobody else; without parts everybody reaches everybody."""
        assert self.network is not None
        self.network.cut(parts or [self.network.names])

    def set_clock(self, pilot: str, hours: int) -> None:
        """The time of day of a pilot is so far from the right one."""
        new = self.folder / f"{pilot}.clock.new"
        new.write_text(f"{hours * 3600}")
        os.replace(new, self.folder / f"{pilot}.clock")

    def said(self, name: str) -> str:
        """The end of what a process has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _environment(self, name: str) -> Mapping[str, str]:
        found = {key: value for key, value in os.environ.items() if not key.lower().endswith("proxy")}
        found |= {
            "PANNIER_RUNTIME_DIR": str(self.folder / name / "r"),
            "PANNIER_STATE_DIR": str(self.folder / name / "s"),
        }
        return found

    def _pilot(self, name: str) -> Sequence[str]:
        store = str(self.folder / "store.sqlite")
        inside: Sequence[str] = ()
        if self.network is not None:
            inside = self.network.inside(self._hosts[name])
            store = f"etcd://{','.join(f'{self.network.address(member)}:2379' for member in self._nearest_first(name))}"
        self.set_clock(name, 0)
        clocked = (sys.executable, "-m", "tests.model.clocked", str(self.folder / f"{name}.clock"))
        return [*inside, *clocked, "pilot", "--socket", str(self.socket(name)), "--store", store]

    def _nearest_first(self, pilot: str) -> Sequence[str]:
        number = self.pilots.index(pilot) % len(self.members)
        return (*self.members[number:], *self.members[:number])

    def _member(self, name: str) -> Sequence[str]:
        assert self.network is not None
        client, peer = (f"http://{self.network.address(name)}:{port}" for port in (2379, 2380))
        everybody = ",".join(f"{one}=http://{self.network.address(one)}:2380" for one in self.members)
        return [
            *self.network.inside(name),
            self._etcd,
            *("--name", name, "--data-dir", str(self.folder / f"{name}.etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", everybody, "--heartbeat-interval", "50", "--election-timeout", "500"),
        ]


@contextmanager
def beside_sqlite() -> Iterator[Site]:
    """One pilot."""
    with tempfile.TemporaryDirectory(prefix="model-") as folder, ExitStack() as stack:
        site = Site(Path(folder), {"pilot": ""})
        stack.callback(site.close)
        site.start_all()
        yield site


@contextmanager
def beside_etcd(program: Callable[[], str]) -> Iterator[Site]:
    """Three pilots, and three members of an etcd; a pilot and a member share a host. Raises OSError where networks
    cannot be made."""
    with tempfile.TemporaryDirectory(prefix="model-") as folder, ExitStack() as stack:
        network = stack.enter_context(Network(*MEMBERS))
        site = Site(
            Path(folder), {f"pilot-{name}": name for name in MEMBERS}, network=network, etcd=program(), members=3
        )
        stack.callback(site.close)
        site.start_all()
        yield site
