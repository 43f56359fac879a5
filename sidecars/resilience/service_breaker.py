"""The service breaker, as in resilience4j: a service as a whole fails or is slow too often. Pure.

A window of the last `calls` calls, none of them judged before the window is full. At `failure_rate` or `slow_rate` it
opens; what then comes back is ignored. When its time has passed, the proxy lets `half_open_calls` through and says so
in the hot word, and those are judged by the same rates.

The state is the hot word's and nobody else's, so the proxy, this sidecar and its successor cannot disagree about it.
What is remembered here are samples. They come many calls at a time, so the window holds the fewest of the latest
samples that have `calls` calls; it can be longer than that by a part of one sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Final

from pannier.sidecars.resilience.config import ServiceBreaker
from pannier.sidecars.resilience.readings import Counts


class Verdict(Enum):
    """What the calls that are judged say of the service."""

    TOO_FEW = "too few calls to judge"
    GOOD = "below its rates"
    BAD = "at or above one of its rates"


class Step(Enum):
    """What happens to the hot word."""

    STAY = "stay"
    OPEN = "open"
    CLOSE = "close"


STEPS: Final[Mapping[tuple[str, Verdict], Step]] = {
    ("closed", Verdict.TOO_FEW): Step.STAY,
    ("closed", Verdict.GOOD): Step.STAY,
    ("closed", Verdict.BAD): Step.OPEN,
    ("open", Verdict.TOO_FEW): Step.STAY,
    ("open", Verdict.GOOD): Step.STAY,
    ("open", Verdict.BAD): Step.STAY,
    ("half_open", Verdict.TOO_FEW): Step.STAY,
    ("half_open", Verdict.GOOD): Step.CLOSE,
    ("half_open", Verdict.BAD): Step.OPEN,
}


class Circuit:
    """The calls to one service that its breaker judges."""

    def __init__(self, rule: ServiceBreaker) -> None:
        self._rule = rule
        self._samples: deque[Counts] = deque()
        self._total = Counts()
        self._state = "closed"

    def step(self, state: str, moved: Counts) -> tuple[Step, str]:
        """Takes the calls that ended since the last step, which were read before the `state` of the hot word was.
        Returns what is to be done, and why."""
        if state != self._state or state == "open":
            self._forget()
            self._state = state
        if state != "open":
            self._add(moved)
        verdict, why = self._judge()
        step = STEPS[state, verdict]
        if step is not Step.STAY:
            self._forget()
        return step, why

    def _forget(self) -> None:
        self._samples.clear()
        self._total = Counts()

    def _add(self, moved: Counts) -> None:
        if moved == Counts():
            return
        self._samples.append(moved)
        self._total = self._total.plus(moved)
        while (shorter := self._total.since(self._samples[0])) is not None and shorter.calls >= self._wanted():
            self._samples.popleft()
            self._total = shorter

    def _wanted(self) -> int:
        return self._rule.half_open_calls if self._state == "half_open" else self._rule.calls

    def _judge(self) -> tuple[Verdict, str]:
        total = self._total
        if total.calls < self._wanted():
            return Verdict.TOO_FEW, ""
        failed, slow = 100 * total.failures / total.calls, 100 * total.slow / total.calls
        of = f"of {total.calls} calls" if self._state == "closed" else f"of {total.calls} calls that tried it"
        if failed >= self._rule.failure_rate:
            return Verdict.BAD, f"failures {failed:.0f} % ≥ {self._rule.failure_rate:g} % {of}"
        if slow >= self._rule.slow_rate:
            return Verdict.BAD, f"slower than {self._rule.slow}: {slow:.0f} % ≥ {self._rule.slow_rate:g} % {of}"
        return Verdict.GOOD, f"failures {failed:.0f} % < {self._rule.failure_rate:g} % {of}"
