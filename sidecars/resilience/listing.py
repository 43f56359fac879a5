"""Standings as others see them: the topic `ejections` and the verb `breakers`. Pure.

At most `LISTED` are told: more would not fit into one message, and nobody reads on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pannier.shared.messages import BreakerState, BreakerStates, Ejection, Ejections
from pannier.sidecars.resilience.config import Config, Service
from pannier.sidecars.resilience.inventory import Member
from pannier.sidecars.resilience.native import HotWord
from pannier.sidecars.resilience.rules import Look
from pannier.sidecars.resilience.watch import Standing, in_a_row

LISTED: Final = 800


def ejections(standings: Mapping[Member, Standing]) -> Ejections:
    """All that are out."""
    return Ejections(
        [
            Ejection(member.service, member.address, one.state, one.reason, one.until_unix_ms, one.times)
            for member, one in sorted(standings.items())
        ][:LISTED]
    )


def breaker_states(standings: Mapping[Member, Standing], look: Look, config: Config) -> BreakerStates:
    """All that are out, then all that have failed lately."""
    out = [
        BreakerState(member.service, member.address, one.state, one.reason, one.until_unix_ms, one.times, one.failures)
        for member, one in sorted(standings.items())
    ]
    failing = [
        BreakerState(name, member.address, "closed", _so_far(word, config.service(name)), 0, word.times, word.failures)
        for name, members in sorted(look.members.items())
        for member in members
        if member not in standings and ((word := look.words[member.place]).failures or word.times)
    ]
    return BreakerStates([*out, *failing][:LISTED])


def _so_far(word: HotWord, rule: Service) -> str:
    if not word.failures:
        return f"was out {word.times} time{'s' * (word.times != 1)} lately"
    row = in_a_row(word.failures)
    if rule.failure_policy == "breaker" and rule.breaker.consecutive_failures:
        return f"{row}, opens at {rule.breaker.consecutive_failures}"
    limit = rule.outlier.consecutive_5xx
    if rule.failure_policy == "outlier" and limit:
        if word.failures < limit:
            return f"{row}, ejected at {limit}"
        if rule.outlier.enforcing_consecutive_5xx < 100:
            return f"{row}, not ejected: enforced for {rule.outlier.enforcing_consecutive_5xx:g} %"
        return f"{row}, not ejected: max_ejected_percent is {rule.outlier.max_ejected_percent:g}"
    return row
