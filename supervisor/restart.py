"""Whether and when a process that ended is started again. Pure: time and randomness are arguments.

Rules, in Erlang/OTP's words:
- `permanent` is always started again, `transient` after an abnormal end only, `temporary` never.
- `max_restarts` in `period`: that many *starts*, the first one included, may fall into one period. One more and the
  process is `failed`, which is no end: it is tried again every 60 s.
- A life that was ready for `settles` seconds clears the record: intensity is about what does not come up, and a proxy
  that is killed now and then must be back at once every time, however often.
- Siblings are flat and never touched (one_for_one).
- Between restarts there is an exponential back-off with jitter. Governance skips the first wait (`prompt`), since its
  absence is felt at once and one crash is no loop.

Refused: OTP's escalation (a supervisor that gives up takes its siblings with it): a crashing sidecar must not stop
traffic.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from pannier.supervisor.lifecycle import ProcessEvent

FIRST_WAIT: Final = 0.5  # seconds
LONGEST_WAIT: Final = 60.0  # seconds; also the pace at which a failed process is tried again


class Policy(StrEnum):
    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: with an exit `code`, or by a `signal` (then `code` is 128 + signal, as in a shell)."""

    code: int
    signal: int = 0

    @classmethod
    def by_signal(cls, number: int) -> Exit:
        return cls(code=128 + number, signal=number)

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal else f"code {self.code}"


class RestartSettings(msgspec.Struct, frozen=True):
    """`period` and `settles` in seconds; `prompt` restarts without a wait after the first crash."""

    policy: Policy
    max_restarts: int = 5
    period: float = 10.0
    settles: float = 10.0
    prompt: bool = False


class History(msgspec.Struct, frozen=True):
    """What the next verdict depends on. `starts` are times of the caller's clock, oldest first."""

    starts: tuple[float, ...] = ()
    streak: int = 0  # crashes in a row
    failed: bool = False

    def started(self, now: float, settings: RestartSettings) -> History:
        recent = tuple(at for at in self.starts if now - at < settings.period)
        return msgspec.structs.replace(self, starts=(*recent, now))


class Verdict(msgspec.Struct, frozen=True):
    """`event` is what the lifecycle is told; `after` seconds from now the process is started again (None: never)."""

    event: ProcessEvent
    after: float | None
    history: History


def verdict(
    settings: RestartSettings, history: History, exit_: Exit, *, ready_for: float, now: float, random: float
) -> Verdict:
    """What to do about an end nobody asked for, of a life that was ready for so many seconds; `random` in [0, 1)."""
    wanted = settings.policy is Policy.PERMANENT or (settings.policy is Policy.TRANSIENT and exit_.code != 0)
    if not wanted:
        return Verdict(ProcessEvent.ENDED, None, history)
    if ready_for >= settings.settles:
        history = History()
    streak = history.streak + 1
    recent = sum(1 for at in history.starts if now - at < settings.period)
    if history.failed or recent >= settings.max_restarts:
        failed = msgspec.structs.replace(history, streak=streak, failed=True)
        return Verdict(ProcessEvent.GAVE_UP, LONGEST_WAIT, failed)
    after = wait_before(streak - 1 if settings.prompt else streak, random)
    return Verdict(ProcessEvent.CRASHED, after, msgspec.structs.replace(history, streak=streak))


def wait_before(crashes: int, random: float) -> float:
    """Seconds to wait after that many crashes in a row: 0, then 0.5 s doubled up to 60 s, less up to half of it."""
    if crashes <= 0:
        return 0.0
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(crashes - 1, 16))
    return float(longest * (1 - random / 2))
