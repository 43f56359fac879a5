"""Random ways through stages and sets of sidecars: who is not concerned goes on, and is told apart by his PID.

One service lives through all of it, since a start costs more than a transition; each walk begins by going home, which
is one more transition. A failure is told by its steps and not made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pannier.shared.messages import Changed, LiveChange, LiveReset, LiveSetting, Nothing, SidecarName, Use
from pannier.shared.project import resolve
from pannier.supervisor.sidecar_types import sidecar_types

from tests.faults.bed import ORDERS, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.system.host import Host

CORE = frozenset({"keeper", "zygote", "supervisor", "proxy", "app"})
STAGES = ("dev", "test", "staging", "canary", "production", "central")
NAMES = ("traffic", "resilience", "discovery", "observability")


class Service:
    """The service that is changed, and what is known of it: its stage, and what the live layer says about who runs.

    `given` are the assignments (`--set`) that it was started with.
    """

    def __init__(self, host: Host, given: Sequence[str], *, stage: str = STAGES[0]) -> None:
        self.host = host
        self.given = list(given)
        self.types = sidecar_types()
        self.stage = stage
        self.live: dict[str, Literal["on", "off", "tuned"]] = {}
        self.transitions = 0

    def expected(self) -> set[str]:
        below = self.of(self.stage)
        return {name for name in NAMES if (self.live[name] != "off" if name in self.live else name in below)}

    def of(self, stage: str) -> set[str]:
        return set(self.settings(stage)["sidecars"])

    def settings(self, stage: str) -> Mapping[str, Any]:
        return resolve(stage, sidecars=self.types, assignments=self.given).data

    def use(self, stage: str) -> None:
        left = self.of(self.stage) - self.of(stage)
        self.stage = stage
        self.live = {name: said for name, said in self.live.items() if not (said == "tuned" and name in left)}
        request = Use(stage, msgspec.msgpack.encode(self.settings(stage)), self.given, confirm_s=0.0)
        self._change("profile.use", request, Changed)

    def switch(self, name: str) -> None:
        on = name not in self.expected()
        self.live[name] = "on" if on else "off"
        self._change("sidecar.add" if on else "sidecar.rm", SidecarName(name), Nothing)

    def tune(self, name: str, number: int) -> None:
        path, value = TUNED[name]
        self.live[name] = "tuned"
        setting = LiveSetting(["sidecars", name, *path.split(".")], msgspec.msgpack.encode(value(number)))
        self._change("live.set", LiveChange([setting]), Changed)

    def reset(self) -> None:
        self.live = {}
        self._change("live.reset", LiveReset(), Changed)

    def _change(self, verb: str, body: msgspec.Struct, reply: type[msgspec.Struct]) -> None:
        """Makes one transition, and looks at what it has done and left alone."""
        before = self.host.pids("orders")
        answer = self.host.ask("orders", verb, body, reply)
        after = self.host.pids("orders")
        lines = answer.lines if isinstance(answer, Changed) else []
        restarted = {line.split()[2].removesuffix(":") for line in lines if line.startswith("~ restart ")}
        untouched = (before.keys() & after.keys()) - restarted
        assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}, lines
        assert after.keys() - CORE == self.expected(), lines
        assert self.host.ready("orders")
        self.transitions += 1


TUNED: dict[str, tuple[str, Callable[[int], Any]]] = {
    "discovery": ("health.interval", lambda number: f"{number}s"),
    "observability": ("traces.sample_ratio", lambda number: number / 10),
    "resilience": ("services.stock.breaker.consecutive_failures", lambda number: number),
    "traffic": ("zone", str),
}


def walk(service: Service, *, walks: int, steps: int) -> None:
    """So many walks of at most so many steps each. The first walk of hypothesis is the simplest one, the same step
    again and again; the others differ each time. Raises AssertionError."""
    run_state_machine_as_test(
        _walks(service),
        settings=settings(
            max_examples=walks,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def _walks(service: Service) -> type[RuleBasedStateMachine]:
    class Walk(RuleBasedStateMachine):
        @initialize()
        def go_home(self) -> None:
            service.reset()
            service.use(STAGES[0])

        @rule(stage=st.sampled_from(STAGES))
        def use(self, stage: str) -> None:
            service.use(stage)

        @rule(name=st.sampled_from(NAMES))
        def switch(self, name: str) -> None:
            service.switch(name)

        @precondition(lambda _: bool(service.expected()))
        @rule(choice=st.integers(0, 99), number=st.integers(1, 9))
        def tune(self, choice: int, number: int) -> None:
            found = sorted(service.expected())
            service.tune(found[choice % len(found)], number)

        @precondition(lambda _: bool(service.live))
        @rule()
        def reset(self) -> None:
            service.reset()

    return Walk


@dataclass(frozen=True)
class Transitions(Fault):
    """Of a callee, which ends where it began: walks until there have been so many."""

    wanted: int
    steps: int = 12

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = Service(bed.host, bed.settings(ORDERS), stage=bed.stage.profile)
        while service.transitions < self.wanted:
            walk(service, walks=2, steps=self.steps)
        service.reset()
        service.use(bed.stage.profile)
        trial.add("transitions", service.transitions)
