"""Which of those who are not seen any more have gone. Pure: never from some to none because an answer was empty.

- A service of which at least half is still seen: the others have gone.
- One of which less is seen, or nobody: nobody has gone, until it has stayed so for `LOOKS` looks and `SECONDS`. Then
  they go in stages, at most half of them a look, and a last one alone: whoever looks on has time to see it.
- A service that is said to be empty, in so many words, is.

The same patience decides about lives that a source says are there and the registry says are over.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Set
from typing import Final

from pannier.shared.instances import Key
from pannier.sidecars.pilot.bridges.source import Look

LOOKS: Final = 3
SECONDS: Final = 60.0


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

    def gone(self, held: Mapping[str, Set[str]], look: Look, now: float) -> list[Key]:
        """Those of the held ids, by service, who have gone."""
        seen: dict[str, set[str]] = {}
        for service, name in (*look.instances, *look.unclear):
            seen.setdefault(service, set()).add(name)
        gone: list[Key] = []
        doubted: set[str] = set()
        for service, ids in held.items():
            there = seen.get(service, set())
            missing = sorted(ids - there)
            if not missing:
                continue
            if service in look.emptied or (there and 2 * len(there) >= len(ids)):
                gone += [(service, name) for name in missing]
                continue
            doubted.add(service)
            if self._patience.spent(service, now):
                gone += [(service, name) for name in missing[: max(1, len(ids) // 2)]]
        self.doubts += len(doubted)
        self._patience.keep(doubted)
        return gone
