"""The rules over intervals, together: counters and hot words in, actions out. Pure.

What has to see every request is stepped by the proxy (ADR 11). Here: the breaker's success rate, ejection by success
rate and by failure percentage, and the service breaker. A look reads the counters first and the hot words after them,
so that no call is judged under a state that it had not met yet.

The service shell performs the actions; one that comes too late, because the proxy was faster, is lost and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pannier.shared.duration import milliseconds
from pannier.sidecars.resilience.config import Config, Outlier, Service
from pannier.sidecars.resilience.inventory import Inventory, Member, Place
from pannier.sidecars.resilience.native import HotWord
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.service_breaker import Circuit, Step
from pannier.sidecars.resilience.success_rate import Host, ejection_ms, lately, outliers
from pannier.sidecars.resilience.unified import RollingRate, penalty_ms


@dataclass(frozen=True, slots=True)
class Open:
    """Takes `member` out until then, for the `times`-th time lately (None: once more than is noted)."""

    member: Member
    until_ms: int
    why: str
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Takes `member` in again."""

    member: Member
    why: str


@dataclass(frozen=True, slots=True)
class Spare:
    """Does nothing about `member`, although it has become an outlier."""

    member: Member
    why: str


Action: TypeAlias = Open | Close | Spare


@dataclass(frozen=True, slots=True)
class Look:
    """What there is at `now_ms` (`monotonic_ms`). `moved` has the calls that ended since the look before; `circuits`
    the hot words of services; `words` has a word for every place of both."""

    now_ms: int
    members: Inventory
    circuits: Mapping[str, Place]
    moved: Mapping[Place, Counts]
    words: Mapping[Place, HotWord]


@dataclass(slots=True)
class _Interval:
    due_ms: int
    counts: dict[Place, Counts] = field(default_factory=dict)
    spared: set[Member] = field(default_factory=set)


class Rules:
    """What is remembered from look to look. `chance` draws from [0, 1)."""

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        self._config = config
        self._chance = chance
        self._rates: dict[Member, RollingRate] = {}
        self._intervals: dict[str, _Interval] = {}
        self._circuits: dict[str, Circuit] = {}

    def use(self, config: Config) -> None:
        """Has another configuration from now on; what is remembered under rules that have not changed stays."""
        before, self._config = self._config, config

        def same(name: str, rules: Callable[[Service], object]) -> bool:
            return rules(before.service(name)) == rules(config.service(name))

        self._rates = {m: r for m, r in self._rates.items() if same(m.service, lambda s: s.breaker)}
        self._intervals = {n: i for n, i in self._intervals.items() if same(n, lambda s: s.outlier)}
        self._circuits = {n: c for n, c in self._circuits.items() if same(n, lambda s: s.service_breaker)}

    def step(self, look: Look) -> list[Action]:
        """What follows from a look."""
        actions: list[Action] = []
        for name, members in look.members.items():
            rule = self._config.service(name)
            if rule.failure_policy == "breaker" and rule.breaker.success_rate:
                actions += self._unified(rule, members, look)
            if rule.failure_policy == "outlier":
                actions += self._outliers(rule.outlier, name, members, look)
            if rule.service_breaker is not None and name in look.circuits:
                actions += self._circuit(rule, name, members, look)
        return actions

    def forget(self, members: Inventory) -> None:
        """Forgets what is not among these members."""
        known = {member for each in members.values() for member in each}
        self._rates = {member: rate for member, rate in self._rates.items() if member in known}
        self._intervals = {name: one for name, one in self._intervals.items() if name in members}
        self._circuits = {name: one for name, one in self._circuits.items() if name in members}

    def _unified(self, rule: Service, members: tuple[Member, ...], look: Look) -> list[Action]:
        actions: list[Action] = []
        for member in members:
            word = look.words[member.place]
            if word.state != "closed":
                self._rates.pop(member, None)
            elif (moved := look.moved.get(member.place)) is not None:
                rate = self._rates.setdefault(member, RollingRate(rule.breaker))
                if why := rate.add(look.now_ms, moved):
                    penalty = penalty_ms(rule.breaker, word.times, self._chance())
                    actions.append(Open(member, look.now_ms + penalty, why))
        return actions

    def _outliers(self, rule: Outlier, name: str, members: tuple[Member, ...], look: Look) -> list[Action]:
        length = milliseconds(rule.interval)
        interval = self._intervals.setdefault(name, _Interval(look.now_ms + length))
        for member in members:
            if (moved := look.moved.get(member.place)) is not None:
                interval.counts[member.place] = interval.counts.get(member.place, Counts()).plus(moved)
        if look.now_ms < interval.due_ms:
            return []
        self._intervals[name] = _Interval(look.now_ms + length)
        spared = self._intervals[name].spared
        hosts = []
        for member in members:
            counts, word = interval.counts.get(member.place, Counts()), look.words[member.place]
            hosts.append(Host(counts.calls, counts.failures, word.state != "closed" and word.until_ms > look.now_ms))
        actions: list[Action] = []
        for found in outliers(hosts, rule, self._chance):
            member = members[found.number]
            if found.consequence != "ejected":
                spared.add(member)
                if member not in interval.spared:
                    actions.append(Spare(member, f"not {found.why} ({found.consequence})"))
                continue
            word = look.words[member.place]
            quiet_ms = max(look.now_ms - word.until_ms, 0) if word.until_ms else 0
            before = lately(rule, word.times, quiet_ms)
            actions.append(Open(member, look.now_ms + ejection_ms(rule, before), found.why, min(before + 1, 255)))
        return actions

    def _circuit(self, rule: Service, name: str, members: tuple[Member, ...], look: Look) -> list[Action]:
        assert rule.service_breaker is not None
        circuit = self._circuits.setdefault(name, Circuit(rule.service_breaker))
        moved = Counts()
        for member in members:
            if (ended := look.moved.get(member.place)) is not None:
                moved = moved.plus(ended)
        whole = Member(name, "", look.circuits[name])
        step, why = circuit.step(look.words[whole.place].state, moved)
        if step is Step.OPEN:
            return [Open(whole, look.now_ms + milliseconds(rule.service_breaker.open), why)]
        return [Close(whole, why)] if step is Step.CLOSE else []
