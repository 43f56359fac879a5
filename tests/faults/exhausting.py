"""Something that a service needs runs out: descriptors, the disk, memory, the CPU. It has to come back by itself."""

from __future__ import annotations

import json
import resource
import socket
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults import cgroup
from tests.faults.attacker import Crowd, Toll, say
from tests.faults.bed import CALLEE, ORDERS, SECOND, SHOP, Bed
from tests.faults.gauge import MIB, cpu_s, descriptors, resident
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.refusing import entries
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request

RECOVERED_S = 5.0
GIVEN_UP_S = 8.0
SPIN = 0.2  # of a core, more than the same load takes without the fault
LOST_LINES = "pannier_access_log_errors_total"
ENOUGH = 9_000
PER_CONNECTION = 100 * MIB / 10_000


def proxy(bed: Bed) -> int:
    return bed.processes(ORDERS)["proxy"].pid


def serves(bed: Bed) -> bool:
    """Whether a new connection to the public port is accepted and answered."""
    host, _, port = bed.address(ORDERS, "inbound").rpartition(":")
    with suppress(OSError), Wire(socket.create_connection((host, int(port)), 0.5)) as wire:
        wire.socket.settimeout(0.5)
        wire.send(request("/probe", host=CALLEE))
        return wire.read_answer().status == 200
    return False


def busy(pid: int, seconds: float) -> float:
    """The share of a core that the process uses in the next seconds."""
    began, used = time.monotonic(), cpu_s(pid)
    pause(seconds)
    return (cpu_s(pid) - used) / (time.monotonic() - began)


@dataclass(frozen=True)
class Descriptors(Fault):
    """More callers come than there are descriptors for. `lowered`: the limit falls to a few more than the proxy holds
    while it runs; else it was there when the proxy began, which keeps half of it for the upstreams of its callers. Who
    waits is let in when those who are idle have left."""

    callers: int
    lowered: bool = False
    spare: int = 8
    seconds: float = 3.0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        pid = proxy(bed)
        usual = busy(pid, 1.0)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        if self.lowered:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(descriptors(pid)) + self.spare, limits[1]))
        try:
            with Crowd(bed.address(ORDERS, "inbound"), self.callers) as crowd:
                spent = busy(pid, self.seconds)
                trial.times["cpu"] = spent
                trial.require(spent <= usual + SPIN, f"it takes {spent:.0%} of a core, {usual:.0%} before")
                crowd.listen()
                short = len(crowd.alive()) < self.callers or not serves(bed)
                trial.require(short, "nobody had to leave or to wait: there were descriptors left after all")
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        trial.within("recovered_s", wait_until(lambda: serves(bed), "it serves again", within=GIVEN_UP_S), RECOVERED_S)
        trial.require(proxy(bed) == pid, "the proxy has been started anew")


@dataclass(frozen=True)
class DiskFull(Fault):
    """Not a byte is left where sockets, leases, access logs and state are, for longer than a lease lives."""

    seconds: float = 12.0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = {
            name: {each.name: each.pid for each in bed.processes(name).values()} for name in (SHOP, ORDERS, SECOND)
        }
        lost = bed.host.metric(ORDERS, LOST_LINES)
        ballast = [fill(folder) for folder in (bed.host.runtime, bed.state)]
        try:
            pause(self.seconds / 2)
            done = bed.host.run("profile", "set", "proxy.timeouts.idle=61s", "-n", ORDERS, "--confirm", "0s")
            trial.require("Traceback" not in done.stderr, f"`profile set` said {done.stderr[-300:]!r}")
            pause(self.seconds / 2)
        finally:
            for file in ballast:
                file.unlink()
        began = time.monotonic()
        trial.require(bed.host.metric(ORDERS, LOST_LINES) > lost, "no line was lost, so the disk was not full")
        log = bed.host.runtime / ORDERS / "access.log"
        size = log.stat().st_size
        wait_until(lambda: log.stat().st_size > size, "the access log goes on", within=GIVEN_UP_S)
        wait_until(lambda: bed.known() == 2, "both instances are known", within=GIVEN_UP_S)
        wait_until(
            lambda: all(bed.host.ready(name) for name in (SHOP, ORDERS, SECOND)), "all are ready", within=GIVEN_UP_S
        )
        trial.within("recovered_s", time.monotonic() - began, RECOVERED_S)
        for name, processes in before.items():
            now = {each.name: each.pid for each in bed.processes(name).values()}
            trial.require(now == processes, f"{name}: {processes} became {now}")
        pause(1.2)
        for reason in truncated(bed):
            trial.require(False, reason)

    def heal(self, bed: Bed) -> None:
        done = bed.host.run("profile", "reset", "-n", ORDERS, "--confirm", "0s")
        assert done.returncode == 0, done.stderr


def fill(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    file = folder / "ballast"
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(1 << 12)):
            pass
    return file


def truncated(bed: Bed) -> list[str]:
    """The files that readers would stumble over."""
    readers: dict[str, Callable[[Path], object]] = {
        "*.json": lambda path: json.loads(path.read_bytes()),
        "*.toml": lambda path: tomllib.loads(path.read_text()),
        "access.log": entries,
    }
    found = []
    for pattern, read in readers.items():
        for path in [*bed.host.runtime.rglob(pattern), *bed.state.rglob(pattern)]:
            try:
                read(path)
            except ValueError as error:
                found.append(f"{path.relative_to(bed.folder)} is truncated: {error}")
            except FileNotFoundError:
                pass
    return found


@dataclass(frozen=True)
class MemoryLimit(Fault):
    """64 MiB for the proxy, its sockets' buffers included, while large bodies and a thousand connections pass."""

    size: int = 64 * MIB
    callers: int = 1000
    bodies: int = 16
    body: int = 4 * MIB

    def clean(self, bed: Bed) -> str:
        return cgroup.denied("memory")

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        pid, address = proxy(bed), bed.address(ORDERS, "inbound")
        head = f"POST /upload HTTP/1.1\r\nHost: {CALLEE}\r\nContent-Length: {self.body}\r\nConnection: close\r\n\r\n"
        large = f"GET /large/1024 HTTP/1.1\r\nHost: {CALLEE}\r\nConnection: close\r\n\r\n".encode()
        until = time.monotonic() + load.seconds - 3.0
        with cgroup.Group("memory") as group:
            group.limit_memory(self.size)
            group.take([pid])
            with Crowd(address, self.callers), Crowd(address, self.bodies, window=1 << 16) as readers:
                readers.say(large)
                while time.monotonic() < until:
                    up = say(address, head.encode() + bytes(self.body), Toll())
                    down = say(address, large, Toll())
                    trial.require(
                        (up.statuses, down.statuses) == ([200], [200]), f"answered {up.statuses}, {down.statuses}"
                    )
                    trial.require(len(down.data) > MIB, f"{len(down.data)} of a MiB came")
                    trial.add("bodies", 2)
                    readers.listen(1 << 16)
            trial.times["used_mib"] = group.peak() / MIB
        trial.times["resident_mib"] = resident(pid) / MIB
        trial.require(proxy(bed) == pid, "the proxy has been started anew")
        trial.within("recovered_s", wait_until(lambda: serves(bed), "it serves again", within=GIVEN_UP_S), RECOVERED_S)


@dataclass(frozen=True)
class CpuQuota(Fault):
    """A fifth of a core for everything that governs a service: its proxy, sidecars, supervisor and keeper together."""

    share: float = 0.2

    def clean(self, bed: Bed) -> str:
        return cgroup.denied("cpu")

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = pids(bed.processes(ORDERS), less=("app",))
        with cgroup.Group("cpu") as group:
            group.limit_cpu(self.share)
            group.take(before.values())
            began = sum(map(cpu_s, before.values()))
            pause(load.seconds - 3.0)
            trial.times["cpu"] = (sum(map(cpu_s, before.values())) - began) / (load.seconds - 3.0)
            trial.require(bed.host.ready(ORDERS), "it is not ready")
        trial.require(trial.times["cpu"] <= self.share * 1.1, f"{trial.times['cpu']:.0%} of a core: no limit at all")
        trial.within("recovered_s", wait_until(lambda: serves(bed), "it serves", within=GIVEN_UP_S), RECOVERED_S)
        now = pids(bed.processes(ORDERS), less=("app",))
        trial.require(now == before, f"somebody was started anew: {before} became {now}")


class IdleConnections(Fault):
    """Ten thousand, or as many as this machine's limit of descriptors leaves the proxy (half, and some for itself)."""

    def clean(self, bed: Bed) -> str:
        most = self._count(bed)
        return (
            "" if most >= ENOUGH else f"the proxy may hold {most} connections here; raise the hard limit of descriptors"
        )

    def _count(self, bed: Bed) -> int:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        proxys = resource.prlimit(proxy(bed), resource.RLIMIT_NOFILE)[0]
        # Of each worker's, half are for callers, who are spread by chance.
        return min(10_000, round((proxys - 64 - proxys / 32) * 0.94), hard - 500)

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        pid, count = proxy(bed), self._count(bed)
        held, opened = resident(pid), sum(descriptors(pid))
        with Crowd(bed.address(ORDERS, "inbound"), 0) as crowd:
            for more in [200] * (count // 200) + [count % 200]:
                crowd.grow(more)
                pause(0.01)
            wait_until(lambda: sum(descriptors(pid)) >= len(crowd.sockets), "all are accepted", within=GIVEN_UP_S)
            pause(2.0)
            found = resident(pid)
            trial.times["connections"] = len(crowd.sockets)
            trial.times["resident_mib"] = found / MIB
            trial.times["kib_each"] = (found - held) / len(crowd.sockets) / 1024
            most = PER_CONNECTION * len(crowd.sockets)
            trial.require(
                found <= most, f"{found / MIB:.0f} MiB with {len(crowd.sockets)} connections, promised {most / MIB:.0f}"
            )
            trial.require(serves(bed), "a further caller is not served")
        wait_until(lambda: sum(descriptors(pid)) < opened + 100, "they are let go", within=GIVEN_UP_S)
        trial.times["after_mib"] = resident(pid) / MIB
        trial.require(proxy(bed) == pid, "the proxy has been started anew")
