"""A subscriber that never reads, among others that do.

What is published is real: an endpoint that nobody calls is taken out and back in by hand, over and over, which the
resilience sidecar tells as state (`ejections`) and as events.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from pannier.shared.bus import open_bus
from pannier.shared.envelope import Subscribe
from pannier.shared.errors import PannierError
from pannier.shared.messages import EJECTIONS, EVENTS, Nothing, Reset, ResetDone, TakeOut
from pannier.supervisor.broker.server import PATIENCE_SECONDS
from pannier.supervisor.bus_state import BusState

from tests.faults.bed import SHOP, Bed
from tests.faults.bus_peer import Peer
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial

GHOST = "ghost"
GHOST_ADDRESS = "127.0.0.1:9"
GHOST_SETTING = f'services.{GHOST}=[{{address = "{GHOST_ADDRESS}"}}]'
OUT_MS = 1_000
QUEUED = 256 + 2  # events, a state for each retained topic, and the one that is being written
STUCK_S = 5.0
LOOK_S = 0.05
SLACK_S = 0.5


@dataclass
class Chatter(threading.Thread):
    """Takes the ghost out and back in until told to stop; `rounds` of it came about."""

    path: Path
    rounds: int = 0
    trouble: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            trio.run(self._chat)
        except BaseException as error:
            self.trouble.append(repr(error))

    async def _chat(self) -> None:
        async with open_bus(self.path) as bus:
            while not self.over.is_set():
                with suppress(PannierError):  # it has come back by itself meanwhile
                    await bus.request("resilience", "open", TakeOut(GHOST, GHOST_ADDRESS, OUT_MS), Nothing)
                await bus.request("resilience", "reset", Reset(GHOST, GHOST_ADDRESS), ResetDone)
                self.rounds += 1


class NeverReads(Fault):
    """It subscribes and reads nothing: what waits for it is bounded, all of it is accounted for, and it is cut."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(SHOP)
        path = bed.host.runtime / SHOP / "bus.sock"
        chatter = Chatter(path)
        with Peer(path) as peer:
            peer.enter()
            peer.say(Subscribe([EVENTS, EJECTIONS, "lifecycle"]))
            chatter.start()
            try:
                self._watch(bed, trial)
            finally:
                chatter.over.set()
                chatter.join()
            peer.hear_end()
        trial.require(not chatter.trouble, f"the others: {chatter.trouble}")
        trial.add("rounds", chatter.rounds)
        after = bed.processes(SHOP)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")

    def _watch(self, bed: Bed, trial: Trial) -> None:
        """Until the peer is gone: it is the one that has something queued all the time."""
        began = time.monotonic()
        stuck_at, cut_at, most, delivered = 0.0, 0.0, 0, -1
        while not cut_at and time.monotonic() - began < 3 * PATIENCE_SECONDS:
            now = time.monotonic()
            state = bed.host.ask(SHOP, "diagnostics.bus", Nothing(), BusState)
            balance(state, trial)
            outbox = next((each.outbox for each in state.peers if each.role == "cli" and each.outbox.published), None)
            if outbox is None:
                cut_at = now if stuck_at else 0.0
                continue
            most = max(most, outbox.queued)
            if outbox.delivered != delivered:
                stuck_at, delivered = now, outbox.delivered
            last = outbox
            time.sleep(LOOK_S)
        trial.require(bool(cut_at), "it was not cut")
        trial.within("cut_s", cut_at - stuck_at, PATIENCE_SECONDS + SLACK_S)
        trial.add("dropped", last.dropped)
        trial.add("conflated", last.conflated)
        trial.times["queued"] = most
        trial.require(most <= QUEUED, f"{most} were queued, promised {QUEUED}")
        trial.require(last.dropped > 0 and last.conflated > 0, f"nothing was dropped, or nothing conflated: {last}")
        balance(bed.host.ask(SHOP, "diagnostics.bus", Nothing(), BusState), trial)


def balance(state: BusState, trial: Trial) -> None:
    """Published = delivered + conflated + dropped + queued, of each peer and of all together."""
    for who, each in [("all", state.fan_out), *((peer.role, peer.outbox) for peer in state.peers)]:
        accounted = each.delivered + each.conflated + each.dropped + each.queued
        trial.require(each.published == accounted, f"{who}: {each.published} were published, {accounted} are known of")
