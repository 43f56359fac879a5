"""Work goes to a Central and comes back, under load: because somebody asks for it, because the host starves, and while
things happen to the Central."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

from pannier.shared.errors import PannierError

from tests.faults.bed import SHOP, Bed
from tests.faults.cgroup import Group, denied
from tests.faults.leant import Leant, leant
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.victims import Victims
from tests.faults.waiting import pause, wait_until
from tests.system.three_hosts import APP, CENTRAL, ORIGIN, PLACES

EACH_S: Final = 1.0
"""Of a load, for a shift and a return."""
RESERVE_S: Final = 1.0
STAYS_S: Final = 0.4
KILL_S: Final = 15.0
"""Of a load, for a Central that is killed and another one."""
BACK_S: Final = 8.0
"""Until a host is linked again whose Central is back: it tries again after a pause that doubles."""
LEAVES_S: Final = 12.0
RETURNS_S: Final = 40.0
AT_ONCE_S: Final = 0.1
"""For an answer, where neither the Central nor who is called answers."""


def shift_and_return(bed: Leant, trial: Trial) -> None:
    """Everything leaves, and everything comes back, once."""
    trial.times["shifted_s"] = max(bed.three.shift(), trial.times.get("shifted_s", 0.0))
    pause(STAYS_S)
    trial.times["returned_s"] = max(bed.three.bring_back(), trial.times.get("returned_s", 0.0))
    trial.add("shifts", 1)


@dataclass(frozen=True)
class Shifts(Fault):
    """So many shifts and returns that somebody asks for, or as many as the load leaves room for in a short run.
    `killed`: in the middle of one `kill -9` takes everything of the Central, which is started again."""

    wanted: int
    killed: bool = False

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        until = time.monotonic() + load.seconds - RESERVE_S
        left = load.seconds - RESERVE_S - (KILL_S if self.killed else 0.0)
        wanted = min(self.wanted, int(left / EACH_S))
        done = 0
        while done < wanted and time.monotonic() < until:
            if self.killed and done == wanted // 2:
                self._kill(found, trial)
            before = served(found)
            shift_and_return(found, trial)
            trial.add("moved", served(found) - before)
            done += 1
        trial.require(done >= wanted, f"{done} shifts in {load.seconds:g} s, {wanted} were to be made")
        trial.require(trial.sums["moved"] > 0, "no request went by way of the Central")

    def _kill(self, bed: Leant, trial: Trial) -> None:
        bed.three.shift()
        pause(STAYS_S)
        trial.killed.append(time.monotonic())
        bed.three.kill_central()
        trial.killed.append(time.monotonic())
        trial.times["home_s"] = wait_until(lambda: bed.three.state().weight == 0, "work is home", within=BACK_S)
        bed.three.force(None)
        bed.begin(CENTRAL)
        trial.times["linked_s"] = wait_until(bed.three.linked, "the host is linked again", within=4 * BACK_S)


@dataclass(frozen=True)
class Starved(Fault):
    """So many times the host has nothing left: a quota for the app and its suite, and hogs on their core. All work
    leaves by itself, and comes back once there is room."""

    times: int
    quota: float = 0.15
    hogs: int = 2

    def clean(self, bed: Bed) -> str:
        return denied("cpu")

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        for _ in range(self.times):
            before = served(found)
            with starved(found, self.quota, self.hogs):
                left = wait_until(lambda: found.three.state().weight > 0, "work leaves", within=LEAVES_S)
                trial.times["left_s"] = max(left, trial.times.get("left_s", 0.0))
                all_left = lambda: found.three.state().weight >= 100  # noqa: E731
                trial.times["all_left_s"] = left + wait_until(all_left, "all has left", within=LEAVES_S)
                pause(STAYS_S)
            back = wait_until(lambda: found.three.state().weight == 0, "all is back", within=RETURNS_S)
            trial.times["back_s"] = max(back, trial.times.get("back_s", 0.0))
            trial.require(served(found) > before, "no request went by way of the Central")
            trial.add("moved", served(found) - before)
            trial.add("shifts", 1)
        trial.add("reversals", found.three.state().reversals)


@contextmanager
def starved(bed: Leant, quota: float, hogs: int) -> Iterator[None]:
    """The host of the app has this share of a core for all of the suite, and hogs beside it."""
    with ExitStack() as stack:
        group = stack.enter_context(Group("cpu"))
        group.limit_cpu(quota)
        group.take(bed.three.tree(APP))
        for _ in range(hogs):
            words = [*bed.three.grouped(), sys.executable, "-c", "while True: pass"]
            hog = stack.enter_context(subprocess.Popen(words))
            stack.callback(hog.kill)
        yield


def served(bed: Leant) -> int:
    """Requests that the Central has served, as it says itself."""
    with suppress(PannierError, OSError):
        gateway = bed.three.central_state().gateway
        return 0 if gateway is None else gateway.served
    return 0


@dataclass(frozen=True)
class Away(Fault):
    """All has left, and then something happens to the Central; `seconds` later it is over. The host has to be home
    again and linked afterwards, by itself."""

    how: Literal["stopped", "cut", "restarted", "squeezed"]
    seconds: float = 2.0
    loses_post: bool = True

    def clean(self, bed: Bed) -> str:
        return denied("cpu") if self.how == "squeezed" else ""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        found.three.shift()
        pause(2 * STAYS_S)
        if self.loses_post:
            trial.killed.append(time.monotonic())
        began = time.monotonic()
        with self._struck(found, trial):
            pause(began + self.seconds - time.monotonic())
        found.three.force(None)
        trial.times["linked_s"] = wait_until(found.three.linked, "the host is linked again", within=4 * BACK_S)
        shift_and_return(found, trial)

    @contextmanager
    def _struck(self, bed: Leant, trial: Trial) -> Iterator[None]:
        pilot = bed.three.running["pilot"].pid
        victims = [pid for pid in bed.three.tree(CENTRAL) if pid != pilot]
        match self.how:
            case "stopped":
                with Victims(victims) as stopped:
                    stopped.send(signal.SIGSTOP)
                    home = lambda: bed.three.state().weight == 0  # noqa: E731
                    trial.times["home_s"] = wait_until(home, "work is home", within=self.seconds)
                    if self.loses_post:
                        trial.killed.append(time.monotonic())
                    yield
            case "cut":
                bed.three.network.cut([[APP, ORIGIN], [CENTRAL]])
                home = lambda: bed.three.state().weight == 0  # noqa: E731
                trial.times["home_s"] = wait_until(home, "work is home", within=self.seconds)
                if self.loses_post:
                    trial.killed.append(time.monotonic())
                yield
                bed.three.network.heal()
            case "restarted":
                running = bed.three.running.pop(CENTRAL)
                running.terminate()
                yield
                running.wait(20)
                bed.begin(CENTRAL)
            case "squeezed":
                with Group("cpu") as group:
                    group.limit_cpu(0.08)
                    group.take(victims)
                    yield


class OutOfTokens(Fault):
    """A Central that grants one request a second: whatever is asked for, hardly anything leaves."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        for weight in (100.0, 50.0, 100.0):
            found.three.force(weight)
            pause((load.seconds - 2 * RESERVE_S) / 4)
            state = found.three.state()
            trial.require(state.weight <= 1.0, f"{state.weight:g} points have left for a request a second")
            trial.require(state.reason in {"no-tokens", "forced"}, f"its reason is {state.reason}")
        found.three.bring_back()


class BothDown(Fault):
    """The Central is killed, and who is called takes no connection: the answer comes at once."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        found.three.shift()
        callee = list(found.three.pids(ORIGIN).values())
        with Victims(callee) as victims:
            origin = found.three.running.pop(ORIGIN)
            found.three.kill_central()
            victims.send(signal.SIGKILL)
            origin.wait(20)
            for _ in range(20):
                status, took = ask(found, SHOP, ORIGIN)
                trial.within("answered_s", took, AT_ONCE_S)
                trial.require(status in {502, 503, 504}, f"it answered {status}")
                pause(0.1)
        found.three.force(None)
        for name in (CENTRAL, ORIGIN):
            found.begin(name)


class NothingToRead(Fault):
    """What says who waits for a CPU cannot be read on the app's host: it says so, stays as it is, and does what is
    asked."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        shown = found.three.pressure[APP]
        usual = shown.read_text()
        until = time.monotonic() + load.seconds - 2 * RESERVE_S
        for text in ("", "some avg10=x total=\n", "\0" * 4096, "some total=99999999999999999999999\n"):
            shown.write_text(text)
            pause((until - time.monotonic()) / 6)
            state = found.three.state()
            trial.require(state.weight == 0, f"{state.weight:g} points left, {state.reason}")
            if text in {"", "some avg10=x total=\n"}:
                trial.require(bool(state.trouble), f"it says nothing of {text!r}: {state.inputs}")
            shift_and_return(found, trial)
        shown.write_text(usual)

    def heal(self, bed: Bed) -> None:
        found = leant(bed)
        wait_until(lambda: not found.three.state().trouble, "it can be read again", within=BACK_S)


def ask(bed: Leant, service: str, name: str) -> tuple[int, float]:
    """Status and seconds of one GET from the host of a service, through its outbound listener; 0 without an answer."""
    program = (
        "import http.client, sys, time; c = http.client.HTTPConnection(sys.argv[1], timeout=5); t = time.monotonic(); "
        "c.request('GET', '/probe', headers={'host': sys.argv[2]}); print(c.getresponse().status, time.monotonic() - t)"
    )
    inside = bed.three.network.inside(PLACES[service])
    words = [*inside, sys.executable, "-c", program, bed.three.address(service, "outbound"), name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return 0, 0.0
    status, took = done.stdout.split()
    return int(status), float(took)
