"""Attacks by patience: connections that give or take next to nothing, and many of them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from itertools import count

from tests.faults.attack import MALFORMED, Attack, Siege, answers
from tests.faults.attacker import Crowd, say
from tests.faults.bed import CALLEE
from tests.faults.gauge import MIB
from tests.faults.waiting import pause

HEADER_S = 10.0
NOTICED_S = 1.5  # a tick, the machine, and our own look twice a second
LOOK_S = 0.25
PARTS = 10
STARTS = 8  # steps, so that nobody idles before he has asked
DRIP = b"X"


@dataclass(frozen=True)
class SlowSenders(Attack):
    """Heads of 4 B/s, and bodies of 20 B/s: both are told 408 ten seconds and a little later. Where there are more
    bodies than may be under way, the others are told 503 at once."""

    heads: int = 200
    bodies: int = 60
    are_shed: bool = False
    counts: tuple[str, ...] = (MALFORMED, answers(408))

    def attack(self, siege: Siege) -> None:
        head = f"GET /slow HTTP/1.1\r\nHost: {CALLEE}\r\n".encode()
        body = f"POST /slow HTTP/1.1\r\nHost: {CALLEE}\r\nContent-Length: 4096\r\n\r\n".encode()
        with (
            Crowd(siege.inbound, self.heads, toll=siege.toll) as heads,
            Crowd(siege.inbound, self.bodies, toll=siege.toll) as bodies,
        ):
            began = time.monotonic()
            heads.say(head)
            bodies.say(body)
            lasted: dict[str, float] = {}
            for step in count():
                if len(lasted) == 2 or not siege.goes_on:
                    break
                pause(LOOK_S / PARTS)  # all at once would be a burst, which is another attack
                part = slice(step % PARTS, None, PARTS)
                for name, crowd, drip in (("heads_s", heads, DRIP), ("bodies_s", bodies, DRIP * 5)):
                    crowd.say(drip, part)
                    crowd.listen(part=part)
                    if name not in lasted and not crowd.alive():
                        lasted[name] = time.monotonic() - began
                        siege.trial.times[name] = lasted[name]
            told = Counter(bodies.statuses())
            promised = {408, 503} if self.are_shed else {408}
            siege.trial.require(set(told) == promised, f"slow bodies were answered {told}, promised {promised}")
            found = set(heads.statuses())
            siege.trial.require(found == {408}, f"slow heads were answered {found}, promised 408")
            siege.trial.within("heads_s", lasted.get("heads_s", 99.0), HEADER_S + NOTICED_S)
            slowest = HEADER_S / (1 - 4 * len(DRIP * 5) / 240)
            siege.trial.within("bodies_s", lasted.get("bodies_s", 99.0), slowest + NOTICED_S)
        siege.count(MALFORMED, self.heads)
        siege.count(answers(408), self.heads + told[408])


@dataclass(frozen=True)
class SlowReaders(Attack):
    """Clients that read 1 MiB at 10 KiB/s, and clients that ask for MiB after MiB and read nothing at all: these are
    cut when nothing has moved for `idle_s`, and what they asked for is not fetched meanwhile. Nothing is held to be
    amplified: large answers are what the service is there for."""

    idle_s: float
    readers: int = 64
    silent: int = 16
    asked: int = 100
    window: int = 4096
    growth: int = 24 * MIB

    def attack(self, siege: Siege) -> None:
        large = f"GET /large/1024 HTTP/1.1\r\nHost: {CALLEE}\r\nx-attack: 1\r\n"
        path = siege.path("silent")
        more = f"GET {path} HTTP/1.1\r\nHost: {CALLEE}\r\nx-attack: 1\r\n\r\n"
        with (
            Crowd(siege.inbound, self.readers, window=self.window) as readers,
            Crowd(siege.inbound, self.silent, window=self.window) as silent,
        ):
            cut_s, asked_at = 0.0, 0.0
            for step in count():
                if not siege.goes_on:
                    break
                if step < STARTS:  # all of them at once would be a burst of 80 MiB, which is another attack
                    part, asked_at = slice(step, None, STARTS), time.monotonic()
                    readers.say(f"{large}\r\n".encode(), part)
                    silent.say((f"{large}\r\n" * 20 + more * self.asked).encode(), part)
                pause(LOOK_S)
                readers.listen(int(10_240 * LOOK_S))
                if not cut_s and silent.reset() == self.silent:
                    cut_s = time.monotonic() - asked_at
            siege.trial.within("cut_s", cut_s or 99.0, 2 * self.idle_s + NOTICED_S)
            early = self.readers - len(readers.alive())
            siege.trial.require(early == 0, f"{early} slow readers were cut")
            some = min(len(data) for data in readers.heard)
            siege.trial.require(some > 3 * 10_240, f"a slow reader was given {some} bytes in all")
        fetched = sum(
            line.split()[0] == path.encode()
            for file in siege.bed.ledgers.glob("*.attacks")
            for line in file.read_bytes().splitlines()
        )
        siege.trial.require(fetched == 0, f"{fetched} requests were served to who reads no answer")


@dataclass(frozen=True)
class Flood(Attack):
    """Connections that are opened and left, and others that are opened and closed all the time."""

    idle: int = 3000
    per_step: int = 25
    growth: int = 3000 * 10_240

    def attack(self, siege: Siege) -> None:
        with Crowd(siege.inbound, 0) as crowd:
            while siege.goes_on:
                if len(crowd.sockets) < self.idle:
                    crowd.grow(10 * self.per_step)
                with Crowd(siege.inbound, self.per_step):
                    pass
                siege.trial.add("opened", self.per_step)
                pause(0.1)
            siege.trial.add("opened", len(crowd.sockets))
            siege.trial.require(len(crowd.sockets) >= self.idle, f"only {len(crowd.sockets)} could be opened")
            last = say(
                siege.inbound, f"GET / HTTP/1.1\r\nHost: {CALLEE}\r\nConnection: close\r\n\r\n".encode(), siege.toll
            )
            siege.trial.require(last.statuses == [200], f"a new connection is answered {last.statuses}")
