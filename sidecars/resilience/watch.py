"""Who is out, since when they are out and why: the hot words from look to look. Pure.

The words are changed by the proxy, by the rules over intervals, and by hand, and carry no reason. Whoever acts here
says why (`said`); what nobody here has done, the proxy has, and its reason follows from the policy and from the word.

What a word means depends on the policy, as in the proxy (`shared/core/decide/src/breaker.rs`): an ejection is over when
its time has passed, a breaker then waits for a request that tries it, and with no policy nobody is out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from pannier.sidecars.resilience.config import Config, Service
from pannier.sidecars.resilience.inventory import Member
from pannier.sidecars.resilience.native import HotWord
from pannier.sidecars.resilience.rules import Look

State: TypeAlias = Literal["closed", "open", "half_open"]

BEFORE_US: Final = "it was out before resilience was started"
PROBE_FAILED: Final = "the request that tried it failed"
PROBE_SUCCEEDED: Final = "the request that tried it succeeded"
EJECTION_OVER: Final = "the time of its ejection is over"
POLICY_NONE: Final = "nobody is taken out by failure_policy none"
ELSEWHERE: Final = "another process took it out"


@dataclass(frozen=True, slots=True)
class Standing:
    """An endpoint, or a service, that is out. `until_ms` as the hot word has it, `until_unix_ms` since the epoch."""

    state: State
    reason: str
    until_ms: int
    until_unix_ms: int
    times: int
    failures: int


class Turn(NamedTuple):
    """`member` went out, or came back."""

    member: Member
    out: bool
    text: str


def compare(
    before: Mapping[Member, Standing] | None, look: Look, config: Config, said: Mapping[Member, str], epoch_ms: int
) -> tuple[dict[Member, Standing], list[Turn]]:
    """Who is out, and what has changed since `before` (None: nobody has looked yet, so nothing is news).

    `said` has the reasons for what was done here since then; `epoch_ms` is what to add to a time of `look` to have it
    since the epoch.
    """
    standings: dict[Member, Standing] = {}
    turns: list[Turn] = []
    for member, rule, word in _all(look, config):
        was = None if before is None else before.get(member)
        state = effective(word, member, rule, look.now_ms)
        if state == "closed":
            if was is not None:
                turns.append(Turn(member, False, f"{member} is back: {said.get(member) or _back(rule)}"))
            continue
        renewed = state == "open" and (was is None or was.until_ms != word.until_ms)
        if was is None or renewed:
            reason = said.get(member) or _reason(word, member, rule, was, first=before is None)
        else:
            reason = was.reason
        # The row of a service as a whole counts the calls that try it.
        failures = word.failures if member.address else 0
        standings[member] = Standing(state, reason, word.until_ms, word.until_ms + epoch_ms, word.times, failures)
        if renewed and before is not None:
            seconds = max(word.until_ms - look.now_ms, 0) / 1000
            turns.append(Turn(member, True, f"{member} is out for {seconds:.1f} s: {reason}"))
    return standings, turns


def effective(word: HotWord, member: Member, rule: Service, now_ms: int) -> State:
    """What the word means under the policy of the service that `member` belongs to."""
    if word.state == "closed":
        return "closed"
    if not member.address or rule.failure_policy == "breaker":
        return "open" if word.state == "open" and word.until_ms > now_ms else "half_open"
    return "open" if rule.failure_policy == "outlier" and word.until_ms > now_ms else "closed"


def in_a_row(failures: int) -> str:
    """`7 failures in a row`."""
    return f"{failures} failure{'s' * (failures != 1)} in a row"


def _all(look: Look, config: Config) -> Iterator[tuple[Member, Service, HotWord]]:
    for name, members in look.members.items():
        rule = config.service(name)
        for member in members:
            yield member, rule, look.words[member.place]
        if rule.service_breaker is not None and name in look.circuits:
            whole = Member(name, "", look.circuits[name])
            yield whole, rule, look.words[whole.place]


def _reason(word: HotWord, member: Member, rule: Service, was: Standing | None, *, first: bool) -> str:
    if member.address and rule.failure_policy == "breaker":
        if was is not None:
            return PROBE_FAILED
        row = rule.breaker.consecutive_failures
        if row and (word.failures >= row or not first):
            # A call that was under way when it opened may have succeeded since, and ended the row.
            return in_a_row(max(word.failures, row))
    if member.address and rule.failure_policy == "outlier" and not first:
        return f"{_ejecting_rows(rule)} failures in a row"
    return BEFORE_US if first else ELSEWHERE


def _back(rule: Service) -> str:
    return {"breaker": PROBE_SUCCEEDED, "outlier": EJECTION_OVER, "none": POLICY_NONE}[rule.failure_policy]


def _ejecting_rows(rule: Service) -> str:
    """The lengths of a row that eject. The proxy counts anew after that, so the word does not tell which one it was."""
    outlier = rule.outlier
    rows = (
        (outlier.consecutive_5xx, outlier.enforcing_consecutive_5xx),
        (outlier.consecutive_gateway_failure, outlier.enforcing_consecutive_gateway_failure),
        (outlier.consecutive_local_origin_failure, outlier.enforcing_consecutive_local_origin_failure),
    )
    return " or ".join(str(row) for row in sorted({row for row, enforcing in rows if row and enforcing})) or "too many"
