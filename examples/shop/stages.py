"""What each stage has to show, and how the run knows that it has been shown.

A stage may bring further instances, have a command given after some seconds of clean traffic, and make demands on what
came of it. The demands are judged by what the sidecars said while it happened and by the origins' ledgers: a request of
number N was due N / rate seconds after the load began, so a ledger tells when a service was called. Pure.

What the mesh is told beforehand is in `profiles/`, one file a stage, which extends the built-in stage of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ledger import INJECTED, Entry

CLEAN_SECONDS = 3.0
SETTLED_SECONDS = 1.0
"""So long after a change a call may still have gone the old way: what was under way, and what a service heard late."""
FAULT_SECONDS = 4.0
COMMAND, DONE = "command", "done"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, `at` seconds after the load began. `kind` is that of the event; the operator's are
    `command` when it is given, and `done` when it has been carried out."""

    at: float
    service: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run leaves behind: its moments in their order, the ledgers by instance, requests a second; and how many
    requests a limit would have refused."""

    moments: Sequence[Moment]
    ledgers: Mapping[str, Sequence[Entry]]
    rate: float
    counted: int = 0

    def first(self, kind: str, after: float = 0.0) -> Moment | None:
        return next((moment for moment in self.moments if moment.kind == kind and moment.at >= after), None)

    def calls(self, instance: str, after: float = 0.0, outcome: str | None = None) -> int:
        """Entries of a ledger for requests that were due after that moment."""
        return sum(
            entry.number / self.rate > after and outcome in (None, entry.outcome)
            for entry in self.ledgers.get(instance, ())
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """A further instance of a service: its application alone, without a mesh of its own."""

    name: str
    service: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """`command` are the words for `pannier`, `counter` is one of the front's metrics; `missing` says which demands
    were not met. Where the mesh `injects` faults, the front's ledger explains failures, and nowhere else."""

    shows: str = ""
    instances: tuple[Instance, ...] = ()
    command: tuple[str, ...] = ()
    counter: str = ""
    injects: bool = False
    missing: Callable[[Evidence], list[str]] = lambda _: []


def stage(profile: str) -> Stage:
    """What is shown on that profile; nothing on one that is not known here."""
    return STAGES.get(profile, Stage())


def _fault_ended(evidence: Evidence) -> list[str]:
    if (done := evidence.first(DONE)) is None:
        return ["no fault was injected"]
    if not evidence.calls("shop"):
        return ["the fault struck no call"]
    over = done.at + FAULT_SECONDS + SETTLED_SECONDS
    late = evidence.calls("shop", over, INJECTED)
    return [f"the fault did not end by itself: calls that it struck after {over:.1f} s: {late}"] if late else []


def _limit_counted(evidence: Evidence) -> list[str]:
    return [] if evidence.counted else ["the limit of the front was never exceeded"]


def _aborted(evidence: Evidence) -> list[str]:
    if (aborted := evidence.first("canary.aborted")) is None:
        return ["payments/v2 was not aborted"]
    if not evidence.calls("payments-v2"):
        return ["payments/v2 was never called"]
    late = evidence.calls("payments-v2", aborted.at + SETTLED_SECONDS)
    return [f"payments/v2 was called {late} times after it was aborted"] if late else []


def _healed(evidence: Evidence) -> list[str]:
    if (out := evidence.first("endpoint.out")) is None:
        return ["no instance of catalog was ejected"]
    if evidence.first("endpoint.back", out.at) is None:
        return ["the ejected instance of catalog did not come back"]
    return [] if evidence.calls("catalog-2", outcome=INJECTED) else ["it was ejected, but never failed"]


STAGES: Mapping[str, Stage] = {
    "test": Stage(
        shows="a fault is injected into calls of catalog, and ends by itself",
        command=(
            *("traffic", "fault", "catalog", "--abort", "503", "--percent", "10"),
            *("--for", f"{FAULT_SECONDS:g}s", "--name", "shop"),
        ),
        injects=True,
        missing=_fault_ended,
    ),
    "staging": Stage(
        shows="a limit of the front counts whom it would refuse, and refuses nobody",
        counter="pannier_proxy_rate_limited_in_shadow_total",
        missing=_limit_counted,
    ),
    "canary": Stage(
        shows="a bad v2 of payments is aborted by itself",
        instances=(Instance("payments-v2", "payments", 18192, {"PAYMENTS_FAIL_PERCENT": "20"}),),
        command=(
            *("traffic", "shift", "payments/v2", "+10", "--every", "5s", "--abort-on", "success<99%"),
            *("--name", "orders"),
        ),
        missing=_aborted,
    ),
    "production": Stage(
        shows="a failing instance of catalog is ejected, and comes back when it is well again",
        instances=(Instance("catalog-2", "catalog", 18193, {"CATALOG_FAILS": "5-8"}),),
        missing=_healed,
    ),
}
