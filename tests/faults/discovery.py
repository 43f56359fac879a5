"""Table "Discovery": what pilots and their store may do to those who depend on them: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.faults.bed import Stage
from tests.faults.departing import Crash, Leaves, PilotKilled
from tests.faults.losing import ListEmptied, StoreAway, StoreSetBack, StoreWiped
from tests.faults.misleading import Clock, LeaseExpiry, SplitBrain, Zombie
from tests.faults.rebooting import Reboot
from tests.faults.recounting import Recount, of_one, of_three
from tests.faults.row import READS, Row
from tests.faults.spread import etcd_program
from tests.model.sites import beside_etcd, beside_sqlite

TABLE: Final = "Discovery"
SQLITE: Final = Stage("production", store="sqlite")
ETCD: Final = Stage("production", store="etcd")
ETCDS: Final = Stage("production", store="etcds")
LIVES: Final = Stage("dev")

ROWS: Final[Sequence[Row]] = (
    *(
        Row(
            name=f"store-{how}",
            table=TABLE,
            fault=f"the pilot's store {how} for 12 s",
            promise="0 failed; nobody is lost; changes are taken again when it is back",
            how=StoreAway(how),
            stage=ETCD,
            seconds=15.0,
        )
        for how in ("killed", "paused", "blackholed")
    ),
    Row(
        name="store-wiped",
        table=TABLE,
        fault="everything of the pilot's in its store deleted, half of it, or nonsense written over it",
        promise="0 failed; nobody is told as gone; all are in the store again in 5 s",
        how=StoreWiped(),
        stage=ETCD,
        seconds=10.0,
    ),
    Row(
        name="list-emptied",
        table=TABLE,
        fault="a pilot killed with its store emptied, or halved, and another one that tells what is left",
        promise="0 failed; the caller never knows fewer, and says so; all register again",
        how=ListEmptied(),
        stage=ETCD,
        seconds=38.0,
    ),
    Row(
        name="store-set-back",
        table=TABLE,
        fault="the store set back to a copy of earlier: its revision goes backwards",
        promise="0 failed; nobody is lost, no epoch goes back",
        how=StoreSetBack(),
        stage=ETCD,
        seconds=10.0,
    ),
    Row(
        name="split-brain",
        table=TABLE,
        fault="of three pilots on an etcd of three, one pair cut off for 12 s",
        promise="0 failed; nothing is accepted there; the older epoch loses afterwards",
        how=SplitBrain(),
        stage=ETCDS,
        seconds=18.0,
    ),
    Row(
        name="reboot-without-pilot",
        table=TABLE,
        fault="everything of the caller and the pilot killed at once; the caller starts again alone",
        promise="it serves in 1 s from what is on its disk; a file that is torn or damaged is ignored",
        how=Reboot(),
        stage=SQLITE,
        flows=(),
        seconds=10.0,
        compares=True,
    ),
    Row(
        name="pilot-killed",
        table=TABLE,
        fault="kill -9 of the pilot, and another one 4 s later",
        promise="0 failed; it tells whom the one before told",
        how=PilotKilled(),
        stage=SQLITE,
        seconds=10.0,
    ),
    Row(
        name="lease-expiry",
        table=TABLE,
        fault="20 instances fall silent at once",
        promise="0 failed; eviction stops and says so; they are told as doubted",
        how=LeaseExpiry(),
        stage=SQLITE,
        seconds=11.0,
    ),
    Row(
        name="clock-jumps",
        table=TABLE,
        fault="the pilot's time of day jumps by an hour, forwards and back",
        promise="0 failed; nobody is doubted or lost",
        how=Clock((1, 0, -1), 3.0),
        stage=SQLITE,
        seconds=11.0,
    ),
    Row(
        name="zombie",
        table=TABLE,
        fault="an older life of every callee registers elsewhere, drains and ends, 20 times",
        promise="0 failed; each word is refused, nothing changes",
        how=Zombie(),
        stage=SQLITE,
        seconds=12.0,
    ),
    Row(
        name="instance-crashes",
        table=TABLE,
        fault="kill -9 of everything on one of two hosts",
        promise="0 failed; gone in 15 s",
        how=Crash(),
        stage=SQLITE,
        seconds=17.0,
        flows=READS,
    ),
    Row(
        name="instance-leaves",
        table=TABLE,
        fault="SIGTERM of one of two instances on hosts of their own",
        promise="0 failed; the pilot knows before it ends",
        how=Leaves(),
        stage=SQLITE,
        seconds=10.0,
    ),
    Row(
        name="history-of-one",
        table=TABLE,
        fault="a pilot killed, stopped and given another time of day, again and again, as chance has it",
        promise="an order explains all answers; nothing acknowledged is lost; nobody in time is given up",
        how=Recount(beside_sqlite, of_one, 36.0, lag=0.0, bound=15.0),
        stage=LIVES,
        flows=(),
        seconds=60.0,
    ),
    Row(
        name="history-of-three",
        table=TABLE,
        fault="three pilots and an etcd of three cut apart, killed, stopped, given other times, as chance has it",
        promise="an order explains all answers; nothing acknowledged is lost; nobody in time is given up",
        how=Recount(partial(beside_etcd, etcd_program), of_three, 36.0, lag=12.0, bound=18.0),
        stage=LIVES,
        flows=(),
        seconds=64.0,
    ),
)
