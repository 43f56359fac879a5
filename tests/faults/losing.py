"""The store of the pilots goes away, comes back with nothing, or comes back as it was earlier: no call notices."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from tests.faults.bed import CALLEE, ORDERS, SECOND, SHOP, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.spread import APART, PILOT, STORE, Spread, spread
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until

AWAY_S = 12.0
"""Longer than a pilot may be blind before it refuses renewals (10 s), and than a TTL."""
BACK_S = 5.0
KEPT_S = 4.0
"""Longer than three probes take who would find that somebody is gone."""
GIVEN_UP_S = 30.0
REFUSED = 503
ROOT = b"pannier/instances/"


@dataclass(frozen=True)
class StoreAway(Fault):
    """The one member of an etcd is killed and started again, stops and goes on, or is cut off."""

    how: Literal["killed", "paused", "blackholed"]

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = ids(found)
        self._away(found)
        pause(AWAY_S)
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2 while the store is {self.how}")
        trial.require(ids(found) == before, f"the pilot tells {ids(found)}, and told {before}")
        self._back(found)
        began = time.monotonic()
        wait_until(lambda: takes_changes(found), "the pilot takes changes again", within=GIVEN_UP_S)
        trial.times["again_s"] = time.monotonic() - began
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2 when the store is back")

    def heal(self, bed: Bed) -> None:
        forget_probe(spread(bed))

    def _away(self, bed: Spread) -> None:
        match self.how:
            case "killed":
                bed.site.kill(STORE)
            case "paused":
                bed.site.stop(STORE)
            case "blackholed":
                bed.site.cut([STORE], [APART])

    def _back(self, bed: Spread) -> None:
        match self.how:
            case "killed":
                bed.site.start(STORE)
            case "paused":
                bed.site.go_on(STORE)
            case "blackholed":
                bed.site.cut()


class StoreWiped(Fault):
    """Somebody deletes all that the pilots have in etcd; or writes nonsense over it; or over every other instance."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = ids(found)
        keys = [ROOT + f"{CALLEE}/{name}".encode() for name in sorted(before)]
        match trial.number % 3:
            case 0:
                requests = [("kv/deleterange", {"key": text(ROOT), "range_end": text(ROOT[:-1] + b"0")})]
            case 1:
                requests = [("kv/put", {"key": text(key), "value": text(b"null")}) for key in keys]
            case _:
                requests = [("kv/deleterange", {"key": text(keys[0])})]
        for path, body in requests:
            etcd(found, path, body)
        began = time.monotonic()
        wait_until(lambda: stored(found) >= before, "everybody is in the store again", within=GIVEN_UP_S)
        trial.within("back_s", time.monotonic() - began, BACK_S)
        trial.require(ids(found) == before, f"the pilot tells {ids(found)}, and told {before}")
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2")


class ListEmptied(Fault):
    """The pilot is killed, the store emptied, or halved, and the callees' ways to the next pilot are shut. It tells the
    caller what is there: nobody, or half. Then they are opened."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before, log = ids(found), bed.log(SHOP)
        size = log.stat().st_size
        for name in (ORDERS, SECOND):
            found.shut_doors(name)
        found.site.kill(PILOT)
        lost = ROOT if trial.number % 2 == 0 else ROOT + f"{CALLEE}/{min(before)}".encode()
        etcd(found, "kv/deleterange", {"key": text(lost), "range_end": text(lost + b"\xff")})
        found.site.start(PILOT)
        found.wait_pilot()
        fewest = 2

        def alarmed() -> bool:
            nonlocal fewest
            fewest = min(fewest, bed.known())
            return "are not told of any more" in log.read_text()[size:]

        wait_until(alarmed, "the caller says that it was told of fewer", within=GIVEN_UP_S)
        pause(KEPT_S)
        fewest = min(fewest, bed.known())
        trial.require(ids(found) < before, f"the pilot tells {ids(found)}, as if nobody were lost")
        for name in (ORDERS, SECOND):
            found.open_doors(name)
        wait_until(lambda: ids(found) == before, "all have registered again", within=GIVEN_UP_S)
        trial.require(fewest == 2, f"the caller knew {fewest} of 2 meanwhile")

    def heal(self, bed: Bed) -> None:
        for name in (ORDERS, SECOND):
            spread(bed).open_doors(name)


class StoreSetBack(Fault):
    """The etcd is set back to what it was at the beginning of the row: its revision is less than what was told."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = ids(found)
        data, copy = found.site.folder / f"{STORE}.etcd", found.site.folder / "copy"
        found.site.kill(STORE)
        if copy.exists():
            shutil.rmtree(data)
            shutil.copytree(copy, data)
        else:
            shutil.copytree(data, copy)
        found.site.start(STORE)
        epochs = {name: row["epoch"] for name, row in found.told().items()}
        for number in range(3):  # what the next repetition will have lost
            wait_until(lambda: takes_changes(found), "the pilot takes changes again", within=GIVEN_UP_S)
            found.ask(PILOT, "PUT", f"/v1/instances/passing/p{number}", {"address": "10.9.9.9:9", "ttl": 5})
        trial.require(ids(found) == before, f"the pilot tells {ids(found)}, and told {before}")
        after = {name: row["epoch"] for name, row in found.told().items()}
        trial.require(all(after.get(name, 0) >= epoch for name, epoch in epochs.items()), f"{epochs} became {after}")
        wait_until(lambda: stored(found) >= before, "everybody is in the store", within=GIVEN_UP_S)
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2")


def ids(bed: Spread) -> set[str]:
    """The callees that the pilot tells of."""
    return set(bed.told())


def takes_changes(bed: Spread) -> bool:
    """Whether the pilot can write: who is registered is registered in its store."""
    try:
        status, _ = bed.ask(PILOT, "PUT", "/v1/instances/probe/p", {"address": "10.9.9.9:9", "metadata": {"at": now()}})
    except OSError:
        return False
    return status != REFUSED


def forget_probe(bed: Spread) -> None:
    bed.ask(PILOT, "DELETE", "/v1/instances/probe/p")


def now() -> str:
    return str(time.monotonic_ns())


def etcd(bed: Spread, path: str, body: object) -> object:
    """Asks the store itself, from its own host."""
    assert bed.site.network is not None
    url = f"http://{bed.site.network.address(STORE)}:2379/v3/{path}"
    program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode(), 5).read().decode())"
    words = [*bed.site.network.inside(STORE), "python3", "-c", program, url, json.dumps(body)]
    done = subprocess.run(
        words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"etcd: {done.stderr[-300:]}"
    return json.loads(done.stdout)


def stored(bed: Spread) -> set[str]:
    """The callees that the store has, by what it says itself."""
    answer = etcd(
        bed, "kv/range", {"key": text(ROOT + CALLEE.encode() + b"/"), "range_end": text(ROOT + CALLEE.encode() + b"0")}
    )
    rows = answer.get("kvs", []) if isinstance(answer, dict) else []
    return {
        base64.b64decode(row["key"]).rpartition(b"/")[2].decode()
        for row in rows
        if b"epoch" in base64.b64decode(row.get("value", ""))
    }


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()
