"""The caller's host starts anew while no pilot answers: it serves from what is on its disk, if that is whole."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pannier.shared.instances import State
from pannier.sidecars.discovery import remembered

from tests.faults.bed import CALLEE, FRONT, SHOP, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.spread import PILOT, spread
from tests.faults.verdict import Trial
from tests.faults.victims import kill
from tests.faults.waiting import wait_until
from tests.proxy.wire import Wire, request

SERVING_S = 1.0
GIVEN_UP_S = 10.0


def whole(_: Path) -> None:
    """It is as it was left."""


def torn(file: Path) -> None:
    """Its second half is missing."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def damaged(file: Path) -> None:
    """One bit of it is another one."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def old(file: Path) -> None:
    """It was written before last week."""
    now = time.time()
    file.write_bytes(remembered.encode(remembered.read(file, now), now - remembered.OLD_SECONDS - 1))


LEFT: Sequence[Callable[[Path], None]] = (whole, torn, damaged, old)


class Reboot(Fault):
    """Everything of the caller and the pilot is killed at once; then the caller is started again, without a pilot. What
    is torn, damaged or old is ignored: then it knows nobody, and says why."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        left = LEFT[trial.number % len(LEFT)]
        file = found.host_of(SHOP).folder / "s" / "endpoints" / SHOP
        wait_until(lambda: kept(file) == 2, "both callees are on the disk", within=GIVEN_UP_S)
        found.site.kill(PILOT)
        kill(found.host_of(SHOP).survivors())
        bed.running.pop(SHOP).wait()
        left(file)
        bed.start(SHOP)
        bed.wait_ready(SHOP, within=GIVEN_UP_S)
        began = time.monotonic()
        if left is whole:
            wait_until(lambda: answered(bed) == 200, "it serves", within=GIVEN_UP_S)
            trial.within("serving_s", time.monotonic() - began, SERVING_S)
            trial.require(bed.known() == 2, f"it knows {bed.known()} of 2")
        else:
            trial.require(bed.known() == 0, f"it knows {bed.known()} by a file that is {left.__name__}")
            said = bed.log(SHOP).read_text()
            trial.require("is ignored" in said, f"it does not say that a file that is {left.__name__} is ignored")

    def heal(self, bed: Bed) -> None:
        found = spread(bed)
        found.site.start(PILOT)
        found.wait_pilot()


def kept(file: Path) -> int:
    """How many callees that can be called are in the file."""
    found = remembered.read(file, time.time())
    return sum(each.service == CALLEE and each.state is State.UP for each in found)


def answered(bed: Bed) -> int:
    """The status of one call of the caller's."""
    host, _, port = bed.address(SHOP, "outbound").rpartition(":")
    with Wire(socket.create_connection((host, int(port)), GIVEN_UP_S)) as wire:
        wire.send(request("/probe", host=FRONT))
        return int(wire.read_answer().status)
