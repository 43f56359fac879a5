"""`make bench-central`: what it does for a host that starves to lean on a Central, on three hosts with networks of
their own.

    python -m tests.bench.central [--peak 14] [--idle 60] [--only redirect]

The host of the app has one core, a control group, and so its own pressure. After some seconds of little work comes the
peak: the app does as much as its core lets it. What leaves then, when, and what the app gains is sampled every 250 ms,
for each way out and for staying local, and written to build/central/three-hosts.json. Everything runs at a higher
priority than usual, so that what else this machine does tells less; all figures are those of one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pannier.shared.central import CentralState
from pannier.shared.errors import PannierError

from tests.bench import central_app
from tests.faults import origin
from tests.faults.leant import PORTS, PUBLIC
from tests.faults.waiting import wait_until
from tests.system.load import generator
from tests.system.network import may_make
from tests.system.three_hosts import APP, CENTRAL, ORIGIN, SHOP, Leaning, ThreeHosts, known

OUT: Final = Path(__file__).parents[2] / "build" / "central" / "three-hosts.json"
EVERY_S: Final = 0.25
CALM_S: Final = 4.0
CALLERS: Final = 4
CONNECTIONS: Final = 16
WORK: Final = 20
URGENT: Final = -5
ENTER: Final = {"host_pressure": 25.0, "cgroup_pressure": 25.0, "throttled": 10.0, "queue_wait_ms": 20.0}
HOLDS_S, WITHIN_S = 2.0, 3.0
# The Central's core is its callers' and the origin's as well: that somebody waits for it says nothing of the Central,
# and the callers' host, which sees the same pressure, asks for tokens, too.
ROOMY: Final = (
    "central.enter.host_pressure=100",
    "central.enter.cgroup_pressure=100",
    "central.gateway.capacity=100000",
)
LIVELY: Final = (
    'central.leave.calm="5s"',
    'central.dwell="10s"',
    "central.step_down=20",
)


@dataclass(frozen=True)
class Scene:
    """A run: which way the app's work goes, and whether the app answers (`inbound`) or calls."""

    name: str
    leaning: Leaning
    inbound: bool = False


SCENES: Final = (
    Scene("local", Leaning("off", inbound=False, app=LIVELY, central=ROOMY, queue_wait="20ms", grouped=True)),
    Scene("redirect", Leaning("redirect", inbound=False, app=LIVELY, central=ROOMY, queue_wait="20ms", grouped=True)),
    Scene("relay", Leaning("relay", inbound=False, app=LIVELY, central=ROOMY, queue_wait="20ms", grouped=True)),
    Scene(
        "local-inbound",
        Leaning("off", inbound=False, app=LIVELY, central=ROOMY, queue_wait="20ms", grouped=True),
        inbound=True,
    ),
    Scene(
        "inbound",
        Leaning("off", inbound=True, app=LIVELY, central=ROOMY, queue_wait="20ms", grouped=True),
        inbound=True,
    ),
)


@dataclass(frozen=True)
class Sample:
    """250 ms. CPU in percent of a core."""

    t_s: float
    weight: float
    host_pressure: float | None
    cgroup_pressure: float | None
    throttled: float | None
    queue_wait_ms: float | None
    app_rps: float
    mesh_cpu_percent: float
    proxy_cpu_percent: float
    central_cpu_percent: float
    moved_rps: float
    reversals: int


@dataclass
class Run:
    """What a scene came to; the peak lasted from `peak_s` to `over_s`."""

    name: str
    peak_s: float = 0.0
    over_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peak", type=float, default=14.0, help="seconds of peak (default: %(default)g)")
    parser.add_argument("--after", type=float, default=22.0, help="seconds after it (default: %(default)g)")
    parser.add_argument("--idle", type=float, default=60.0, help="quiet seconds for the controller's cost")
    parser.add_argument("--only", action="append", help="only this scene")
    given = parser.parse_args()
    if not may_make():
        print("the hosts are network namespaces, which only root can make: run it with sudo", file=sys.stderr)
        return 77
    os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    runs, idle = [], None
    for scene in SCENES:
        if given.only and scene.name not in given.only:
            continue
        with stage(scene) as hosts:
            if scene.name == "redirect" and given.idle:
                idle = idle_cost(hosts, given.idle)
            runs.append(play(scene, hosts, given.peak, given.after))
        print(said(runs[-1]), flush=True)
    summary = summarise(runs, idle)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"runs": [asdict(run) for run in runs], "summary": summary}, indent=1) + "\n")
    print(json.dumps(summary, indent=2), f"\nwritten to {OUT}", sep="")
    return 0


@contextmanager
def stage(scene: Scene) -> Iterator[ThreeHosts]:
    """The hosts, ready, and the app's in a control group of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="central-")))
        (folder / "ledgers").mkdir()
        hosts = stack.enter_context(ThreeHosts(folder, scene.leaning))
        hosts.start("pilot")
        hosts.start(CENTRAL)
        answering = (sys.executable, str(Path(origin.__file__)), str(PORTS[ORIGIN]), str(folder / "ledgers"), "-1")
        hosts.start(ORIGIN, "--port", str(PUBLIC[ORIGIN]), "--app-port", str(PORTS[ORIGIN]), command=answering)
        app = (
            sys.executable,
            str(Path(central_app.__file__)),
            "serve",
            str(PORTS[SHOP]),
            str(WORK),
            str(folder / "app"),
        )
        hosts.start(SHOP, "--port", str(PUBLIC[SHOP]), "--app-port", str(PORTS[SHOP]), command=app)
        for name in (CENTRAL, ORIGIN, SHOP):
            wait_until(lambda name=name: hosts.ready(name), f"{name} is ready", within=60)  # type: ignore[misc]
        wait_until(lambda: bool(known(hosts.hosts[ORIGIN], ORIGIN, SHOP)), "shop is known", within=20)
        wait_until(lambda: bool(known(hosts.hosts[APP], SHOP, ORIGIN)), "origin is known", within=20)
        wait_until(hosts.linked, "the host is linked", within=20)
        wait_until(lambda: hosts.state().weight == 0, "all is at home", within=90)
        yield hosts


def play(scene: Scene, hosts: ThreeHosts, peak: float, after: float) -> Run:
    """Little work, the peak, little work again."""
    run, folder = Run(scene.name), hosts.folder
    with ExitStack() as stack:
        counters = [folder / "app"] if scene.inbound else [folder / f"caller-{number}" for number in range(CALLERS)]
        callers = [] if scene.inbound else [stack.enter_context(calling(hosts, file)) for file in counters]
        wait_until(lambda: all(file.exists() and file.stat().st_size for file in counters), "it counts", within=10)
        began = time.monotonic()
        eye = Eye(hosts, counters, began)
        watch(eye, run, CALM_S)
        run.peak_s = time.monotonic() - began
        if scene.inbound:
            with asking(hosts, peak):
                watch(eye, run, peak)
        else:
            toggle(callers)
            watch(eye, run, peak)
            toggle(callers)
        run.over_s = time.monotonic() - began
        watch(eye, run, after)
    return run


def watch(eye: Eye, run: Run, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(EVERY_S)
        run.samples.append(eye.look())


@contextmanager
def calling(hosts: ThreeHosts, counter: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the app that calls `origin` when it is told to."""
    words = [sys.executable, str(Path(central_app.__file__)), "call", hosts.address(SHOP, "outbound"), ORIGIN]
    process = subprocess.Popen([*hosts.grouped(), *words, str(WORK), str(counter)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def toggle(callers: Sequence[subprocess.Popen[bytes]]) -> None:
    for caller in callers:
        caller.send_signal(signal.SIGUSR1)


@contextmanager
def asking(hosts: ThreeHosts, seconds: float) -> Iterator[None]:
    """Callers of the app, from the origin's host, in a closed loop."""
    words = ["load", "--connect", hosts.address(ORIGIN, "outbound"), "--host", SHOP, "--seconds", str(seconds)]
    words += ["--connections", str(CONNECTIONS), "--expect-bytes", "64"]
    load = subprocess.Popen(
        [*hosts.inside(ORIGIN), generator(), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            load.communicate(timeout=10)
        load.kill()
        load.wait()


class Eye:
    """Looks at all of it; each look is the time since the one before."""

    def __init__(self, hosts: ThreeHosts, counters: Sequence[Path], began: float) -> None:
        self._hosts, self._counters, self._began = hosts, counters, began
        app = hosts.pids(SHOP)
        self._proxy = app["proxy"]
        self._mesh = [app[name] for name in app if name not in {"app", "supervisor", "keeper"}]
        self._central = list(hosts.pids(CENTRAL).values())
        self._before = self._read()

    def look(self) -> Sample:
        now, before = self._read(), self._before
        self._before = now
        passed = now["at"] - before["at"]
        state = state_of(self._hosts)
        rates = {name: max(0.0, now[name] - before[name]) / passed for name in now}
        inputs = state.inputs
        return Sample(
            t_s=round(now["at"] - self._began, 3),
            weight=state.weight if state.inbound or state.way != "none" else 0.0,
            host_pressure=inputs.host_pressure,
            cgroup_pressure=inputs.cgroup_pressure,
            throttled=inputs.throttled,
            queue_wait_ms=inputs.queue_wait_ms,
            app_rps=round(rates["app"], 1),
            mesh_cpu_percent=round(100 * rates["mesh"], 2),
            proxy_cpu_percent=round(100 * rates["proxy"], 2),
            central_cpu_percent=round(100 * rates["central"], 2),
            moved_rps=round(state.moved_rps, 1),
            reversals=state.reversals,
        )

    def _read(self) -> dict[str, float]:
        return {
            "at": time.monotonic(),
            "app": sum(map(central_app.read, self._counters)),
            "mesh": sum(map(cpu_s, self._mesh)),
            "proxy": cpu_s(self._proxy),
            "central": sum(map(cpu_s, self._central)),
        }


def state_of(hosts: ThreeHosts) -> CentralState:
    with suppress(PannierError, OSError):
        return hosts.state()
    return CentralState()


def cpu_s(pid: int, named: str = "") -> float:
    """Seconds of CPU that the threads of a process have used, to the nanosecond; those of that name alone."""
    used = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            if not named or (task / "comm").read_text().strip() == named:
                used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


def idle_cost(hosts: ThreeHosts, seconds: float) -> dict[str, float]:
    """Shares of a core that the controller's thread, and the whole proxy, use while nothing happens, in percent."""
    proxy = hosts.pids(SHOP)["proxy"]
    began, thread, whole = time.monotonic(), cpu_s(proxy, "central"), cpu_s(proxy)
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {
        "seconds": round(passed, 1),
        "controller_percent": round(100 * (cpu_s(proxy, "central") - thread) / passed, 4),
        "proxy_percent": round(100 * (cpu_s(proxy) - whole) / passed, 4),
    }


def held_at(samples: Sequence[Sample]) -> float | None:
    """When the enter rule held first, by the inputs as they were sampled: exceeded for 2 s of the last 3."""
    exceeded: list[tuple[float, float]] = []
    before = samples[0].t_s if samples else 0.0
    for sample in samples:
        if any((getattr(sample, name) or 0.0) >= most for name, most in ENTER.items()):
            exceeded.append((sample.t_s, sample.t_s - before))
        before = sample.t_s
        if sum(span for at, span in exceeded if at > sample.t_s - WITHIN_S) >= HOLDS_S:
            return sample.t_s
    return None


def first(samples: Sequence[Sample], weight: float) -> float | None:
    """When so much had left."""
    return next((sample.t_s for sample in samples if sample.weight >= weight), None)


def median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return round(statistics.median(values or [0.0]), 2)


def peak_of(run: Run, *, shifted: bool) -> list[Sample]:
    """The samples of the peak before anything had left, or, of a run in which work leaves, after all had."""
    inside = [sample for sample in run.samples if run.peak_s + 2 * EVERY_S < sample.t_s < run.over_s - 2 * EVERY_S]
    if not shifted:
        return [sample for sample in inside if sample.weight == 0]
    full = first(run.samples, 100)
    return [] if full is None else [sample for sample in inside if sample.t_s > full + 2 * EVERY_S]


def summarise(runs: Sequence[Run], idle: Mapping[str, float] | None) -> dict[str, object]:
    """The figures: each way is held against its own peak before anything had left, and against staying local."""
    found: dict[str, object] = {"machine_load": round(os.getloadavg()[0], 1), "idle": idle}
    local = {run.name: run for run in runs if run.name.startswith("local")}
    for run in runs:
        if run.name in local:
            found[run.name] = {
                "app_rps": median(peak_of(run, shifted=False), "app_rps"),
                "mesh_cpu_percent": median(peak_of(run, shifted=False), "mesh_cpu_percent"),
            }
            continue
        held, relief, full = held_at(run.samples), first(run.samples, 0.01), first(run.samples, 100)
        away = peak_of(run, shifted=True)
        stays = local.get("local-inbound" if run.name == "inbound" else "local")
        at_home = peak_of(stays, shifted=False) if stays else peak_of(run, shifted=False)
        mesh, per = median(at_home, "mesh_cpu_percent"), cost(at_home)
        found[run.name] = {
            "relief_after_s": None if held is None or relief is None else round(relief - held, 2),
            "full_after_s": None if held is None or full is None else round(full - held, 2),
            "mesh_cpu_percent": {"local": mesh, "shifted": median(away, "mesh_cpu_percent")},
            "mesh_cpu_falls_by_percent": falls(mesh, median(away, "mesh_cpu_percent")),
            "mesh_cpu_a_request_falls_by_percent": falls(per, cost(away)),
            "app_rps": {"local": median(at_home, "app_rps"), "shifted": median(away, "app_rps")},
            "central_cpu_percent": median(away, "central_cpu_percent"),
            "reversals": max((sample.reversals for sample in run.samples), default=0),
            "home_again_after_s": home_again(run),
        }
    return found


def cost(samples: Sequence[Sample]) -> float:
    """Microseconds of the mesh's CPU on the app's host for each request."""
    requests = sum(sample.app_rps for sample in samples)
    return sum(sample.mesh_cpu_percent for sample in samples) * 1e4 / requests if requests else 0.0


def falls(before: float, after: float) -> float:
    return round(100 * (1 - after / before), 1) if before else 0.0


def home_again(run: Run) -> float | None:
    """Seconds from the end of the peak until all work was back."""
    return next((round(s.t_s - run.over_s, 2) for s in run.samples if s.t_s > run.over_s and s.weight == 0), None)


def said(run: Run) -> str:
    peak = [sample for sample in run.samples if run.peak_s < sample.t_s < run.over_s]
    app, mesh = median(peak, "app_rps"), median(peak, "mesh_cpu_percent")
    most = max((sample.weight for sample in run.samples), default=0.0)
    return f"{run.name:14} app {app:8.1f}/s, mesh {mesh:5.1f} % of the core, weight up to {most:.0f}"


if __name__ == "__main__":
    sys.exit(main())
