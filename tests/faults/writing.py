"""Writers of a table that die, race or are too fast, and readers that sleep meanwhile.

The writer is a process of our own with the keeper's descriptor: it publishes the routes of the bed, each time with
another number in two places, thousands of times a second. Whoever looks at an answer's way sees whether both places are
of one snapshot. At the end the sidecar whose table it is takes it over again, as it does after any restart.

That a writer may die after each single store of a publication is proved store by store in shared/core/table; here real
processes die at random moments.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from pannier import _native
from pannier.shared.errors import PannierError
from pannier.shared.messages import Changed, LiveChange, LiveReset, LiveSetting, Nothing, SidecarName

from tests.faults.bed import FRONT, ORDERS, SHOP, Bed
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.segment import opened
from tests.faults.verdict import Trial
from tests.faults.victims import Victims, kill
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request

KIND, TABLE, SIDECAR = "routes", "table.routes", "traffic"
IN_FORCE = 'pannier_table_generation_in_force{table="routes"}'
REJECTED = "pannier_table_rejected_total"
FIRST, LAST = "x-first", "x-last"
GIVEN_UP_S = 5.0
WRITERS = 50
LIVED_S = 0.02
STOPS = 10
PUBLISHED = 1_000
COPIED_S = 0.0005  # about what a reader takes to copy and compile
RACES = 200
BALLAST = 200
RNG = random.SystemRandom()


class Routes:
    """The routes in force, with a number in the first and in the last thing that is set on a request.

    `ballast`: so many routes more that nobody asks for, so that a publication takes long enough to die in.
    """

    def __init__(self, descriptor: int, *, ballast: int = 0) -> None:
        self._reader = _native.TableReader(KIND, descriptor)
        self._ballast = ballast
        self.original = self._reader.read() or b""
        self._table = msgspec.msgpack.decode(self.original)

    def numbered(self, number: int) -> bytes:
        [front] = [rule for rule in self._table["rules"] if rule["name"] == FRONT]
        edits = front["request"]
        wanted = {FIRST: f"{number:08}", **edits["set"], LAST: f"{number:08}"}
        front = front | {"request": edits | {"set": wanted}}
        ballast = [front | {"name": f"ballast-{n}", "hosts": [f"ballast-{n}"]} for n in range(self._ballast)]
        return msgspec.msgpack.encode(self._table | {"rules": [front, *ballast]})

    def whole(self) -> bool:
        """Whether what is in force is a snapshot that somebody published as it is."""
        table = msgspec.msgpack.decode(self._reader.read() or b"\x80")
        found = [rule for rule in table["rules"] if rule["name"] == FRONT]
        edits = found[0]["request"]["set"] if len(found) == 1 else {}
        same = edits.get(FIRST) == edits.get(LAST)
        return same and len(table["rules"]) in (len(self._table["rules"]), 1 + self._ballast)

    def generation(self) -> int:
        return self._reader.generation()


def echoed(bed: Bed) -> tuple[str, str]:
    """The two numbers on a request as the origin saw it; empty where there is none."""
    host, _, port = bed.address(SHOP, "outbound").rpartition(":")
    with Wire(socket.create_connection((host, int(port)), GIVEN_UP_S)) as wire:
        wire.send(request("/echo", host=FRONT))
        answer = wire.read_answer()
    fields = dict(line.split(": ", 1) for line in answer.body.decode("latin-1").split("\r\n")[1:] if ": " in line)
    found = {name.lower(): value for name, value in fields.items()}
    return found.get(FIRST, ""), found.get(LAST, "")


@contextmanager
def routes(bed: Bed, trial: Trial, *, ballast: int = 0) -> Iterator[tuple[int, Routes]]:
    """The table of routes and a descriptor of it. Afterwards its sidecar takes it over again, and nobody else of the
    caller's was touched."""
    before = pids(bed.processes(SHOP), less=(SIDECAR,))
    rejected = bed.host.metric(SHOP, REJECTED)
    with opened(bed, SHOP, TABLE) as descriptor:
        found = Routes(descriptor, ballast=ballast)
        try:
            yield descriptor, found
        finally:
            bed.host.ask(SHOP, "sidecar.restart", SidecarName(SIDECAR), Nothing)
            wait_until(lambda: echoed(bed) == ("", ""), "the sidecar has its table again", within=GIVEN_UP_S)
    trial.require(bed.host.metric(SHOP, REJECTED) == rejected, "a snapshot was rejected")
    after = pids(bed.processes(SHOP), less=(SIDECAR,))
    trial.require(after == before, f"others were touched: {before} became {after}")


class KilledWriter(Fault):
    """Writer after writer is killed while it publishes; what is in force is the last that it published, or the one
    before, and nothing is rejected."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        with routes(bed, trial, ballast=BALLAST) as (descriptor, table):
            snapshots = [table.numbered(number) for number in range(1, 65)]
            for _ in range(WRITERS):
                before = table.generation()
                with forked(lambda: publish_for_ever(descriptor, snapshots)):
                    wait_until(lambda: table.generation() > before, "it publishes", within=GIVEN_UP_S)  # noqa: B023
                    pause(RNG.uniform(0, LIVED_S))
                trial.add("writers", 1)
                trial.add("published", table.generation() - before)
                trial.require(table.whole(), "what a killed writer left is a mix")
                first, last = echoed(bed)
                trial.require(first == last != "", f"a request was routed by a mix: {first!r}, {last!r}")


class KilledSidecar(Fault):
    """The sidecar itself is killed while changes are published as fast as they can be made."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = pids(bed.processes(SHOP), less=(SIDECAR,))
        rejected = bed.host.metric(SHOP, REJECTED)
        with opened(bed, SHOP, TABLE) as descriptor:
            table = Routes(descriptor)
            until = time.monotonic() + RNG.uniform(0.2, 0.6)
            while time.monotonic() < until:
                change(bed, trial)
            sidecar = bed.sidecars(SHOP)[SIDECAR][0]
            with forked(lambda: change_for_ever(bed, trial)) as changing, Victims([changing, sidecar]) as victims:
                pause(RNG.uniform(0, 0.2))
                victims.send(signal.SIGKILL)
            trial.require(table.whole(), "what a killed sidecar left is a mix")
            wait_until(lambda: bed.sidecars(SHOP)[SIDECAR][1], "it is back", within=GIVEN_UP_S)
            wait_until(lambda: reset(bed), "all changes are taken back", within=GIVEN_UP_S)
            wait_until(lambda: bed.host.metric(SHOP, IN_FORCE) == table.generation(), "all is in force", within=2.0)
        trial.require(bed.host.metric(SHOP, REJECTED) == rejected, "a snapshot was rejected")
        after = pids(bed.processes(SHOP), less=(SIDECAR,))
        trial.require(after == before, f"others were touched: {before} became {after}")


class StoppedReader(Fault):
    """The proxy sleeps, most likely in the middle of a copy, while a thousand snapshots are published; it wakes before
    a request is late. A process sleeps as a whole: a thread of it that reads cannot be stopped alone."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        with routes(bed, trial) as (descriptor, table), Victims([bed.processes(SHOP)["proxy"].pid]) as proxy:
            snapshots = [table.numbered(number) for number in range(1, 1 + PUBLISHED)]
            writer = _native.TableWriter(KIND, descriptor)
            for _ in range(STOPS):
                writer.publish(RNG.choice(snapshots))
                time.sleep(RNG.uniform(0, COPIED_S))
                proxy.send(signal.SIGSTOP)
                began = time.monotonic()
                try:
                    for snapshot in snapshots:
                        generation = writer.publish(snapshot)
                finally:
                    proxy.send(signal.SIGCONT)
                trial.times["stopped_s"] = max(time.monotonic() - began, trial.times.get("stopped_s", 0.0))
                trial.add("published", PUBLISHED)
                number = f"{PUBLISHED:08}"
                wait_until(lambda: echoed(bed) == (number, number), "the newest is in force", within=GIVEN_UP_S)  # noqa: B023
            wait_until(lambda: bed.host.metric(SHOP, IN_FORCE) == generation, "it is told so", within=GIVEN_UP_S)


class TwoWriters(Fault):
    """A second writer takes the table over: the first can publish nothing any more; and so back."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        sidecar = bed.sidecars(SHOP)[SIDECAR][0]
        with routes(bed, trial) as (descriptor, table):
            older = _native.TableWriter(KIND, descriptor)
            for number in range(1, 1 + RACES):
                newer = _native.TableWriter(KIND, descriptor)
                newer.publish(table.numbered(number))
                trial.require(fenced(older, table.numbered(0)), "a fenced writer published")
                older = newer
                trial.add("fenced", 1)
            number_in_force = f"{RACES:08}"
            wait_until(lambda: echoed(bed) == (number_in_force,) * 2, "the last is in force", within=GIVEN_UP_S)
            change(bed, trial)  # which the sidecar's writer, the oldest of all, cannot publish

            def replaced() -> bool:
                pid, ready = bed.sidecars(SHOP).get(SIDECAR, (sidecar, False))
                return ready and pid != sidecar

            wait_until(replaced, "the fenced sidecar has made room for a new one", within=GIVEN_UP_S)
            wait_until(lambda: fenced(older, table.numbered(0)), "ours is fenced by the new one", within=GIVEN_UP_S)
            wait_until(lambda: reset(bed), "all changes are taken back", within=GIVEN_UP_S)


class Resized(Fault):
    """Every segment, by every descriptor that keeper or proxy have of it: neither shorter nor longer, nor unsealed."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        for service in (SHOP, ORDERS):
            before = bed.processes(service)
            for name, size in _native.SEGMENTS.items():
                with opened(bed, service, name) as descriptor:
                    found = os.fstat(descriptor).st_size
                    trial.require(found == size, f"{name} has {found} bytes of {size}")
                    for what, attempt in self._attempts(descriptor, size).items():
                        code = refused(attempt)
                        trial.require(code == errno.EPERM, f"{name}: {what}: {errno.errorcode.get(code, 'done')}")
                        trial.add("refused", 1)
                    found = os.fstat(descriptor).st_size
                    trial.require(found == size, f"{name} has {found} bytes of {size} afterwards")
            after = bed.processes(service)
            trial.require(pids(after) == pids(before), "somebody was started anew")

    def _attempts(self, descriptor: int, size: int) -> dict[str, Callable[[], object]]:
        own = f"/proc/self/fd/{descriptor}"
        return {
            "to nothing": lambda: os.ftruncate(descriptor, 0),
            "a byte less": lambda: os.ftruncate(descriptor, size - 1),
            "a page more": lambda: os.ftruncate(descriptor, size + 4096),
            "written past its end": lambda: os.pwrite(descriptor, b"x", size),
            "reserved past its end": lambda: os.posix_fallocate(descriptor, size, 4096),
            "opened to nothing": lambda: os.close(os.open(own, os.O_RDWR | os.O_TRUNC)),
            "another seal": lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        }


def refused(attempt: Callable[[], object]) -> int:
    """The errno of an attempt; 0 if it was let do."""
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


def fenced(writer: _native.TableWriter, payload: bytes) -> bool:
    """Whether a writer is told that it writes no more."""
    try:
        writer.publish(payload)
    except RuntimeError:
        return True
    return False


def publish_for_ever(descriptor: int, snapshots: list[bytes]) -> None:
    writer = _native.TableWriter(KIND, descriptor)
    while True:
        for snapshot in snapshots:
            writer.publish(snapshot)


def change(bed: Bed, trial: Trial) -> None:
    """Something of the routes is set to another value by a command; a refusal is none of this row's promises."""
    zone = LiveSetting(["sidecars", "traffic", "zone"], msgspec.msgpack.encode(f"z{RNG.randrange(1 << 30)}"))
    try:
        bed.host.ask(SHOP, "live.set", LiveChange([zone]), Changed)
        trial.add("changes", 1)
    except PannierError:
        trial.add("changes_refused", 1)


def reset(bed: Bed) -> bool:
    """Takes all changes back; False while one of them is still under way."""
    try:
        bed.host.ask(SHOP, "live.reset", LiveReset(), Changed)
    except PannierError:
        return False
    return True


def change_for_ever(bed: Bed, trial: Trial) -> None:
    while True:
        change(bed, trial)


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A process of its own that does it, by its PID, until it is killed at the end of the block. Raises OSError."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        kill([pid])
        os.waitpid(pid, 0)
