"""What requests have come to since a change: the counters of the data path, and what the conditions say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio
from pannier import _native
from pannier.supervisor import objective
from pannier.supervisor.objective import Objective, Series, Trial

Counters = Callable[[], Iterable[Series]]


class Judge:
    """`counters` reads all that was counted so far; reading it may take milliseconds."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def begin(self, objectives: Iterable[Objective]) -> tuple[Trial, ...]:
        """What is judged from this moment on."""
        return tuple(Trial(each, objective.counted(self._counters(), each.direction)) for each in objectives)

    async def verdict(self, trials: Sequence[Trial]) -> tuple[str, bool]:
        """What was found, in words, and whether it is harm, so that the change has to go."""
        found = [await trio.to_thread.run_sync(self._look, trial) for trial in trials]
        harm = [text for text, bad in found if bad]
        return "; ".join(harm or [text for text, _ in found]), bool(harm)

    def _look(self, trial: Trial) -> tuple[str, bool]:
        wanted = trial.objective
        since = objective.counted(self._counters(), wanted.direction).since(trial.before)
        value = objective.measured(wanted, since, _native.FINE_BOUNDS_SECONDS)
        bad = value is not None and objective.holds(wanted, value)
        return objective.spelt(wanted, value, since.requests), bad


def counters(descriptor: Callable[[], int]) -> Counters:
    """Reads the counters behind a descriptor; the memory is mapped when they are first asked for."""
    mapped: list[_native.Counters] = []

    def read() -> Iterable[Series]:
        if not mapped:
            mapped.append(_native.Counters(descriptor()))
        return mapped[0].series()

    return read
