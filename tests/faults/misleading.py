"""What pilots are told that is not so, or comes late: by lives that are over, by clocks, by a network in two parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.bed import CALLEE, ORDERS, SECOND, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.spread import PILOT, spread
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until
from tests.model.sites import MEMBERS

NOWHERE = "127.0.0.1:9"
STALE = 409
MANY = 20
GIVEN_UP_S = 30.0


class Zombie(Fault):
    """An older life of each callee registers at an address where nobody is, drains and ends, again and again."""

    def clean(self, bed: Bed) -> str:
        """Gives each callee a second life, so that there is an older one."""
        for name in (ORDERS, SECOND):
            bed.stop(name)
            bed.start(name)
        bed.settle()
        return ""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = found.told()
        for row in before.values():
            trial.require(row["epoch"] > 1, f"{row['id']} has no older life: its epoch is {row['epoch']}")
        for _ in range(MANY):
            for name, row in before.items():
                target, old = f"/v1/instances/{CALLEE}/{name}", {"epoch": row["epoch"] - 1}
                said = [
                    found.ask(PILOT, "PUT", target, {"address": NOWHERE, **old})[0],
                    found.ask(PILOT, "POST", f"{target}/drain", old)[0],
                    found.ask(PILOT, "DELETE", target, old)[0],
                ]
                trial.require(said == [STALE] * 3, f"an older life was answered {said}")
        after = {name: (row["epoch"], row["address"], row["state"]) for name, row in found.told().items()}
        wanted = {name: (row["epoch"], row["address"], row["state"]) for name, row in before.items()}
        trial.require(after == wanted, f"{wanted} became {after}")


@dataclass(frozen=True)
class Clock(Fault):
    """The time of day of the pilot jumps by so many hours, and those in turn, each for some seconds."""

    hours: Sequence[int]
    seconds: float

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = found.told()
        for hours in self.hours:
            found.site.set_clock(PILOT, hours)
            pause(self.seconds)
            after = found.told()
            trial.require(after.keys() == before.keys(), f"{hours:+d} h: the pilot tells {set(after)}")
            trial.require(not any(row.get("suspect") for row in after.values()), f"{hours:+d} h: somebody is doubted")

    def heal(self, bed: Bed) -> None:
        spread(bed).site.set_clock(PILOT, 0)


class LeaseExpiry(Fault):
    """Many who have registered fall silent at once: eviction stops, and says so."""

    SERVICE = "many"
    TTL_S = 2

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        for number in range(MANY):
            body = {"address": f"127.0.0.1:{9000 + number}", "ttl": self.TTL_S}
            status, _ = found.ask(PILOT, "PUT", f"/v1/instances/{self.SERVICE}/m{number}", body)
            trial.require(status in {200, 201}, f"a registration was answered {status}")
        began = time.monotonic()
        wait_until(lambda: self._preserves(bed), "eviction stops", within=GIVEN_UP_S)
        trial.times["stopped_s"] = time.monotonic() - began
        pause(3 * self.TTL_S)
        left = found.told(service=self.SERVICE)
        trial.require(len(left) == MANY, f"{len(left)} of {MANY} are told")
        trial.require(all(row.get("suspect") for row in left.values()), "not all are told as doubted")

    def heal(self, bed: Bed) -> None:
        for number in range(MANY):
            spread(bed).ask(PILOT, "DELETE", f"/v1/instances/{self.SERVICE}/m{number}")

    def _preserves(self, bed: Bed) -> bool:
        return bool(spread(bed).ask(PILOT, "GET", "/v1/status")[1]["preserving"])


class SplitBrain(Fault):
    """One member of an etcd of three and the pilot beside it are cut off: what is written there is nothing."""

    AWAY_S = 12.0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        alone = trial.number % len(MEMBERS)
        parts = [MEMBERS[alone]], [name for name in MEMBERS if name != MEMBERS[alone]]
        minority, majority = found.site.pilots[alone], found.site.pilots[alone - 1]
        found.site.cut(*parts)
        began = time.monotonic()
        epoch = 2 * trial.number + 1  # the one after it ends with the repetition, for good
        target, first = "/v1/instances/split/s", {"address": NOWHERE, "epoch": epoch}
        lost, _ = found.ask(minority, "PUT", target, first)
        trial.require(lost not in {200, 201}, f"a pilot that is cut off answered a registration with {lost}")
        newer = {"address": "127.0.0.1:10", "epoch": epoch + 1}
        wait_until(
            lambda: found.ask(majority, "PUT", target, newer)[0] in {200, 201}, "the majority writes", within=GIVEN_UP_S
        )
        pause(self.AWAY_S - (time.monotonic() - began))
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2")
        found.site.cut()
        began = time.monotonic()
        wait_until(
            lambda: found.ask(minority, "PUT", target, first)[0] == STALE, "the older epoch loses", within=GIVEN_UP_S
        )
        trial.times["one_again_s"] = time.monotonic() - began
        for pilot in found.site.pilots:
            wait_until(
                lambda pilot=pilot: found.told(pilot, "split").get("s", {}).get("epoch") == epoch + 1,  # type: ignore[misc]
                f"{pilot} tells the newer life",
                within=GIVEN_UP_S,
            )

    def heal(self, bed: Bed) -> None:
        found = spread(bed)
        found.ask(found.site.pilots[0], "DELETE", "/v1/instances/split/s")
        for pilot in found.site.pilots:
            wait_until(lambda pilot=pilot: not found.told(pilot, "split"), "it is forgotten", within=GIVEN_UP_S)  # type: ignore[misc]
