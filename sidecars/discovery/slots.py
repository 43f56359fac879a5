"""Which slot of the hot segment an endpoint owns, and the how-many-eth owner of that slot it is.

Rules:
- An endpoint keeps its slot while it lives, also across a restart of this sidecar: the assignment is read back from the
  table that is in force.
- A slot that is given anew gets a greater incarnation, so that a word written about the former owner is not believed.
  Incarnations of slots that were free at a restart are not in the table; they all go on above the highest ever given
  (`high_water`, which the table carries).
- The lowest free slot first: the segment stays dense.

Keyed by (service, address), not by instance id: an address that moves from the file to a lease is the same endpoint.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

CAPACITY = 3584
"""Slots above are those of service breakers and of the static endpoints of table `base`."""
INCARNATION_MAX = (1 << 16) - 1

Place: TypeAlias = tuple[str, str]
"""(service, address)"""


class Slot(NamedTuple):
    """A slot and its incarnation, which goes round from 1 to `INCARNATION_MAX` (a hot word has 16 bits for it)."""

    number: int
    incarnation: int


class Slots:
    """The assignment of places to slots."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._owned: dict[Place, Slot] = {}
        self._incarnations = [0] * capacity
        self._free = list(range(capacity))
        self.high_water = 0

    def restore(self, owned: Iterable[tuple[Place, Slot]], high_water: int = 0) -> None:
        """Takes over what a table in force says. Nonsense in it (out of range, a slot twice) is skipped."""
        capacity = len(self._incarnations)
        taken: set[int] = set()
        for place, slot in owned:
            valid = 0 <= slot.number < capacity and 1 <= slot.incarnation <= INCARNATION_MAX
            if valid and slot.number not in taken and place not in self._owned:
                taken.add(slot.number)
                self._owned[place] = slot
                high_water = max(high_water, slot.incarnation)
        high_water = min(high_water, INCARNATION_MAX)
        self._incarnations = [high_water] * capacity
        for slot in self._owned.values():
            self._incarnations[slot.number] = slot.incarnation
        self._free = [number for number in range(capacity) if number not in taken]
        self.high_water = high_water

    def assign(self, places: Iterable[Place]) -> dict[Place, Slot]:
        """The slots of exactly these places; all others are freed. What finds no room is missing from the answer."""
        wanted = dict.fromkeys(places)
        for place in [place for place in self._owned if place not in wanted]:
            heapq.heappush(self._free, self._owned.pop(place).number)
        for place in wanted:
            if place not in self._owned and self._free:
                number = heapq.heappop(self._free)
                self._incarnations[number] = self._incarnations[number] % INCARNATION_MAX + 1
                self.high_water = max(self.high_water, self._incarnations[number])
                self._owned[place] = Slot(number, self._incarnations[number])
        return {place: self._owned[place] for place in wanted if place in self._owned}
