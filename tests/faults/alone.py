"""The data path alone: the bus, every supervisor and every sidecar of all services are dead for minutes, under load.

What was in force stays so, and is counted at the origins, not asked of anybody: a split of calls, an edit of a header,
retries, a limit. What was said to end by itself ends. Then the same commands are given again, and who lived on is taken
over.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Mapping

import trio
from pannier.shared.bus import open_bus
from pannier.shared.messages import Nothing, Process, TakeOut

from tests.faults.bed import CALLEE, FRONT, ORDERS, SECOND, SHOP, Bed, app
from tests.faults.load import Flow, Load
from tests.faults.row import Fault
from tests.faults.verdict import Count, Trial, quantile, weigh
from tests.faults.victims import Victims
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request
from tests.system.host import PATIENCE, free_port

FOURTH = "limited"
"""A service with a split of its own and a limit that can be met; no other load goes there."""
SPLIT, EDIT = "split", "x-edited"
SERVICES = (SHOP, ORDERS, SECOND, FOURTH)
LIVING = ("keeper", "proxy", "app")
Lives = Mapping[str, Mapping[str, Process]]
QUIET = Flow(rate=100, connections=8)
SPLIT_FLOW, SPLIT_S = Flow(rate=100, connections=8), 5.0
SPLIT_SHARE = (0.05, 0.16)  # a tenth, by chance: of 500 calls, give or take four standard deviations
LIMIT_PER_S, LIMIT_FLOW, LIMIT_S = 50, Flow(rate=300, connections=8), 3.0
BEFORE_S = 12.0
RETURN_S = 16.0  # of the load: everybody comes back, and is looked at
MARGIN_S = 1.0
OUT_SHARE = 0.25  # of the time alone, for which one instance is out
GONE_S = 2.0
ADOPTED_S = 10.0  # four services at once on two cores; alone it is the row of the killed supervisor that promises 2 s
SLOWER = 2.0
QUANTILES: Mapping[str, tuple[float, float]] = {
    "p50": (0.5, 0.005),
    "p90": (0.9, 0.010),
    "p99": (0.99, 0.025),
    "p99_9": (0.999, 2.0),
}
"""Of the latency: a share, and the seconds below which nothing is held against it.

One in a thousand is a single request of the window before, which is no measure for another: it is shown, and must be no
failure.
"""


class Alone(Fault):
    """Everybody who governs is killed; the time alone is what the load leaves of its seconds."""

    def __init__(self) -> None:
        self._port = 0
        self._called = 0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        over = time.monotonic() + load.seconds - RETURN_S
        self._port = free_port()
        self._start_fourth(bed)
        bed.wait_ready(FOURTH, within=PATIENCE)
        wait_until(lambda: self._edited(bed), "the fourth service knows its callees", within=PATIENCE)
        was = self._policy(bed, trial, "before", BEFORE_S)
        before = {name: bed.processes(name) for name in SERVICES}
        alone = over - time.monotonic()
        began = time.monotonic()
        take_out(bed, bed.address(ORDERS, "inbound"), OUT_SHARE * alone)
        self._kill(bed, before, trial)
        self._stays_out(bed, trial, load, began + OUT_SHARE * alone)
        now = self._policy(bed, trial, "during", over - time.monotonic() - MARGIN_S)
        trial.times["alone_s"] = time.monotonic() - began
        for name, (share, floor) in QUANTILES.items():
            trial.times[f"{name}_before_s"] = quantile(was, share)
            trial.within(f"{name}_during_s", quantile(now, share), max(SLOWER * quantile(was, share), floor))
        trial.require(calls(bed, ORDERS, load) > self._called, "who was out is not called again")
        self._return(bed, trial, before)

    def heal(self, bed: Bed) -> None:
        bed.stop(FOURTH)

    def _start_fourth(self, bed: Bed) -> None:
        route = f'{{name = "{SPLIT}", hosts = ["{SPLIT}"], to = {{{CALLEE} = 1, {SECOND} = 9}}, '
        route += f'rewrite = {{host = "{CALLEE}"}}, request = {{set = {{{EDIT} = "yes"}}}}}}'
        limit = f'{{fill = {LIMIT_PER_S}, interval = "1s", max = {LIMIT_PER_S}}}'
        words = ["--port", "0", "--app-port", str(self._port), "--set", f"sidecars.traffic.routes=[{route}]"]
        words += ["--set", f"sidecars.resilience.inbound.rate_limit={limit}"]
        bed.run(FOURTH, *words, command=app(self._port, bed))

    def _policy(self, bed: Bed, trial: Trial, when: str, seconds: float) -> Mapping[str, Count]:
        """Looks at all that is in force while a small load through the route `front` goes on; what became of that."""
        tag = f"alone-{when}-{trial.number}-{time.monotonic_ns()}"
        outbound = bed.address(SHOP, "outbound")
        with Load((QUIET,), outbound, FRONT, seconds=seconds, tag=tag, body=bed.body) as quiet:
            self._splits(bed, trial, when, f"{tag}-split")
            trial.require(self._edited(bed), f"{when}: a header is not edited")
            self._limits(bed, trial, when, f"{tag}-limit")
            counts = quiet.wait()
        weigh(trial, counts)
        repeated = sum(times > 1 for times in bed.ledger.seen(quiet.path(QUIET)).values())
        trial.add(f"repeated_{when}", repeated)
        trial.require(repeated > 0, f"{when}: nothing was repeated that an origin refused")
        return counts

    def _splits(self, bed: Bed, trial: Trial, when: str, tag: str) -> None:
        address = bed.address(FOURTH, "outbound")
        with Load((SPLIT_FLOW,), address, SPLIT, seconds=SPLIT_S, tag=tag, body=bed.body) as load:
            counts = load.wait()
        weigh(trial, counts)
        came = {name: calls(bed, name, load) for name in (ORDERS, SECOND)}
        share = came[ORDERS] / max(sum(came.values()), 1)
        trial.times[f"split_{when}"] = share
        trial.require(SPLIT_SHARE[0] <= share <= SPLIT_SHARE[1], f"{when}: split into {came}")

    def _limits(self, bed: Bed, trial: Trial, when: str, tag: str) -> None:
        address = bed.address(FOURTH, "inbound")
        with Load((LIMIT_FLOW,), address, FOURTH, seconds=LIMIT_S, tag=tag, body=bed.body) as load:
            began = time.monotonic()
            load.wait()
            took = time.monotonic() - began
        came = lines(bed, self._port, load.path(LIMIT_FLOW))
        allowed = LIMIT_PER_S * (1 + took) + 1
        trial.add(f"admitted_{when}", came)
        trial.require(came <= allowed, f"{when}: {came} came through a limit of {allowed:.0f}")
        trial.require(came >= LIMIT_PER_S * LIMIT_S, f"{when}: {came} came through a limit of {allowed:.0f}")

    def _kill(self, bed: Bed, before: Lives, trial: Trial) -> None:
        struck = [each.pid for lives in before.values() for each in lives.values() if each.name not in LIVING]
        with Victims(struck) as victims:
            victims.send(signal.SIGKILL)
            for name in SERVICES:
                bed.running[name].wait()
            wait_until(victims.gone, "all who govern are gone", within=GONE_S)
        trial.add("killed", len(struck))

    def _stays_out(self, bed: Bed, trial: Trial, load: Load, until: float) -> None:
        """One instance was taken out just before: it is called by nobody until then."""
        pause(MARGIN_S)
        self._called = calls(bed, ORDERS, load)
        pause(until - time.monotonic() - MARGIN_S)
        came = calls(bed, ORDERS, load) - self._called
        trial.require(came == 0, f"who was out was called {came} times")
        pause(until - time.monotonic())
        took = wait_until(lambda: calls(bed, ORDERS, load) > self._called, "it is called again", within=PATIENCE)
        trial.within("back_in_s", took, 2 * MARGIN_S)
        self._called = calls(bed, ORDERS, load)

    def _edited(self, bed: Bed) -> bool:
        """Whether what goes through the split has its header as the origin sees it."""
        host, _, port = bed.address(FOURTH, "outbound").rpartition(":")
        with Wire(socket.create_connection((host, int(port)), PATIENCE)) as wire:
            wire.send(request("/echo", host=SPLIT))
            answer = wire.read_answer()
        return answer.status == 200 and f"{EDIT}: yes".encode() in answer.body.lower()

    def _return(self, bed: Bed, trial: Trial, before: Lives) -> None:
        """The same commands are given again, by whom the living are taken over."""
        began = time.monotonic()
        for name in (ORDERS, SECOND, SHOP):
            bed.start(name)
        self._start_fourth(bed)
        for name in SERVICES:
            bed.wait_ready(name, within=PATIENCE)
        trial.within("adopted_s", time.monotonic() - began, ADOPTED_S)
        for name in SERVICES:
            after = bed.processes(name)
            was = {each: before[name][each].pid for each in LIVING}
            now = {each: after[each].pid for each in LIVING}
            trial.require(now == was, f"{name}: who lived on was not taken over: {was} became {now}")
            trial.require(after.keys() == before[name].keys(), f"{name}: {set(after)} run, and {set(before[name])} did")


def take_out(bed: Bed, address: str, seconds: float) -> None:
    """Has the caller's resilience take an instance of the callee out for so long."""

    async def ask() -> None:
        async with open_bus(bed.host.runtime / SHOP / "bus.sock") as bus:
            wanted = TakeOut(CALLEE, address, round(1000 * seconds))
            await bus.request("resilience", "open", wanted, Nothing, timeout=PATIENCE)

    trio.run(ask)


def calls(bed: Bed, name: str, load: Load) -> int:
    """How many requests of a load came to a callee."""
    return sum(lines(bed, bed.ports[name], load.path(flow)) for flow in load.flows)


def lines(bed: Bed, port: int, path: str) -> int:
    """How many requests for a path an origin has written down."""
    return (bed.ledgers / f"{port}.ledger").read_bytes().count(f" {path} ".encode())
