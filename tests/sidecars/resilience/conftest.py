"""Stand-ins for what `pannier._native` hands out: a word of the hot segment, and a look at a service."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from pannier.sidecars.resilience.inventory import Member, Place
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.rules import Look


@dataclass
class Word:
    state: str = "closed"
    until_ms: int = 0
    failures: int = 0
    times: int = 0


@dataclass
class Scene:
    """One service `payments` with `hosts` endpoints, and the hot word of the service as a whole."""

    hosts: int = 1
    now_ms: int = 1_000_000
    words: dict[Place, Word] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member("payments", f"h:{number}", (number, 1)) for number in range(self.hosts))

    @property
    def whole(self) -> Member:
        return Member("payments", "", (3584, 1))

    def word(self, member: Member) -> Word:
        return self.words.setdefault(member.place, Word())

    def look(self, *moved: Counts, after_ms: int = 0) -> Look:
        """`moved` by endpoint, in their order."""
        self.now_ms += after_ms
        for member in (*self.members, self.whole):
            self.word(member)
        happened = {member.place: counts for member, counts in zip(self.members, moved, strict=False)}
        return Look(self.now_ms, {"payments": self.members}, {"payments": self.whole.place}, happened, dict(self.words))


@pytest.fixture
def scene() -> type[Scene]:
    return Scene
