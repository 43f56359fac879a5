"""Readiness of the service as orchestrators ask for it, out of the supervisor's `lifecycle` topic.

Rules:
- Ready means that requests can be answered: the proxy and the app are ready, and the service is not on its way out. A
  sidecar that is being restarted fails no request, so it is listed and decides nothing.
- What was known last holds while the bus is away: losing the supervisor loses control, not traffic. For the same reason
  a service that was ready is not unready because a new supervisor takes stock of it (`starting`).
- Alive means that this answers. Nothing that a restart of the whole would not cure belongs there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pannier.shared.messages import Lifecycle, ProcessState

NEEDED_KINDS: Final = frozenset({"proxy", "app"})
SERVING: Final = frozenset({"ready", "degraded"})
STARTING: Final = "starting"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an answer; `required` checks decide it."""

    name: str
    ok: bool
    note: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one endpoint (`livez`, `readyz`, `startupz`)."""

    name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks if check.required)

    def text(self, *, verbose: bool) -> str:
        """In words: one line, or in the manner of Kubernetes a line for each check."""
        if not verbose:
            failed = ", ".join(_reason(check) for check in self.checks if check.required and not check.ok)
            return f"{self.name} failed: {failed}\n" if failed else "ok\n"
        lines = [f"[{'+' if check.ok else '-'}]{_reason(check)}" for check in self.checks]
        return "\n".join([*lines, f"{self.name} check {'passed' if self.ok else 'failed'}", ""])


def _reason(check: Check) -> str:
    what = check.note or ("ok" if check.ok else "failed")
    return f"{check.name} {what}" + ("" if check.required else " (informational)")


class Readiness:
    """Remembers the last lifecycle, and whether the service was ever ready."""

    def __init__(self) -> None:
        self._lifecycle: Lifecycle | None = None
        self._was_ready = False

    def learn(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._was_ready = self._was_ready or self.readyz(bus=True).ok

    def livez(self) -> Verdict:
        return Verdict("livez", (Check("ping", True),))

    def readyz(self, *, bus: bool) -> Verdict:
        """Whether requests can be answered. `bus`: whether the supervisor can be heard right now."""
        return Verdict("readyz", (_bus(bus), *self._service(), *self._processes()))

    def startupz(self, *, bus: bool) -> Verdict:
        """As `readyz`, until that was true once; then true for good."""
        if self._was_ready:
            return Verdict("startupz", (Check("started", True),))
        return Verdict("startupz", (*self.readyz(bus=bus).checks, Check("started", False, "not yet", required=False)))

    def _service(self) -> tuple[Check, ...]:
        lifecycle = self._lifecycle
        if lifecycle is None:
            return (Check("lifecycle", False, "not heard yet"),)
        serving = lifecycle.state in SERVING or (lifecycle.state == STARTING and self._was_ready)
        return (Check("lifecycle", serving, lifecycle.state),)

    def _processes(self) -> tuple[Check, ...]:
        lifecycle = self._lifecycle
        if lifecycle is None:
            return ()
        known = tuple(_process(process) for process in lifecycle.processes)
        if any(process.kind == "proxy" for process in lifecycle.processes):
            return known
        return (*known, Check("proxy", False, "not started"))


def _bus(connected: bool) -> Check:
    note = "" if connected else "away: the last known state holds"
    return Check("bus", connected, note, required=False)


def _process(process: ProcessState) -> Check:
    return Check(process.name, process.ready, process.state, required=process.kind in NEEDED_KINDS)
