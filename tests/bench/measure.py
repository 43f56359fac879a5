"""CPU time, memory and switches of processes, and how much of the machine others took; read from /proc.

`schedstat` counts nanoseconds that a thread ran; `/proc/PID/stat` counts ticks of 10 ms and cannot see a request.
The reading is apart from the arithmetic: the functions that decide take plain values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

NOISE_LIMIT = 0.02
SLOWDOWN_LIMIT = 1.15
PROC = Path("/proc")
CPUACCT = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu")
TICK_NS = 10_000_000

ThreadTimes = Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Machine:
    """Nanoseconds since boot, by CPU: spent on anything, and stolen by the host."""

    busy: Mapping[int, int]
    steal: Mapping[int, int]


@dataclass(frozen=True)
class Noise:
    """What disturbed a run: shares (0…1) of the CPU time of the cores in use that went elsewhere, and how many times
    slower than at their best these cores were (`speed.py`)."""

    steal: float
    foreign: float
    slowdown: float = 1.0

    def reason_to_void(self) -> str | None:
        """Why the run must not count, if so."""
        if self.steal > NOISE_LIMIT:
            return f"steal {self.steal:.1%}"
        if self.foreign > NOISE_LIMIT:
            return f"foreign CPU {self.foreign:.1%}"
        if self.slowdown > SLOWDOWN_LIMIT:
            return f"a core {self.slowdown:.2f} times slower than it can be"
        return None


def parse_stat(text: str) -> Machine:
    """Reads the `cpuN` lines of /proc/stat: user nice system idle iowait irq softirq steal …, in ticks."""
    busy, steal = {}, {}
    for line in text.splitlines():
        name, _, values = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(value) for value in values.split()]
            busy[int(name[3:])] = (sum(ticks[:3]) + sum(ticks[5:7])) * TICK_NS
            steal[int(name[3:])] = ticks[7] * TICK_NS
    return Machine(busy, steal)


def with_exact_busy(ticks: Machine, usage: str) -> Machine:
    """Replaces busy ticks, which are sampled, by the root group's `cpuacct.usage_percpu`, which is exact.

    Inside a container that file counts the container alone and others would go unseen: then the ticks stay.
    """
    exact = dict(enumerate(int(value) for value in usage.split()))
    if not exact or sum(exact.values()) < 0.9 * sum(ticks.busy.values()):
        return ticks
    return Machine(exact, ticks.steal)


def noise(
    before: Machine, after: Machine, *, own_ns: int, wall_ns: int, cpus: Iterable[int], slowdown: float = 1.0
) -> Noise:
    """What `cpus` did in `wall_ns` beyond the `own_ns` that the benchmark's own processes ran on them."""
    used = list(cpus)
    capacity = wall_ns * len(used)
    busy = sum(after.busy[cpu] - before.busy[cpu] for cpu in used)
    steal = sum(after.steal[cpu] - before.steal[cpu] for cpu in used)
    return Noise(steal=steal / capacity, foreign=max(0, busy - own_ns) / capacity, slowdown=slowdown)


def ran_between(before: ThreadTimes, after: ThreadTimes) -> int:
    """Nanoseconds that the threads of `after` ran since `before`; a thread that is new counts from its start."""
    return sum(ran - before.get(thread, 0) for thread, ran in after.items())


def switches_of(status: str) -> int:
    """Context switches in a task's `status`, voluntary and not."""
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches:" in line)


def resident_of(status: str) -> int:
    """Resident bytes in a process's `status`."""
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def foreign_requests(origin: int, client: int) -> str | None:
    """Why the origin's own count contradicts the client's, if so; health checks of a sidecar are allowed for."""
    allowance = 20 + client // 1000
    if abs(origin - client) > allowance:
        return f"the origin served {origin} requests, the client had {client} answers"
    return None


def read_machine() -> Machine:
    """The machine's counters now."""
    ticks = parse_stat((PROC / "stat").read_text())
    try:
        return with_exact_busy(ticks, CPUACCT.read_text())
    except OSError:
        return ticks


def read_threads(pids: Iterable[int]) -> dict[tuple[int, int], int]:
    """Nanoseconds run by each (pid, tid); a process that is gone is left out."""
    times = {}
    for pid in pids:
        for tid, text in _of_tasks(pid, "schedstat"):
            times[pid, tid] = int(text.split()[0])
    return times


def read_switches(pids: Iterable[int]) -> int:
    """Context switches of all threads of `pids` so far."""
    return sum(switches_of(text) for pid in pids for _, text in _of_tasks(pid, "status"))


def read_resident(pids: Iterable[int]) -> int:
    """Resident bytes of `pids`; pages that they share count once each."""
    return sum(resident_of((PROC / str(pid) / "status").read_text()) for pid in pids)


def _of_tasks(pid: int, name: str) -> list[tuple[int, str]]:
    found = []
    try:
        tasks = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
    for task in tasks:
        try:
            found.append((int(task.name), (task / name).read_text()))
        except OSError:
            continue
    return found
