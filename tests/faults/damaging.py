"""Shared memory that is damaged while the proxy reads it: bytes of a policy table, and hot words.

What flips is what any process of the same user could write. It is tried where it can hurt: half of the flips fall on
the words that say which snapshot is in force, the others on that snapshot; and the readers are woken, as they are by a
publication, so that they look at the damage at once and not when they next look by themselves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
from pannier import _native
from pannier.shared.messages import Changed, LiveChange, LiveReset, LiveSetting

from tests.faults.bed import CALLEE, ORDERS, SECOND, SHOP, Bed
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.segment import FIRST_HOT, HOT_WORDS, Memory, mapped, opened
from tests.faults.verdict import Trial
from tests.faults.waiting import pause, wait_until

REJECTED = "pannier_table_rejected_total"
IN_FORCE = 'pannier_table_generation_in_force{table="routes"}'
ALARM_S = 1.0
GIVEN_UP_S = 5.0
REPAIRED_FIRST = 8  # so often in a row the writer is not first: it looks every two seconds, a reader within one
BATCH = 50
HEAD_BYTES = 8 * 40
WRITER = range(8 * 3, 8 * 5)
"""Who writes, and his last heartbeat: what is written all the time is not ours to restore."""
OPEN, UNKNOWN = 1, 9
BEYOND_MS = 7_200_000  # no word may reach further than an hour ahead
OUT_MS = 1_500
SETTLED_S = 0.2  # what was under way when the word was written has arrived
HEALED_S = 1.0
CALLED_S = 3.0
HOT_FLIPS = 10_000
HOT_PAUSE_S = 0.01
RNG = random.SystemRandom()


class Kept:
    """The words of a table's head and its snapshot in force as they were, to be put back by `restore`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.payload = memory.in_force()
        self._parts = [
            (part, bytes(memory.bytes[part.start : part.stop]))
            for part in (range(WRITER.start), range(WRITER.stop, HEAD_BYTES), self.payload)
        ]

    def restore(self) -> None:
        for part, was in self._parts:
            self._memory.bytes[part.start : part.stop] = was


@contextmanager
def kept(memory: Memory) -> Iterator[Kept]:
    """What is put back at the end, whatever happened in the block."""
    found = Kept(memory)
    try:
        yield found
    finally:
        found.restore()
        memory.ring()


def flip(memory: Memory, many: int, payload: Sequence[int]) -> None:
    """So many random bytes become others: one half in the head, one half in the payload."""
    for _ in range(many):
        at = RNG.randrange(HEAD_BYTES) if RNG.random() < 0.5 else RNG.choice(payload)
        memory.bytes[at] ^= RNG.randint(1, 255)


@dataclass(frozen=True)
class FlippedTable(Fault):
    """`flips` times 1 to 64 random bytes of a table, a batch at a time. The damage of a batch stays for as long as a
    batch takes, so that readers meet it; then the bytes are put back, and the next batch damages a whole table. In the
    end the table's writer must be able to go on."""

    flips: int = 10_000
    seconds: float = 8.5

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(SHOP)
        with mapped(bed, SHOP, "table.routes") as memory, kept(memory) as whole:
            self._alarm(bed, trial, memory)
            whole.restore()
            counted = bed.host.metric(SHOP, REJECTED)
            began = time.monotonic()
            for batch in range(self.flips // BATCH):
                whole.restore()
                for _ in range(BATCH):
                    flip(memory, RNG.randint(1, 64), whole.payload)
                memory.ring()
                pause(began + (batch + 1) * self.seconds * BATCH / self.flips - time.monotonic())
            trial.add("flips", self.flips)
            trial.add("rejected", round(bed.host.metric(SHOP, REJECTED) - counted))
        after = bed.processes(SHOP)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")
        self._goes_on(bed, trial)

    def _alarm(self, bed: Bed, trial: Trial, memory: Memory) -> None:
        """One byte of the snapshot in force, and nobody is woken: it is noticed all the same. What the writer's
        heartbeat repairs before any reader has looked is no reader's to tell, so it is damaged again."""
        counted = bed.host.metric(SHOP, REJECTED)

        def told_or_repaired(damaged: int) -> bool:
            return bed.host.metric(SHOP, REJECTED) > counted or memory.generation() != damaged

        took = 0.0
        for _ in range(REPAIRED_FIRST):
            damaged = memory.generation()
            memory.bytes[RNG.choice(memory.in_force())] ^= RNG.randint(1, 255)
            took = wait_until(partial(told_or_repaired, damaged), f"{REJECTED} grows", within=GIVEN_UP_S)
            if bed.host.metric(SHOP, REJECTED) > counted:
                break
        trial.require(bed.host.metric(SHOP, REJECTED) > counted, f"{REJECTED} did not grow")
        trial.within("alarm_s", took, ALARM_S)

    def _goes_on(self, bed: Bed, trial: Trial) -> None:
        """The writer's next change comes into force."""
        generation = bed.host.metric(SHOP, IN_FORCE)
        zone = LiveSetting(["sidecars", "traffic", "zone"], msgspec.msgpack.encode(f"zone-{trial.number}"))
        bed.host.ask(SHOP, "live.set", LiveChange([zone]), Changed)
        wait_until(lambda: bed.host.metric(SHOP, IN_FORCE) > generation, "a change comes in force", within=GIVEN_UP_S)
        bed.host.ask(SHOP, "live.reset", LiveReset(), Changed)


@dataclass(frozen=True)
class Instance:
    """One of the callee's two, as the caller's table and the origin's ledger know it."""

    slot: int
    incarnation: int
    port: int

    def word(self, index: int) -> int:
        return FIRST_HOT + HOT_WORDS * self.slot + index

    def state(self, state: int, until_ms: int) -> int:
        return state << 56 | self.incarnation << 40 | until_ms


class FlippedHotWords(Fault):
    """The words of both instances: a damaged one is closed, and a true one ends by its `until`, whoever wrote it."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(SHOP)
        found = instances(bed)
        with mapped(bed, SHOP, "hot") as memory:
            for each in found:
                damaged = (
                    each.state(OPEN, _native.monotonic_ms() + BEYOND_MS),
                    each.state(UNKNOWN, _native.monotonic_ms() + 10_000),
                    Instance(each.slot, each.incarnation + 1, 0).state(OPEN, _native.monotonic_ms() + 10_000),
                    (1 << 64) - 1,
                )
                for raw in damaged:
                    memory.put(each.word(0), raw)
                    came = arrived(bed, each, within=CALLED_S)
                    trial.require(came, f"nobody called an instance whose word was {raw:#018x}")
                    memory.put(each.word(0), 0)
                self._out(bed, trial, memory, each)
            self._random(trial, memory, found)
        after = bed.processes(SHOP)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")

    def _out(self, bed: Bed, trial: Trial, memory: Memory, each: Instance) -> None:
        """Takes one out for a while, as resilience would: nobody calls it until then, and then somebody does."""
        until = _native.monotonic_ms() + OUT_MS
        memory.put(each.word(0), each.state(OPEN, until))
        pause(SETTLED_S)
        called = calls(bed, each.port)
        pause((until - _native.monotonic_ms()) / 1000 - SETTLED_S)
        came = calls(bed, each.port) - called
        trial.require(came == 0, f"an instance that was out was called {came} times")
        pause((until - _native.monotonic_ms()) / 1000)
        took = wait_until(lambda: calls(bed, each.port) > called, "it is called again", within=GIVEN_UP_S)
        trial.within("healed_s", took, HEALED_S)

    def _random(self, trial: Trial, memory: Memory, found: Sequence[Instance]) -> None:
        words = [each.word(index) for each in found for index in range(HOT_WORDS - 1)]
        for _ in range(HOT_FLIPS // BATCH):
            for _ in range(BATCH):
                at = 8 * RNG.choice(words) + RNG.randrange(8)
                memory.bytes[at] ^= RNG.randint(1, 255)
            pause(HOT_PAUSE_S)
            trial.add("flips", BATCH)
            for word in words:
                memory.put(word, 0)


def instances(bed: Bed) -> Sequence[Instance]:
    """Both instances of the callee."""
    with opened(bed, SHOP, "table.endpoints") as found:
        payload = _native.TableReader("endpoints", found).read()
    table = msgspec.msgpack.decode(payload or b"\x80")
    ports: Mapping[str, int] = {bed.address(name, "inbound"): bed.ports[name] for name in (ORDERS, SECOND)}
    return [
        Instance(each["slot"], each["incarnation"], ports[each["address"]])
        for cluster in table["clusters"]
        if cluster["name"] == CALLEE
        for each in cluster["endpoints"]
    ]


def calls(bed: Bed, port: int) -> int:
    """How many requests of the load an origin has seen."""
    return (bed.ledgers / f"{port}.ledger").read_bytes().count(b"\n")


def arrived(bed: Bed, each: Instance, *, within: float) -> bool:
    """Whether an instance is called, by what was not under way already. The balancer may like the other one better."""
    pause(SETTLED_S)
    called = calls(bed, each.port)
    try:
        wait_until(lambda: calls(bed, each.port) > called, "it is called", within=within)
    except AssertionError:
        return False
    return True
