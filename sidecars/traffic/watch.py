"""The canaries of a configuration: which there are, what each is told of the data path, and which splits follow. Pure.

A watch lives as long as its shift: the same settings go on where they stood, others begin anew, none is the end. What
is around the shift (the split before it, the subsets' labels) may change under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from pannier.shared.duration import seconds
from pannier.shared.messages import CanaryProgress
from pannier.sidecars.traffic.canary import (
    FINAL,
    WHOLE,
    Canary,
    Counts,
    Seen,
    State,
    apportioned,
    begun,
    identity,
    origin,
    stepped,
    success,
    weights,
)
from pannier.sidecars.traffic.config import Service, Shift
from pannier.sidecars.traffic.endpoints import Endpoint, places
from pannier.sidecars.traffic.tally import Place, Tally


class Kept(msgspec.Struct, frozen=True):
    """What of a canary survives this process: its state, and where the counters stood when the step in force began."""

    canary: Canary
    mark: list[tuple[int, int, int, int]] = []


class Watch:
    """The canary of one service."""

    def __init__(
        self, name: str, settings: Service, shift: Shift, canary: Canary, tallies: tuple[Tally, Tally]
    ) -> None:
        self.name = name
        self.shift = shift
        self.canary = canary
        self._settings = settings
        self._tallies = tallies
        self._seen = Seen(0, Counts())

    def under(self, settings: Service) -> Watch:
        """The same canary with what is around its shift as `settings` say."""
        watch = Watch(self.name, settings, self.shift, self.canary, self._tallies)
        watch._seen = self._seen
        return watch

    def places(self, endpoints: Sequence[Endpoint]) -> list[Place]:
        """Whose counters `look` wants to know."""
        return [] if self.canary.state in FINAL else places(endpoints)

    def meet(self, endpoints: Sequence[Endpoint]) -> None:
        """Learns who there is, and judges nothing."""
        self._seen = self._seen._replace(endpoints=len(self._members(endpoints)))

    def look(self, endpoints: Sequence[Endpoint], counted: Mapping[Place, Counts], now: float) -> bool:
        """Learns who there is and what was counted; whether the canary's state or weight is another one now."""
        before = self.canary
        if before.state in FINAL:
            return False
        members = self._members(endpoints)
        own = set(places(members))
        canary, rest = self._tallies
        self._seen = Seen(
            len(members),
            canary.see({place: counts for place, counts in counted.items() if place in own}),
            rest.see({place: counts for place, counts in counted.items() if place not in own}),
        )
        self.canary = stepped(self.shift, before, now, self._seen)
        if self.canary.weight != before.weight:
            canary.begin()
            rest.begin()
            self._seen = Seen(len(members), Counts())
        return (self.canary.state, self.canary.weight) != (before.state, before.weight)

    def _members(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        labels = self._settings.subsets.get(self.shift.to)
        return [] if labels is None else [one for one in endpoints if one.carries(labels)]

    def split(self) -> dict[str, int]:
        """The weights that the canary is to have now."""
        before = origin(self._settings, self.shift.to)
        if self.canary.state is State.ABORTED:
            return before
        idle = self.canary.state not in FINAL and not self._seen.endpoints
        return weights(before, self.shift.to, 0 if idle else self.canary.weight)

    def progress(self, now: float) -> CanaryProgress:
        enough = self._seen.canary.calls >= self.shift.min_requests
        running = self.canary.state is State.RUNNING
        return CanaryProgress(
            service=self.name,
            subset=self.shift.to,
            weight=apportioned(self.split(), WHOLE).get(self.shift.to, 0),
            target=self.shift.until,
            state=self.canary.state.value,
            reason=self.canary.reason,
            step_success=success(self._seen.canary) if enough else None,
            next_step_in_s=max(0.0, seconds(self.shift.every) - (now - self.canary.since)) if running else None,
        )

    def kept(self) -> Kept:
        mark = self._tallies[0].mark()
        return Kept(self.canary, [(*place, *counts) for place, counts in mark.items()])


def watched(
    services: Mapping[str, Service], watches: Mapping[str, Watch], kept: Mapping[str, Kept], now: float
) -> dict[str, Watch]:
    """The canaries that `services` have: those that go on (of this process, or `kept` by an earlier one), and new ones.

    A shift that leaves nobody else to call is none; `contradictions` says so.
    """
    found: dict[str, Watch] = {}
    for name, service in services.items():
        shift = service.shift
        if shift is None or not (before := origin(service, shift.to)):
            continue
        running, old = watches.get(name), kept.get(name)
        if running is not None and running.canary.shift == identity(shift):
            found[name] = running.under(service)
        elif old is not None and old.canary.shift == identity(shift):
            mark = {(slot, incarnation): Counts(*counts) for slot, incarnation, *counts in old.mark}
            found[name] = Watch(name, service, shift, old.canary, (Tally(mark), Tally()))
        else:
            found[name] = Watch(name, service, shift, begun(shift, before, now), (Tally(), Tally()))
    return found
