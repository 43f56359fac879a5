"""Which of those who are not seen any more have gone. Pure: never from some to none because an answer was empty.

- Judged is a service as a whole: all who came over a bridge, whichever pilot tends them. Each pilot ends its own.
- A service of which at least half is still seen: the others have gone.
- One of which less is seen, or nobody: nobody has gone, until it has stayed so for `LOOKS` looks and `SECONDS`. Then
  they go in stages, at most half of them each `STAGE_SECONDS`, and a last one alone: whoever looks on has time to see
  it. Pilots go by the same order, so that stages are the service's and not each one's; whom the pilot that tends them
  does not let go for `SECONDS` more keeps nobody else.
- A service that is said to be empty, in so many words, is.

The same patience decides about lives that a source says are there and the registry says are over.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence, Set
from typing import Final

from pannier.shared.instances import Key
from pannier.sidecars.pilot.bridges.source import Look

LOOKS: Final = 3
SECONDS: Final = 60.0
STAGE_SECONDS: Final = 10.0


class Patience:
    """What has been the same, for how many looks, and since when."""

    def __init__(self) -> None:
        self._since: dict[Hashable, tuple[float, int]] = {}

    def spent(self, what: Hashable, now: float) -> bool:
        """One look more at which it is so; whether that is long enough."""
        begun, looks = self._since.get(what, (now, 0))
        self._since[what] = (begun, looks + 1)
        return looks + 1 >= LOOKS and now - begun >= SECONDS

    def forget(self, what: Hashable) -> None:
        """It is not so any more."""
        self._since.pop(what, None)

    def keep(self, those: Collection[Hashable]) -> None:
        """All but those are not so any more."""
        self._since = {what: since for what, since in self._since.items() if what in those}


class Belief:
    """`doubts` counts the looks at which a service was not believed to be gone."""

    def __init__(self) -> None:
        self.doubts = 0
        self._patience = Patience()
        self._stages: dict[str, tuple[Set[str], float]] = {}  # who was there, and since when it is they

    def gone(self, known: Mapping[str, Set[str]], own: Set[Key], look: Look, now: float) -> list[Key]:
        """Those of the own ones who have gone; known are all ids of a service, also those that others tend."""
        seen: dict[str, set[str]] = {}
        for service, name in (*look.instances, *look.unclear):
            seen.setdefault(service, set()).add(name)
        gone: list[Key] = []
        doubted: set[str] = set()
        for service, ids in known.items():
            there = seen.get(service, set())
            missing = sorted(ids - there)
            mine = [name for name in missing if (service, name) in own]
            if not missing:
                continue
            believed = service in look.emptied or (there and 2 * len(there) >= len(ids))
            if not believed or (service in self._stages and service not in look.emptied):
                doubted.add(service)
                spent = self._patience.spent(service, now)
                mine = self._staged(service, ids, missing, mine, now) if spent else []
            gone += [(service, name) for name in mine]
        self.doubts += len(doubted)
        self._patience.keep(doubted)
        self._stages = {service: stage for service, stage in self._stages.items() if service in doubted}
        return gone

    def _staged(
        self, service: str, ids: Set[str], missing: Sequence[str], mine: Sequence[str], now: float
    ) -> list[str]:
        """Which of the missing own ones go now."""
        most = max(1, len(ids) // 2)
        stage, since = self._stages.get(service, (ids, now - STAGE_SECONDS))
        if stage != ids:
            since = now
        waited = now - since
        going = [name for name in missing[:most] if name in mine] if waited >= STAGE_SECONDS else []
        if waited >= STAGE_SECONDS + SECONDS:
            going = [*mine[:most]]
        self._stages[service] = (ids - set(going), now) if going else (ids, since)
        return going
