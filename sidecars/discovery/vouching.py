"""Announces to others what Centrals register here (`detours.py`: what carries one of their keys), as the own instance
is announced: on this host (`vouched_files.py`) and with a pilot. Anything else that registers here is for this service
alone.

Rules:
- It is announced while its registration here lives, doubted or not, and renewed each third of the announcement's own
  TTL: two thousand of them are renewed less often than they have to renew here.
- A change is announced at once, and the next one of the same instance `PACE_SECONDS` later; an end always at once. The
  file is written once each `PACE_SECONDS`.
- A detour that ends is just removed: nobody misses it. Anything else says DRAINING first, for as long as others need
  to read it.
- Whoever registers here may begin to count again when this sidecar does, so each life gets an epoch of the wall clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import trio
from pannier.shared.detours import is_announced
from pannier.shared.errors import PannierError
from pannier.shared.instances import Key, State
from pannier.shared.leases import Leases, Registration
from pannier.sidecars.discovery.registry import SHOWN_SECONDS, Record
from pannier.sidecars.discovery.voice import Voice
from pannier.sidecars.discovery.vouched_files import VouchedFiles

PACE_SECONDS: Final = 0.25
TTL_SECONDS: Final = 10.0
ROUND_SECONDS: Final = 0.02
"""Between two rounds, whatever changes."""


@dataclass(slots=True)
class _Vouched:
    """`here` is the registration as it was when it was announced last, `told` what was announced; `record` is the same
    for the file."""

    here: Registration
    told: Registration
    record: Record
    changed_at: float


class Vouching:
    """What this process answers for beside its own instance. `pilot` and `withdraw` tell a pilot, if there is one."""

    def __init__(
        self,
        leases: Leases,
        files: VouchedFiles,
        *,
        ttl: float,
        voice: Voice,
        pilot: Callable[[Registration], None] | None = None,
        withdraw: Callable[[Key], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._leases = leases
        self._files = files
        self._ttl = min(ttl, TTL_SECONDS)
        self._voice = voice
        self._pilot = pilot
        self._withdraw = withdraw
        self._wall_clock = wall_clock
        self._vouched: dict[Key, _Vouched] = {}
        self._changed: dict[Key, None] = {}
        self._leaving: dict[Key, tuple[float, Record]] = {}  # until when the file says that it drains
        self._at_least: dict[Key, int] = {}
        self._floor = files.last_epoch() + 1
        self._written_at = -math.inf
        self._to_write = False
        self._wake = trio.Event()

    def touched(self, key: Key) -> None:
        """Something has become of what is registered here as `key`, if only that it was renewed."""
        held, lease = self._vouched.get(key), self._leases.get(key)
        here = lease.registration if lease is not None and _is_ours(lease.registration) else None
        if here != (held.here if held is not None else None):
            self._changed[key] = None
            self._wake.set()

    def is_own(self, key: Key) -> bool:
        """Whether this process speaks for `key`."""
        return key in self._vouched

    def renumber(self, key: Key, at_least: int) -> None:
        """Others know a life of it with a greater epoch than was announced."""
        if (held := self._vouched.get(key)) is not None and held.told.epoch < at_least:
            self._at_least[key] = at_least
            held.here = replace(held.here, epoch=0)  # so it is another life
            self.touched(key)

    async def run(self) -> None:
        """Announces until cancelled; costs nothing while there is nobody."""
        due = math.inf
        while True:
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            due = min(self._announce(now), self._write(now))
            await trio.sleep(ROUND_SECONDS)

    def leave(self) -> None:
        """The whole service ends."""
        for key, held in tuple(self._vouched.items()):
            self._end(key, held, trio.current_time())
        self._write(math.inf)

    async def vanish(self) -> None:
        """After `leave`, as soon as others have read that it drains, the file goes; also if cancelled."""
        with trio.CancelScope(shield=True):
            await trio.sleep_until(max((until for until, _ in self._leaving.values()), default=trio.current_time()))
        self._leaving.clear()
        with suppress(PannierError):
            self._files.write([])

    def _announce(self, now: float) -> float:
        """What has changed, as far as its time has come; when that of the next one comes."""
        due = math.inf
        for key in tuple(self._changed):
            held, lease = self._vouched.get(key), self._leases.get(key)
            there = lease is not None and _is_ours(lease.registration)
            if held is not None and there and now < held.changed_at + PACE_SECONDS:
                due = min(due, held.changed_at + PACE_SECONDS)
                continue
            del self._changed[key]
            if lease is not None and there:
                self._tell(key, held, lease.registration, now)
            elif held is not None:
                self._end(key, held, now)
        return due

    def _tell(self, key: Key, held: _Vouched | None, here: Registration, now: float) -> None:
        """It is there, or otherwise than before."""
        self._leaving.pop(key, None)
        same = held is not None and (held.here.epoch, held.here.address) == (here.epoch, here.address)
        epoch = held.told.epoch if held is not None and same else self._next_epoch(key, held)
        told = replace(here, epoch=epoch, ttl=self._ttl)
        self._vouched[key] = _Vouched(here, told, _record(told), now)
        self._to_write = True
        if self._pilot is not None:
            self._pilot(told)

    def _end(self, key: Key, held: _Vouched, now: float) -> None:
        """It is there no more."""
        del self._vouched[key]
        self._at_least.pop(key, None)
        if not held.told.is_detour:
            self._leaving[key] = (now + SHOWN_SECONDS, _record(replace(held.told, state=State.DRAINING)))
        self._to_write = True
        if self._withdraw is not None:
            self._withdraw(key)

    def _write(self, now: float) -> float:
        """Writes the file if something has changed or its time has come; when to do so next."""
        for key, (until, _) in tuple(self._leaving.items()):
            if until <= now < math.inf:
                del self._leaving[key]
                self._to_write = True
        renewal = self._written_at + self._ttl / 3
        if (self._to_write and now >= self._written_at + PACE_SECONDS) or (self._vouched and now >= renewal):
            self._written_at = trio.current_time()
            self._to_write = False
            leaving = [record for _, record in self._leaving.values()]
            try:
                self._files.write([*(held.record for held in self._vouched.values()), *leaving])
            except PannierError as error:
                self._voice.say("registry.vouched", f"others on this host hear nothing of Centrals: {error.message}")
            else:
                self._voice.settled("registry.vouched", "others on this host hear of Centrals again")
        dues = [until for until, _ in self._leaving.values()]
        if self._to_write:
            dues.append(self._written_at + PACE_SECONDS)
        if self._vouched:
            dues.append(self._written_at + self._ttl / 3)
        return min(dues, default=math.inf)

    def _next_epoch(self, key: Key, held: _Vouched | None) -> int:
        after = held.told.epoch + 1 if held is not None else self._floor
        return max(round(self._wall_clock() * 1000), self._at_least.get(key, 0), after)


def _is_ours(registration: Registration) -> bool:
    """Whether it is announced: it has registered here, and not with another discovery of this host."""
    return registration.source == "lease" and is_announced(registration.metadata)


def _record(told: Registration) -> Record:
    ttl_ms, metadata = round(told.ttl * 1000), dict(told.metadata)
    return Record(told.service, told.id, told.address, told.epoch, told.state, ttl_ms, metadata)
