"""The gate of every row of hostile traffic, whatever is attacked how.

Beside what the rig holds a load to (nothing failed, the p99): what comes out of the proxy is at most ten times what the
attacker put in, what he did is counted, and the proxy's memory is what it was before.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TypeVar

from tests.faults.attacker import Toll
from tests.faults.bed import ORDERS, SHOP, Bed
from tests.faults.gauge import MIB, resident
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until

AMPLIFIED = 10.0
T = TypeVar("T")
PACE_S = 0.005
GROWTH = 8 * MIB
RESERVE_S = 2.0  # of a load: half a second before the strike, then what comes of it must be seen before it is over
COUNTED_S = 2.0
MALFORMED = "pannier_proxy_requests_malformed_total"


def answers(status: int) -> str:
    """The metric that counts what others were answered by a service with that status."""
    return rf'http_server_request_duration_seconds_count\{{[^}}]*http_response_status_code="{status}"[^}}]*\}}'


@dataclass
class Siege:
    """One attack under way: on which bed, until when (monotonic seconds), what it has cost and must be counted as."""

    bed: Bed
    trial: Trial
    load: Load
    until: float
    toll: Toll = field(default_factory=Toll)
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    @property
    def inbound(self) -> str:
        """The public port of the service that is attacked."""
        return self.bed.address(ORDERS, "inbound")

    @property
    def outbound(self) -> str:
        """Where the app of the caller asks others."""
        return self.bed.address(SHOP, "outbound")

    def rounds(self, things: Sequence[T]) -> Iterator[T]:
        """All of them in their order, again and again until it is over, with a pause after each."""
        for thing in cycle(things):
            if not self.goes_on:
                return
            yield thing
            self.trial.add("attacks", 1)
            pause(PACE_S)

    def path(self, name: str) -> str:
        """A path of this attack alone."""
        return f"{self.load.path(self.load.flows[0])}/{name}"

    def count(self, metric: str, times: int = 1) -> None:
        """So often more must `metric` have been counted in the end."""
        self.counted[metric] = self.counted.get(metric, 0) + times


class Attack(Fault):
    """Something hostile for as long as the load leaves room. `counts` are the metrics that must tell of it, `service`
    is whose proxy is attacked, `growth` how many bytes that may hold more than before."""

    counts: tuple[str, ...] = ()
    service: str = ORDERS
    growth: int = GROWTH

    @abstractmethod
    def attack(self, siege: Siege) -> None:
        """Goes on until the siege is over."""

    def metrics(self) -> Sequence[str]:
        return self.counts

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        siege = Siege(bed, trial, load, time.monotonic() + load.seconds - RESERVE_S)
        pid = bed.processes(self.service)["proxy"].pid
        held = resident(pid)
        before = {metric: bed.host.metric(self.service, metric) for metric in self.metrics()}
        self.attack(siege)
        grown = resident(pid) - held
        trial.times["grown_mib"] = grown / MIB
        trial.times["amplification"] = siege.toll.amplification
        trial.add("sent", siege.toll.sent)
        trial.require(grown <= self.growth, f"the proxy has grown by {grown / MIB:.1f} MiB")
        trial.require(
            siege.toll.amplification <= AMPLIFIED,
            f"amplified {siege.toll.amplification:.1f} times, promised {AMPLIFIED:g}: {siege.toll}",
        )
        for metric in self.metrics():
            wanted = before[metric] + siege.counted.get(metric, 0)
            wait_until(
                lambda metric=metric, wanted=wanted: bed.host.metric(self.service, metric) == wanted,  # type: ignore[misc]
                f"{metric} has grown by {siege.counted.get(metric, 0)}",
                within=COUNTED_S,
            )
        same = bed.processes(self.service)["proxy"].pid == pid
        trial.require(same, "the proxy has been started anew")


@dataclass(frozen=True)
class Several(Attack):
    """One after the other, each for its share of the time."""

    parts: Sequence[Attack]

    def metrics(self) -> Sequence[str]:
        return tuple(dict.fromkeys(metric for part in self.parts for metric in part.metrics()))

    def attack(self, siege: Siege) -> None:
        over = siege.until
        for done, part in enumerate(self.parts):
            now = time.monotonic()
            siege.until = now + (over - now) / (len(self.parts) - done)
            part.attack(siege)
