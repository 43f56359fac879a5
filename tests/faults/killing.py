"""`kill -9`, of whomever: who notices, who is back when, and who must not be touched.

Repetitions alternate between the caller and a callee: the tables of the one rule its calls, those of the other what it
is asked.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from pannier.shared.messages import Process

from tests.faults.bed import ORDERS, SECOND, SHOP, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.victims import kill
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request

RESTARTS = "pannier_sidecar_restarts_total"
BACK_S = 1.0
VISIBLE_S = 2.0
ADOPTED_S = 2.0
ALONE_S = 3.0  # by then, whoever tries to reach the dead supervisor waits for as long as he ever will between two tries
DEGRADED_S = 1.0
ACCEPTING_S = 0.1
GIVEN_UP_S = 5.0
CALLS = 4


def alternating(trial: Trial) -> str:
    return (SHOP, ORDERS)[trial.number % 2]


def pids(processes: Mapping[str, Process], *, less: Collection[str] = ()) -> dict[str, int]:
    """The PIDs of all but some."""
    return {name: process.pid for name, process in processes.items() if name not in less}


@dataclass(frozen=True)
class KillSidecars(Fault):
    """All of them at once; and the supervisor with them if `supervisor`, which is then started again."""

    names: Sequence[str]
    supervisor: bool = False

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        counted = bed.host.metric(service, RESTARTS)
        struck = [before[name].pid for name in self.names]
        if self.supervisor:
            struck.append(bed.running[service].pid)
        kill(struck)
        began = time.monotonic()
        if self.supervisor:
            bed.running[service].wait()
            bed.start(service)
            bed.wait_ready(service, within=GIVEN_UP_S)
            trial.within("adopted_s", time.monotonic() - began, ADOPTED_S)
        else:
            wait_until(lambda: self._back(bed, service, before), "all are back", within=GIVEN_UP_S)
            trial.within("back_s", time.monotonic() - began, BACK_S)
        after = bed.processes(service)
        touched = (*self.names, "supervisor") if self.supervisor else self.names
        same = pids(after, less=touched) == pids(before, less=touched)
        trial.require(same, f"others were touched: {pids(before)} became {pids(after)}")
        replaced = all(after[name].pid != before[name].pid for name in self.names)
        trial.require(replaced, "a PID of the dead is still shown")
        wanted = counted + len(self.names)
        wait_until(lambda: bed.host.metric(service, RESTARTS) == wanted, f"{RESTARTS} is {wanted:g}", within=VISIBLE_S)

    def _back(self, bed: Bed, service: str, before: Mapping[str, Process]) -> bool:
        now = bed.sidecars(service)
        return all(now[name][1] and now[name][0] != before[name].pid for name in self.names)


@dataclass(frozen=True)
class KillSupervisor(Fault):
    """The data path is alone for some seconds; then the same command is given again."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        everybody = set(bed.host.survivors())
        bed.running[service].kill()
        bed.running[service].wait()
        pause(ALONE_S)
        began = time.monotonic()
        bed.start(service)
        bed.wait_ready(service, within=GIVEN_UP_S)
        trial.within("adopted_s", time.monotonic() - began, ADOPTED_S)
        after = bed.processes(service)
        trial.require(
            pids(after, less=("supervisor",)) == pids(before, less=("supervisor",)),
            f"who ran was not taken over: {pids(before)} became {pids(after)}",
        )
        doubled = set(bed.host.survivors()) - everybody - {after["supervisor"].pid}
        trial.require(not doubled, f"somebody runs twice: {doubled}")


class KillKeeper(Fault):
    """Nothing can be started any more; everything that runs is still found, shown and, in the end, ended."""

    def __init__(self) -> None:
        self._service = SHOP

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        self._service = service = alternating(trial)
        before = bed.processes(service)
        kill([before["keeper"].pid])
        began = time.monotonic()
        wait_until(
            lambda: bed.processes(service)["supervisor"].state == "degraded", "it is degraded", within=GIVEN_UP_S
        )
        trial.within("degraded_s", time.monotonic() - began, DEGRADED_S)
        after = bed.processes(service)
        trial.require(
            pids(after, less=("keeper", "zygote")) == pids(before, less=("keeper", "zygote")),
            f"not all are listed: {pids(before)} became {pids(after)}",
        )
        trial.require(
            all(after[name].ready for name in after if name not in ("keeper", "zygote", "supervisor")),
            "not all are ready",
        )

    def heal(self, bed: Bed) -> None:
        """As an operator does: end the service and start it again."""
        before = pids(bed.processes(self._service), less=("keeper", "zygote"))
        bed.stop(self._service)
        left = set(before.values()) & set(bed.host.survivors())
        assert not left, f"left behind by a service without a keeper: {left}"
        bed.start(self._service)


class KillProxy(Fault):
    """The load's own connections break; a new one is taken at once, since the keeper holds the listeners."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(ORDERS)
        public = urlsplit(bed.host.urls(ORDERS)["inbound"])
        with ExitStack() as stack:
            kill([before["proxy"].pid])
            began = time.monotonic()
            for _ in range(CALLS):  # each of the workers' listeners is hit by some
                wire = stack.enter_context(Wire(socket.create_connection((public.hostname, public.port), GIVEN_UP_S)))
                wire.send(request("/probe", host="orders"))
                trial.require(wire.read_answer().status == 200, "the first answer of the new proxy is not 200")
        trial.within("accepting_s", time.monotonic() - began, ACCEPTING_S)
        bed.wait_ready(ORDERS, within=GIVEN_UP_S)
        trial.require(
            pids(bed.processes(ORDERS), less=("proxy",)) == pids(before, less=("proxy",)), "others were touched"
        )


@dataclass(frozen=True)
class KillProxyOfCallee(Fault):
    """What the callers of a callee see whose proxy dies, if they repeat what may be repeated."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = (ORDERS, SECOND)[trial.number % 2]
        kill([bed.processes(service)["proxy"].pid])
        began = time.monotonic()
        bed.wait_ready(service, within=GIVEN_UP_S)
        trial.within("back_s", time.monotonic() - began, BACK_S)
