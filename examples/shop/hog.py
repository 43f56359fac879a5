"""The shop on a host that starves, and a Central that takes its calls: `hog.py [--profile production] [--for 60s]`.

    shop      shop, on one core with hogs that come and go       Central Mesh: leans on `central`
    central   the Central, and the pilot                         the other core
    others    catalog, orders, payments, httpbin                 the other core

One sees the pressure rise, the weight with it, the shop get its core back, and the weight fall once the hogs are gone.
Not one request may fail for that. Run as root: the hosts are network namespaces. The times of the Central Mesh are
shortened, so that the way back is seen within a minute.

Exit code: 0; 1 if a failure is unexplained, or not all of it was seen; 75 if it did not become ready.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import client
import hosts
import ledger
import load
import mix
import tomlkit
import trio
from hosts import Host
from mesh import BIN, HERE
from pannier.shared.bus import open_bus
from pannier.shared.central import CentralState, CentralStatus
from pannier.shared.central_words import reason
from pannier.shared.duration import seconds
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing
from screen import Screen
from table import aligned
from two_hosts import PILOT_PORT, answers, known, shop

FOLDER: Final = HERE.parents[1] / "build" / "run" / "hog"
PLACES: Final = {"shop": ("shop",), "central": (), "others": ("catalog", "orders", "payments", "httpbin")}
GATEWAY_PORT: Final = 15090
READY_SECONDS: Final = 90.0
HOGS: Final = 2
RATE: Final = 60.0
SHORTENED: Final = {"leave": {"calm": "5s"}, "dwell": "8s", "step_down": 20.0}
LOOK_SECONDS: Final = 0.25
_SHOWN: Final = 'mount --bind "$0" /proc/pressure/cpu && exec "$@"'


@dataclass
class Look:
    """What the shop's host says of itself at a time, in seconds since the load began."""

    at: float
    state: CentralState
    hogs: bool
    p50_ms: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True)
class Phase:
    """A part of the run: from when to when."""

    name: str
    began: float
    ended: float


def main() -> int:
    parser = argparse.ArgumentParser(description="The shop beside hogs, and a Central that takes its calls.")
    parser.add_argument("--profile", default="production", help="the stage to run on (default: production)")
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="60s", help="end by itself after this long")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second (default: %(default)g)")
    given = parser.parse_args()
    try:
        hosts.enter()
    except PermissionError as error:
        parser.error(f"{error}: run it with sudo, as `sudo make run PROFILE=production HOG=1`")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("the hogs have one core and the Central another one, and this machine has one alone")
    return trio.run(run, given.profile, given.seconds or 60.0, given.rate, cores, Screen(sys.stdout))


async def run(profile: str, length: float, rate: float, cores: Sequence[int], screen: Screen) -> int:
    for folder in (FOLDER, ledger.FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    notes, looks = load.Notes(), list[Look]()
    async with AsyncExitStack() as stack:
        group = stack.enter_context(own_group())
        one, central, others = made = hosts.make_hosts(tuple(PLACES), FOLDER)
        busy, spare = pinned(cores[0]), pinned(cores[-1])
        screen.say(f"three hosts: the shop on core {cores[0]}, a Central and all others on core {cores[-1]}: starting")
        with trio.move_on_after(READY_SECONDS) as waiting:
            token = secrets.token_urlsafe(32)
            await stack.enter_async_context(pilot(central, token, spare))
            await stack.enter_async_context(central_of(central, token, spare))
            await stack.enter_async_context(services(others, profile, made, token, before=spare))
            await stack.enter_async_context(
                services(one, profile, made, token, before=[*busy, *shown(group)], group=group)
            )
            await known(central, 5)
            await answers(one)
            await settled(one)
        if waiting.cancelled_caught:
            screen.say(f"not ready after {READY_SECONDS:g} s; what they say is in {FOLDER}")
            return 75
        shortened = "calm 5 s instead of 15, dwell 8 s instead of 30, 20 points a second back instead of 5"
        screen.say(f"ready; {rate:g} requests a second for {length:g} s", f"shortened for the show: {shortened}", "")
        phases = stretch(length)
        hogs = [*busy, sys.executable, "-c", "while True: pass"]
        async with trio.open_nursery() as nursery:
            until = trio.CancelScope(deadline=trio.current_time() + length)
            began = trio.current_time()
            nursery.start_soon(watch, one, notes, looks, phases, began)
            nursery.start_soon(show, screen, notes, looks, began, length)
            nursery.start_soon(starve, one, hogs, group, phases, began)
            async with trio.open_nursery() as sending:
                sending.start_soon(send, made, notes, until, rate)
            nursery.cancel_scope.cancel()
        screen.say("", "stopping")
    origins = {name: ledger.read(name) for placed in PLACES.values() for name in placed}
    verdict = ledger.judge(notes.failures, notes.placed, origins)
    screen.say(*story(looks, phases), "")
    missing = unseen(looks, phases)
    screen.say(*(f"not shown: {each} (give it FOR=60s)" for each in missing))
    screen.say(
        f"{len(notes.latencies)} requests, {len(verdict.failed)} failed, {len(verdict.injected)} injected, "
        f"{len(verdict.unexplained)} unexplained"
    )
    screen.say(*(f"  request {number}: {why.reason}" for number, why in sorted(verdict.unexplained.items())[:10]))
    return 1 if verdict.unexplained or missing else 0


def stretch(length: float) -> Sequence[Phase]:
    """Calm, hogs, calm again: the hogs have two fifths of the time."""
    first, second = length * 0.15, length * 0.5
    return (Phase("calm", 0.0, first), Phase("hogs", first, second), Phase("calm again", second, length))


def pinned(core: int) -> list[str]:
    return ["taskset", "--cpu-list", str(core)]


def join(group: Path | None, process: trio.Process) -> None:
    """Puts a process that has just begun into the group, and so whatever it starts."""
    if group is not None:
        (group / "cgroup.procs").write_text(str(process.pid))


def shown(group: Path | None) -> list[str]:
    """The words before a command of the host that starves. Its control group is the host's: what waits for a CPU there
    is told as that of the host, and what else this machine does is not."""
    if group is None:
        return []
    place = FOLDER / "pressure"
    place.touch()
    subprocess.run(["mount", "--bind", str(group / "cpu.pressure"), str(place)], check=True)
    return ["unshare", "--mount", "sh", "-c", _SHOWN, str(place)]


@contextmanager
def own_group() -> Iterator[Path | None]:
    """A control group whose pressure the kernel tells; none where there are no groups of version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] == "cgroup2":
            group = Path(words[4]) / f"pannier-hog-{secrets.token_hex(4)}"
            group.mkdir()
            try:
                yield group
            finally:
                with suppress(OSError):
                    group.rmdir()
            return
    yield None


@asynccontextmanager
async def pilot(host: Host, token: str, before: Sequence[str]) -> AsyncIterator[None]:
    """A pilot that is ready."""
    secret(host.folder / "state" / "pilot" / "token", token)
    words = [*before, str(BIN / "pannier"), "pilot", "--listen", f"{host.address}:{PILOT_PORT}"]
    async with host.running(words, log="pilot.log"):
        await known(host, 0)
        yield


@asynccontextmanager
async def central_of(host: Host, token: str, before: Sequence[str]) -> AsyncIterator[None]:
    """The Central. The networks of this show encrypt nothing."""
    words = [
        *before,
        str(BIN / "pannier"),
        "central",
        "--listen",
        f"0.0.0.0:{GATEWAY_PORT}",
        "--advertise",
        host.address,
    ]
    file = host.folder / "token"
    secret(file, token)
    where = f'{{addresses=["{host.address}:{PILOT_PORT}"], token_file="{file}", advertise="{host.address}"}}'
    words += ["--set", f'central.plain=["{hosts.NETWORK}.0/24"]', "--set", f"sidecars.discovery.pilot={where}"]
    async with host.running(words, log="central.log"):
        yield


@asynccontextmanager
async def services(
    host: Host, profile: str, made: Sequence[Host], token: str, *, before: Sequence[str], group: Path | None = None
) -> AsyncIterator[None]:
    """The services of a host, each with its sidecars, in that control group; the shop leans on the Central."""
    _, central, _ = made
    secret(host.folder / "token", token)
    where = {
        "addresses": [f"{central.address}:{PILOT_PORT}"],
        "token_file": str(host.folder / "token"),
        "advertise": host.address,
    }
    project = shop() | {"profile": profile}
    project["apps"] = {name: project["apps"][name] for name in PLACES[host.name]}
    for name, one in project["apps"].items():
        one["sidecars"]["discovery"] = {"pilot": where}
        one["env"] = {**one.get("env", {}), "PYTHONPATH": str(HERE)}
        if name == "shop":
            one["central"] = leaning(host, central)
    file = host.folder / "pannier.toml"
    file.write_text(tomlkit.dumps(project))
    found = {"SHOP_LEDGERS": str(ledger.FOLDER), "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"}
    words = [*before, str(BIN / "pannier"), "run", "-f", str(file)]
    async with host.running(words, log="services.log", environment=found) as process:
        join(group, process)
        yield


def leaning(host: Host, central: Host) -> dict[str, Any]:
    return {
        "addresses": [f"{central.address}:{GATEWAY_PORT}"],
        "plain": [f"{hosts.NETWORK}.0/24"],
        "advertise": host.address,
        **SHORTENED,
    }


def secret(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)


async def state(host: Host) -> CentralState | None:
    """What the proxy of the shop says; nothing while nobody answers."""
    with suppress(PannierError):
        async with open_bus(host.folder / "run" / "shop" / "bus.sock") as bus:
            return (await bus.request("supervisor", "central.status", Nothing(), CentralStatus)).state
    return None


async def settled(host: Host) -> None:
    """Returns once the shop's host has a Central, and all work at home."""
    while True:
        found = await state(host)
        if found is not None and found.weight == 0 and any(each.up and not each.trouble for each in found.centrals):
            return
        await trio.sleep(LOOK_SECONDS)


async def watch(host: Host, notes: load.Notes, looks: list[Look], phases: Sequence[Phase], began: float) -> None:
    """Keeps what the shop's host says of itself."""
    hogs = phases[1]
    while True:
        at = trio.current_time() - began
        if (found := await state(host)) is not None:
            looks.append(Look(at, found, hogs.began <= at < hogs.ended, *latencies(notes)))
        await trio.sleep(LOOK_SECONDS)


async def starve(host: Host, words: Sequence[str], group: Path | None, phases: Sequence[Phase], began: float) -> None:
    """Hogs on the shop's core for as long as their phase lasts."""
    hogs = phases[1]
    await trio.sleep(began + hogs.began - trio.current_time())
    async with AsyncExitStack() as stack:
        for number in range(HOGS):
            join(group, await stack.enter_async_context(host.running(words, log=f"hog-{number}.log")))
        await trio.sleep(began + hogs.ended - trio.current_time())


async def show(screen: Screen, notes: load.Notes, looks: Sequence[Look], began: float, length: float) -> None:
    """The live view."""
    while True:
        await trio.sleep(screen.every)
        if looks:
            screen.show(view(notes, looks, trio.current_time() - began, length))


def view(notes: load.Notes, looks: Sequence[Look], now: float, length: float) -> list[str]:
    """It, as lines."""
    last = looks[-1]
    found = last.state
    pressure = found.inputs.host_pressure or 0.0
    return [
        f"the shop beside {HOGS if last.hogs else 'no'} hogs: {now:.0f} of {length:.0f} s, "
        f"{len(notes.latencies)} requests, {len(notes.failures)} failed (payments refuses 2%)",
        "",
        f"weight    {bar(found.weight)} {found.weight:3.0f} of 100 points are elsewhere, by {found.way}",
        f"pressure  {bar(pressure)} {pressure:3.0f} % of the time somebody waits",
        f"why       {reason(found, {})}",
        f"shop      p50 {last.p50_ms:.1f} ms, p95 {last.p95_ms:.1f} ms in the last 2 s",
        f"elsewhere {found.moved_rps:.0f} requests a second, {found.saved_cores:.3f} cores saved here",
    ]


def latencies(notes: load.Notes) -> tuple[float, float]:
    """p50 and p95 of the last 2 s, in milliseconds."""
    recent = sorted(latency for at, latency, _ in notes.recent if at >= notes.recent[-1][0] - 2.0)
    return 1000 * share(recent, 0.5), 1000 * share(recent, 0.95)


def bar(percent: float, width: int = 30) -> str:
    full = round(min(max(percent, 0.0), 100.0) / 100 * width)
    return "█" * full + "░" * (width - full)


def share(ordered: Sequence[float], part: float) -> float:
    return ordered[int(part * (len(ordered) - 1))] if ordered else 0.0


def story(looks: Sequence[Look], phases: Sequence[Phase]) -> list[str]:
    """What happened, a line for each phase."""
    rows = [("PHASE", "SECONDS", "WEIGHT", "PRESSURE %", "ELSEWHERE/S", "P50 MS", "P95 MS")]
    for phase in phases:
        of_phase = [look for look in looks if phase.began <= look.at < phase.ended]
        inside = [look.state for look in of_phase]
        middle = statistics.median([look.p50_ms for look in of_phase] or [0.0])
        slow = statistics.median([look.p95_ms for look in of_phase] or [0.0])
        most = max((found.weight for found in inside), default=0.0)
        last = inside[-1].weight if inside else 0.0
        pressure = statistics.median([found.inputs.host_pressure or 0.0 for found in inside] or [0.0])
        moved = max((found.moved_rps for found in inside), default=0.0)
        span = f"{phase.began:.0f}-{phase.ended:.0f}"
        weight = f"up to {most:.0f}, then {last:.0f}"
        figures = (f"{pressure:.0f}", f"{moved:.0f}", f"{middle:.1f}", f"{slow:.1f}")
        rows.append((phase.name, span, weight, *figures))
    return aligned(rows, left=3)


def unseen(looks: Sequence[Look], phases: Sequence[Phase]) -> list[str]:
    """What should have been seen and was not."""
    _, hogs, _ = phases
    away = [look for look in looks if look.at >= hogs.began and look.state.weight >= 50]
    if not away:
        return ["no work left while the host starved"]
    return [] if looks[-1].state.weight < max(look.state.weight for look in away) else ["no work came back"]


async def send(made: Sequence[Host], notes: load.Notes, until: trio.CancelScope, rate: float) -> None:
    """The load, from outside."""
    apps: Mapping[str, Any] = shop()["apps"]
    async with AsyncExitStack() as stack:
        pools = {
            service: await stack.enter_async_context(client.open_pool(host.address, apps[service]["port"]))
            for host in made
            for service in PLACES[host.name]
            if service in mix.SERVICES
        }

        async def exchange(ask: mix.Ask) -> client.Response:
            return await pools[ask.service].exchange(ask.request)

        await load.drive(exchange, notes, until=until, rate=rate)


if __name__ == "__main__":
    sys.exit(main())
