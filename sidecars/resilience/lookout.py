"""One look at the data path, and what is done about what it shows.

Counters are read before hot words (see `rules.py`). What is done here carries its reason until the next comparison,
which is what tells an endpoint that this sidecar took out from one that the proxy did.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from pannier import _native
from pannier.sidecars.resilience.config import Config
from pannier.sidecars.resilience.data_path import Surroundings
from pannier.sidecars.resilience.inventory import Inventory, Member, Place
from pannier.sidecars.resilience.readings import Readings
from pannier.sidecars.resilience.rules import Close, Look, Open, Rules
from pannier.sidecars.resilience.watch import Standing, Turn, compare


class News(NamedTuple):
    """What an operator may want to know."""

    kind: str
    message: str
    severity: str


class Lookout:
    """Remembers who was out at the last look. `chance` of its `rules` is the one thing here that is random."""

    def __init__(self, surroundings: Surroundings, rules: Rules) -> None:
        self.rules = rules
        self.news: list[News] = []
        self._surroundings = surroundings
        self._readings = Readings()
        self._standings: dict[Member, Standing] | None = None
        self._said: dict[Member, str] = {}

    @property
    def standings(self) -> Mapping[Member, Standing]:
        """Who was out at the last look."""
        return self._standings or {}

    def look(self, config: Config, members: Inventory, circuits: Mapping[str, Place]) -> Look:
        """Looks, acts, and adds what has changed to `news`."""
        places = [member.place for each in members.values() for member in each]
        moved = self._readings.advance(self._surroundings.counted(places))
        now_ms, hot = _native.monotonic_ms(), self._surroundings.hot
        words = {place: hot.read(*place) for place in [*places, *circuits.values()]}
        look = Look(now_ms, members, circuits, moved, words)
        for action in self.rules.step(look):
            match action:
                case Open():
                    self.take_out(action.member, action.until_ms, action.why, action.times)
                case Close():
                    self.take_in(action.member, action.why)
                case _:
                    self.news.append(News("endpoint.spared", f"{action.member}: {action.why}", "warning"))
                    continue
            words[action.member.place] = hot.read(*action.member.place)
        epoch_ms = round(time.time() * 1000) - now_ms
        self._standings, turns = compare(self._standings, look, config, self._said, epoch_ms)
        self._said.clear()
        self.news += map(_news, turns)
        return look

    def take_out(self, member: Member, until_ms: int, why: str, times: int | None = None) -> bool:
        """Takes `member` out; False if it is out already."""
        return self._did(self._surroundings.hot.open(*member.place, until_ms, times), member, why)

    def take_in(self, member: Member, why: str) -> bool:
        """Takes `member` back in; False if it was not out."""
        return self._did(self._surroundings.hot.close(*member.place), member, why)

    def _did(self, done: bool, member: Member, why: str) -> bool:
        if done:
            self._said[member] = why
        return done


def _news(turn: Turn) -> News:
    about = "endpoint" if turn.member.address else "service"
    return News(f"{about}.{'out' if turn.out else 'back'}", turn.text, "warning" if turn.out else "info")
