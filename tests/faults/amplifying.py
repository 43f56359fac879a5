"""Attacks by repetition: requests that always fail, so that whoever repeats them attacks in the attacker's place."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.faults.attack import Attack, Siege
from tests.faults.attacker import Crowd, forwarded
from tests.faults.attacks import OURS
from tests.faults.bed import CALLEE, FRONT, SHOP
from tests.faults.storm import FLOOR_PER_S, SHARE, WINDOW_S
from tests.faults.waiting import pause

STEP_S = 0.05


@dataclass(frozen=True)
class AlwaysFailing(Attack):
    """Through a caller that repeats, within its budget; and into the callee, which repeats nothing for a stranger,
    whatever his fields say."""

    connections: int = 10
    service: str = SHOP

    def attack(self, siege: Siege) -> None:
        forged = "".join(f"{name}: {value}\r\n" for name, value in OURS)
        sent = {"through": 0, "into": 0}
        began = time.monotonic()
        with (
            Crowd(siege.outbound, self.connections, toll=siege.toll) as through,
            Crowd(siege.inbound, self.connections, toll=siege.toll) as into,
        ):
            while siege.goes_on:
                for name, crowd, host in (("through", through, FRONT), ("into", into, CALLEE)):
                    fields = f"Host: {host}\r\nx-fails: 1\r\nx-attack: 1\r\n{forged}"
                    crowd.say(f"GET {siege.path(name)} HTTP/1.1\r\n{fields}\r\n".encode())
                    sent[name] += len(crowd.alive())
                pause(STEP_S)
                through.listen()
                into.listen()
            pause(0.5)
            through.listen()
            into.listen()
            failed = {name: len(crowd.alive()) for name, crowd in (("through", through), ("into", into))}
        siege.trial.require(set(failed.values()) == {self.connections}, f"connections were ended: {failed}")
        counted_s = time.monotonic() - began + WINDOW_S
        allowed = {"through": sent["through"] * (1 + SHARE) + FLOOR_PER_S * counted_s, "into": sent["into"]}
        for name, most in allowed.items():
            came, size = forwarded(siege.bed.ledgers, siege.path(name))
            siege.toll.forwarded += size
            siege.trial.add(f"{name}_sent", sent[name])
            siege.trial.add(f"{name}_came", came)
            siege.trial.require(sent[name] <= came <= most, f"{came} came of {sent[name]} {name}, promised {most:.0f}")
