"""Instructions a request in user space, counted by callgrind: what each sidecar adds to one.

    python -m tests.bench.instructions

The data path runs alone, outbound, with the tables of 0, 1, 2, 3 and 4 sidecars in force: instructions follow from
tables, not from who wrote them. A count repeats to a few per cent whatever else the machine does, so that a small cost
can be gated, where time shows nothing under 5 %. The same dump says in which phase they were spent and how often
memory was asked for. System calls are counted in the same way, in runs of their own.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.bench import callgrind, load, phases, syscalls, tables
from tests.bench.callgrind import Dump
from tests.bench.configurations import SERVICE, origin_command
from tests.bench.processes import BenchmarkError, Processes, wait_until
from tests.bench.scenarios import SCENARIOS
from tests.bench.session import free_port, get
from tests.proxy.process import Proxy

WARM_UP, MEASURED = 500, 3_000
WINDOWS = 3
"""The least of them counts: ticks come by the clock, and the slower the machine, the more of them a request sees."""
ALLOWED = 200
"""Instructions that a further sidecar may add to a request."""
TELEMETRY_ALLOWED = 600
"""Telemetry that is switched on has its own price: 150 ns, at about four instructions a nanosecond."""

ROUTES = traffic.Config(
    services={
        SERVICE: traffic.Service(subsets={"v1": {"version": "1"}, "v2": {"version": "2"}}, split={"v1": 90, "v2": 10})
    },
    routes=[
        traffic.Route(name="elsewhere", hosts=["other"], matches=[traffic.Match(path="/small")]),
        traffic.Route(name="all", hosts=[SERVICE], matches=[traffic.Match(prefix="/")]),
    ],
)
LIMITS = resilience.Config(services={"*": resilience.Service()})
HEADERS = {"direction": "outbound", "request": {"set": {"x-tenant": "acme"}}, "response": {"remove": ["server"]}}


@dataclass(frozen=True)
class Step:
    """One more sidecar: its name, and the table that it publishes."""

    sidecar: str
    publish: Callable[[Proxy, list[str]], object]
    allowed: int = ALLOWED


def _endpoints(proxy: Proxy, origins: list[str]) -> None:
    versions = [{"address": one, "metadata": {"version": str(n % 2 + 1)}} for n, one in enumerate(origins)]
    proxy.publish_endpoints(**{SERVICE: versions})


STEPS = (
    Step("discovery", _endpoints),
    Step("traffic", lambda proxy, _: proxy.publish_routes(ROUTES)),
    Step("resilience", lambda proxy, _: proxy.publish_limits(LIMITS)),
    Step(
        "observability",
        lambda proxy, _: proxy.publish_telemetry(access_log=False, sample_ratio=0.01),
        allowed=TELEMETRY_ALLOWED,
    ),
)


@dataclass(frozen=True)
class Count:
    """What a request costs with these sidecars; `phases` sum up to `instructions`."""

    sidecars: tuple[str, ...]
    instructions: float
    added: float
    allowed: int
    phases: dict[str, float]
    allocations: float
    syscalls: float | None

    @property
    def holds(self) -> bool:
        return self.added <= self.allowed


def available() -> bool:
    """Whether callgrind is here."""
    return shutil.which("valgrind") is not None


def measure() -> list[Count]:
    """The counts with 0 to 4 sidecars.

    Raises BenchmarkError when callgrind does not count or an answer is wrong.
    """
    generator = load.build()
    with tempfile.TemporaryDirectory(prefix="pannier-callgrind-") as name:
        folder = Path(name)
        with _origin(folder) as origins:
            (folder / "counted").mkdir()
            dumps = list(_dumps(folder / "counted", origins, generator))
            (folder / "traced").mkdir()
            calls = list(_syscalls(folder / "traced", origins, generator))
    counts: list[Count] = []
    for number, (dump, traced) in enumerate(zip(dumps, calls, strict=True)):
        done = STEPS[:number]
        instructions = dump.total / MEASURED
        counts.append(
            Count(
                sidecars=tuple(step.sidecar for step in done),
                instructions=instructions,
                added=instructions - counts[-1].instructions if counts else 0.0,
                allowed=done[-1].allowed if done else 0,
                phases=phases.phases(dump, MEASURED),
                allocations=phases.allocations(dump, MEASURED),
                syscalls=traced,
            )
        )
    return counts


def allocations() -> float:
    """How often a request with all four sidecars and a header policy asks for memory, or gives some back.

    Raises BenchmarkError when callgrind does not count or an answer is wrong.
    """
    generator = load.build()
    with tempfile.TemporaryDirectory(prefix="pannier-callgrind-") as name:
        folder = Path(name)
        with _origin(folder) as origins, contextlib.closing(_proxy(folder, origins)) as proxy:
            proxy.spawn(under=_callgrind(folder))
            proxy.wait_notified("READY=1")
            for step in STEPS:
                step.publish(proxy, origins)
            proxy.publish_headers(HEADERS)
            return phases.allocations(_counted(proxy, folder, generator), MEASURED)


def _callgrind(folder: Path) -> list[str]:
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--quiet"]


def _dumps(folder: Path, origins: list[str], generator: Path) -> Iterator[Dump]:
    with contextlib.closing(_proxy(folder, origins)) as proxy:
        proxy.spawn(under=_callgrind(folder))
        proxy.wait_notified("READY=1")
        yield _counted(proxy, folder, generator)
        for step in STEPS:
            step.publish(proxy, origins)
            yield _counted(proxy, folder, generator)


def _syscalls(folder: Path, origins: list[str], generator: Path) -> Iterator[float | None]:
    with contextlib.closing(_proxy(folder, origins)) as proxy:
        proxy.start()

        def traced() -> float | None:
            _drive(proxy, folder, generator, WARM_UP)
            return syscalls.per_request(
                [proxy.pid], lambda requests: _drive(proxy, folder, generator, requests), folder
            )

        yield traced()
        for step in STEPS:
            step.publish(proxy, origins)
            yield traced()


def _proxy(folder: Path, origins: list[str]) -> Proxy:
    proxy = Proxy(folder)
    proxy.publish_base(clusters=[{"name": SERVICE, "endpoints": [{"address": origin} for origin in origins]}])
    return proxy


def _counted(proxy: Proxy, folder: Path, generator: Path) -> Dump:
    _drive(proxy, folder, generator, WARM_UP)
    _dump(proxy, folder)
    windows = []
    for _ in range(WINDOWS):
        _drive(proxy, folder, generator, MEASURED)
        windows.append(_dump(proxy, folder))
    return min(windows, key=lambda dump: dump.total)


def _dump(proxy: Proxy, folder: Path) -> Dump:
    """Writes down and clears what was counted; that of all threads."""
    before = set(folder.glob("out.*"))
    subprocess.run(["callgrind_control", "--dump", str(proxy.pid)], check=True, capture_output=True, timeout=60)
    found: list[Path] = []

    def dumped() -> bool:
        found[:] = sorted(set(folder.glob("out.*")) - before)
        return bool(found) and all("totals:" in path.read_text() for path in found)

    wait_until(dumped, "callgrind did not dump")
    whole = Dump()
    try:
        for path in found:
            whole.add(callgrind.parse(path.read_text()))
    except ValueError as error:
        raise BenchmarkError(f"callgrind's dump was not understood: {error}") from error
    return whole


def _drive(proxy: Proxy, folder: Path, generator: Path, requests: int) -> None:
    # One connection: how often a reactor wakes up for many at once depends on the weather.
    alone = next(scenario for scenario in SCENARIOS if scenario.connections == 1)
    done = load.Generator(generator, folder, os.sched_getaffinity(0)).run(proxy.outbound[1], alone, requests=requests)
    if done.errors:
        raise BenchmarkError(f"{done.errors} wrong answers: {done.first_error}")


@contextlib.contextmanager
def _origin(folder: Path) -> Iterator[list[str]]:
    """nginx four times: two endpoints in each of two subsets, so that there is something to balance."""
    processes = Processes(folder / "log")
    with processes:
        ports = []
        for name in ("one", "two", "three", "four"):
            place = folder / name
            place.mkdir()
            port = free_port()
            processes.start(origin_command(place, port, place / "socket"), os.sched_getaffinity(0))
            wait_until(lambda port=port: _answers(port), "the origin did not answer")  # type: ignore[misc]
            ports.append(f"127.0.0.1:{port}")
        yield ports


def _answers(port: int) -> bool:
    try:
        return get(port, "/small")[0] == 200
    except OSError:
        return False


def main() -> int:
    """Measures and prints."""
    if not available():
        print("skipped: valgrind is not installed; run `make peers`")
        return 1
    counts = measure()
    shown = [asdict(count) for count in counts]
    print("\n".join([*tables.instructions(shown), *tables.phases(shown)]))
    return 0 if all(count.holds for count in counts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
