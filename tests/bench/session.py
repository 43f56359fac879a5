"""One scenario in one layout: the origin and the peers up at the same time, measured in turn.

All stay up so that A B A B costs no start between A and B; an idle peer is asleep in epoll, and Pannier's own
housekeeping runs on the proxy's core, where it is paid for.
"""

import contextlib
import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import measure, syscalls
from tests.bench.configurations import SERVICE, Place, origin_command
from tests.bench.load import Generator, Load, children_ran
from tests.bench.peers import Peer
from tests.bench.processes import BenchmarkError, Processes, descendants, wait_until
from tests.bench.samples import Sample
from tests.bench.scenarios import Layout, Scenario
from tests.bench.speed import Speedometer

WARM_UP = 0.3
SKIPPED = 77
"""The exit code of a peer that the kernel refuses."""


class Refused(BenchmarkError):
    """The kernel refuses what a peer stands on."""


@dataclass(frozen=True)
class Contender:
    """A peer that is up: where it listens and the pid that was started (None for direct)."""

    peer: Peer
    port: int
    pid: int | None

    def proxies(self) -> list[int]:
        """The processes that touch a request."""
        return [] if self.pid is None else self.peer.proxies(self.pid)


@dataclass(frozen=True)
class Window:
    """What happened between the two readings around one load."""

    load: Load
    cpu_ns: int | None
    origin_cpu_ns: int
    switches: int | None
    noise: measure.Noise


class Session:
    """The processes of one scenario and layout, and the measurements on them."""

    def __init__(
        self, scenario: Scenario, layout: Layout, folder: Path, binary: Path, speedometer: Speedometer
    ) -> None:
        self.scenario = scenario
        self.layout = layout
        self._folder = folder
        self._binary = binary
        self._speedometer = speedometer
        self._processes = Processes(folder / "log")
        self._origin_port = free_port()
        self._origin_pid = 0
        self.generator = Generator(binary, folder, {layout.load_cpu})

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the origin; ends it and every peer with the block."""
        with self._processes:
            origin = self._folder / "origin"
            origin.mkdir()
            argv = origin_command(origin, self._origin_port, origin / "socket")
            self._origin_pid = self._processes.start(argv, {self.layout.load_cpu}).pid
            self._wait_ready("the origin", self._origin_port)
            yield

    def start(self, peer: Peer) -> Contender:
        """Starts `peer` and waits until it answers rightly.

        Raises BenchmarkError with the end of its output when it does not, Refused where the kernel does not let it.
        """
        if peer.command is None:
            return Contender(peer, self._origin_port, None)
        folder = self._folder / peer.key
        folder.mkdir()
        unix = f"unix:{self._folder}/origin/socket"
        over_unix = self.scenario.origin_over_unix and not peer.over_tcp
        origin = unix if over_unix else f"127.0.0.1:{self._origin_port}"
        place = Place(folder, free_port(), origin, self._binary)
        process = self._processes.start(peer.command(place), {self.layout.proxy_cpu}, peer.environment(place))
        contender = Contender(peer, place.port, process.pid)
        try:
            self._wait_ready(peer.key, place.port, alive=lambda: process.poll() is None)
            if not contender.proxies():
                raise BenchmarkError(f"{peer.key} answers, but its proxy process was not found")
        except BenchmarkError as error:
            self._processes.stop(process)
            if process.returncode == SKIPPED:
                raise Refused(self._processes.last_words(1)) from error
            raise
        return contender

    def sample(self, contender: Contender, turn: int, seconds: float) -> Sample:
        """One closed-loop measurement.

        Raises BenchmarkError when the counts of client and origin disagree or the proxy was replaced meanwhile.
        """
        window = self._window(contender, seconds=seconds)
        return Sample(
            round=turn,
            load=window.load,
            cpu_ns=window.cpu_ns,
            origin_cpu_ns=window.origin_cpu_ns,
            switches=window.switches,
            void=window.noise.reason_to_void(),
        )

    def paced(self, contender: Contender, rate: int, seconds: float) -> tuple[Load, str | None]:
        """One open-loop measurement below the knee, and why it must not count, if so."""
        window = self._window(contender, seconds=seconds, rate=rate)
        return window.load, window.noise.reason_to_void()

    def warm_up(self, contender: Contender, seconds: float) -> None:
        """Fills pools, caches and histories; nothing is measured."""
        self.generator.run(contender.port, self.scenario, seconds=seconds)

    def resident(self, contender: Contender) -> int | None:
        """Resident bytes of the proxy, while its pools are full."""
        return measure.read_resident(contender.proxies()) if contender.pid else None

    def syscalls(self, contender: Contender) -> float | None:
        """System calls a request of the proxy, its connections to the origin being open already."""
        if contender.pid is None:
            return None
        self.warm_up(contender, WARM_UP)
        return syscalls.per_request(
            contender.proxies(),
            lambda requests: self.generator.run(contender.port, self.scenario, requests=requests),
            self._folder,
            connections=self.scenario.connections,
        )

    def _window(self, contender: Contender, *, seconds: float, rate: int | None = None) -> Window:
        proxies = contender.proxies()
        slowdown = self._speedometer.slowdown(self.layout.cpus)
        served = self._origin_count()
        own = descendants(os.getpid())
        threads, switches = measure.read_threads(own), measure.read_switches(proxies)
        ran, machine, began = children_ran(), measure.read_machine(), time.monotonic_ns()
        load = self.generator.run(contender.port, self.scenario, seconds=seconds, rate=rate)
        wall, machine_after, ran_after = time.monotonic_ns() - began, measure.read_machine(), children_ran()
        threads_after, switches_after = measure.read_threads(own), measure.read_switches(proxies)
        if contender.proxies() != proxies:
            raise BenchmarkError(f"{contender.peer.key}: the proxy was replaced during the run")
        complaint = measure.foreign_requests(self._origin_count() - served - 1, load.requests)
        if complaint and not load.errors:
            raise BenchmarkError(f"{contender.peer.key}: {complaint}")
        own_ns = measure.ran_between(threads, threads_after) + ran_after - ran
        return Window(
            load=load,
            cpu_ns=_ran_by(set(proxies), threads, threads_after) if proxies else None,
            origin_cpu_ns=_ran_by({self._origin_pid}, threads, threads_after),
            switches=switches_after - switches if proxies else None,
            noise=measure.noise(
                machine,
                machine_after,
                own_ns=own_ns,
                wall_ns=wall,
                cpus=self.layout.cpus,
                slowdown=max(slowdown, self._speedometer.slowdown(self.layout.cpus)),
            ),
        )

    def _origin_count(self) -> int:
        """Requests that the origin has served, this one included (the third number of `stub_status`)."""
        text = get(self._origin_port, "/count")[1].decode()
        return int(text.splitlines()[2].split()[2])

    def _wait_ready(self, name: str, port: int, alive: Callable[[], bool] = lambda: True) -> None:
        def ready() -> bool:
            if not alive():
                raise BenchmarkError(f"{name} ended at once:\n{self._processes.last_words()}")
            try:
                return get(port, self.scenario.path) == (200, self.scenario.body)
            except (OSError, http.client.HTTPException):
                return False

        try:
            wait_until(ready, f"{name} did not answer rightly")
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}\n{self._processes.last_words()}") from None


def _ran_by(pids: set[int], before: measure.ThreadTimes, after: measure.ThreadTimes) -> int:
    return measure.ran_between(before, {thread: ran for thread, ran in after.items() if thread[0] in pids})


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": SERVICE, "Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
