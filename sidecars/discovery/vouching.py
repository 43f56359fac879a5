"""Announces to others what Centrals register here (`detours.py`: what carries one of their keys), as the own instance
is announced: in the host's registry and with a pilot. Anything else that registers here is for this service alone.

Rules:
- It is announced while its registration here lives, doubted or not, and renewed each third of the announcement's own
  TTL: two thousand of them are renewed less often than they have to renew here.
- A change is announced at once, and the next one of the same instance `PACE_SECONDS` later. An end is, too, at once.
- A detour that ends is just removed: nobody misses it. Anything else says DRAINING first, for as long as others need to
  read it.
- Whoever registers here may begin to count again when this sidecar does, so each life gets an epoch of the wall clock.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio
from pannier.shared.detours import is_announced
from pannier.shared.errors import PannierError
from pannier.shared.instances import Key, State
from pannier.shared.leases import Leases, Registration
from pannier.sidecars.discovery.registry import SHOWN_SECONDS, Record, Registry
from pannier.sidecars.discovery.voice import Voice

PACE_SECONDS: Final = 0.25
TTL_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.5
"""Between looks for whom to renew."""
ROUND_SECONDS: Final = 0.02
"""Between two rounds, whatever changes."""
SLICE_SECONDS: Final = 0.01
"""Of writing files in one go, while others wait."""


@dataclass(slots=True)
class _Vouched:
    """`here` is the registration as it was when it was announced last, `told` what was announced."""

    here: Registration
    told: Registration
    changed_at: float
    renew_at: float


class Vouching:
    """What this process answers for beside its own instance. `pilot` and `withdraw` tell a pilot, if there is one."""

    def __init__(
        self,
        leases: Leases,
        registry: Registry,
        *,
        ttl: float,
        voice: Voice,
        pilot: Callable[[Registration], None] | None = None,
        withdraw: Callable[[Key], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._leases = leases
        self._registry = registry
        self._ttl = min(ttl, TTL_SECONDS)
        self._voice = voice
        self._pilot = pilot
        self._withdraw = withdraw
        self._wall_clock = wall_clock
        self._vouched: dict[Key, _Vouched] = {}
        self._changed: dict[Key, None] = {}
        self._leaving: dict[Key, tuple[float, int]] = {}  # until when the file says that it drains, and its epoch
        self._at_least: dict[Key, int] = {}
        self._look_at = 0.0
        self._wake = trio.Event()

    def is_own(self, key: Key) -> bool:
        """Whether this process speaks for `key`, and not the file that it has written itself."""
        return key in self._vouched or key in self._leaving

    def touched(self, key: Key) -> None:
        """Something has become of what is registered here as `key`, if only that it was renewed."""
        held, lease = self._vouched.get(key), self._leases.get(key)
        here = lease.registration if lease is not None and _is_ours(lease.registration) else None
        if here != (held.here if held is not None else None):
            self._changed[key] = None
            self._wake.set()

    def renumber(self, key: Key, at_least: int) -> None:
        """Others know a life of it with a greater epoch than was announced."""
        if (held := self._vouched.get(key)) is not None and held.told.epoch < at_least:
            self._at_least[key] = at_least
            held.here = replace(held.here, epoch=0)  # so it is another life
            self.touched(key)

    async def run(self) -> None:
        """Announces until cancelled; costs nothing while there is nobody."""
        while True:
            due = min(await self._announce_changes(), await self._look())
            await trio.sleep(ROUND_SECONDS)
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()

    def leave(self) -> None:
        """The whole service ends."""
        for key, held in tuple(self._vouched.items()):
            self._end(key, held, trio.current_time())

    async def _announce_changes(self) -> float:
        """What has changed, as far as its time has come; when that of the next one comes."""
        until, due = time.monotonic() + SLICE_SECONDS, math.inf
        for key in tuple(self._changed):
            now = trio.current_time()
            held = self._vouched.get(key)
            lease = self._leases.get(key)
            there = lease is not None and _is_ours(lease.registration)
            if held is not None and there and now < held.changed_at + PACE_SECONDS:
                due = min(due, held.changed_at + PACE_SECONDS)
                continue
            del self._changed[key]
            if lease is not None and there:
                self._tell(key, held, lease.registration, now)
            elif held is not None:
                self._end(key, held, now)
            if time.monotonic() > until:
                await trio.lowlevel.checkpoint()
                until = time.monotonic() + SLICE_SECONDS
        return due

    async def _look(self) -> float:
        """Renews in the registry who is due, and removes who has drained; when to look again. With a pilot
        `pilot_link.py` renews."""
        now, until = trio.current_time(), time.monotonic() + SLICE_SECONDS
        if now < self._look_at:
            return self._look_at
        for held in [held for held in self._vouched.values() if held.renew_at <= now]:
            if self._vouched.get(held.told.key) is held:
                held.renew_at = now + self._ttl / 3
                self._write(held.told)
            if time.monotonic() > until:
                await trio.lowlevel.checkpoint()
                until = time.monotonic() + SLICE_SECONDS
        for key, (ends, epoch) in tuple(self._leaving.items()):
            if ends <= now:
                del self._leaving[key]
                self._registry.remove(key, epoch)
        if not (self._vouched or self._leaving):
            return math.inf
        self._look_at = now + LOOK_SECONDS
        return self._look_at

    def _tell(self, key: Key, held: _Vouched | None, here: Registration, now: float) -> None:
        """It is there, or otherwise than before."""
        self._leaving.pop(key, None)
        same = held is not None and (held.here.epoch, held.here.address) == (here.epoch, here.address)
        epoch = held.told.epoch if held is not None and same else self._next_epoch(key, held)
        told = replace(here, epoch=epoch, ttl=self._ttl)
        self._vouched[key] = _Vouched(here, told, now, now + self._ttl / 3)
        self._write(told)
        if self._pilot is not None:
            self._pilot(told)

    def _end(self, key: Key, held: _Vouched, now: float) -> None:
        """It is there no more."""
        del self._vouched[key]
        self._at_least.pop(key, None)
        if held.told.is_detour:
            self._registry.remove(key, held.told.epoch)
        else:
            self._write(replace(held.told, state=State.DRAINING))
            self._leaving[key] = (now + SHOWN_SECONDS, held.told.epoch)
        if self._withdraw is not None:
            self._withdraw(key)

    def _write(self, told: Registration) -> None:
        ttl_ms = round(told.ttl * 1000)
        record = Record(told.service, told.id, told.address, told.epoch, told.state, ttl_ms, dict(told.metadata))
        try:
            self._registry.write(record)
        except PannierError as error:
            self._voice.say("registry.vouched", f"others on this host hear nothing of Centrals: {error.message}")
        else:
            self._voice.settled("registry.vouched", "others on this host hear of Centrals again")

    def _next_epoch(self, key: Key, held: _Vouched | None) -> int:
        epochs = [round(self._wall_clock() * 1000), self._at_least.get(key, 0)]
        if held is not None:
            epochs.append(held.told.epoch + 1)
        with contextlib.suppress(PannierError):  # which is said when it is written
            epochs.append(self._registry.last_epoch(key) + 1)
        return max(epochs)


def _is_ours(registration: Registration) -> bool:
    """Whether it is announced: it has registered here, and not with another discovery of this host."""
    return registration.source == "lease" and is_announced(registration.metadata)
