"""How fast a core is just now, told by a small piece of fixed work.

On a shared host a virtual core has two speeds, a factor of 1.5 apart: alone on its physical core, or beside a busy
hyper-thread. It changes every few seconds, CPU time stretches with it, and steal stays at 0. So the same work is done
on the cores in use before and after each run: a run in which one of them was slow does not count. What it cannot see
is a core that was slow only in the middle; the median over the rounds is for that.
"""

import socket
import time
from collections.abc import Iterable

from tests.bench.processes import pinned

BATCHES = 4
ROUND_TRIPS = 400


class Speedometer:
    """Remembers the fastest that each core ever was."""

    def __init__(self) -> None:
        self._fastest: dict[int, int] = {}

    def calibrate(self, cpus: Iterable[int], *, seconds: float) -> None:
        """Looks for the cores' full speed for a while."""
        used = list(cpus)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.slowdown(used)

    def slowdown(self, cpus: Iterable[int]) -> float:
        """CPU time of the work now over the least it ever took, of the slowest of `cpus`; 1.0 = full speed."""
        worst = 1.0
        for cpu in cpus:
            with pinned({cpu}):
                spent = fixed_work()
            least = self._fastest[cpu] = min(spent, self._fastest.get(cpu, spent))
            worst = max(worst, spent / least)
        return worst


def fixed_work() -> int:
    """Nanoseconds of CPU time that a batch of TCP round trips inside one thread takes, the best of a few."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
        listener.accept()[0] as other,
    ):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spent = []
        for _ in range(BATCHES):
            began = time.thread_time_ns()
            for _ in range(ROUND_TRIPS):
                one.send(b"x" * 64)
                other.recv(64)
            spent.append(time.thread_time_ns() - began)
    return min(spent)
