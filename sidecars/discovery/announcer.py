"""Announces the own instance: in the own leases, so that a service may call itself, and in the host's registry.

A registry that cannot be written is said once; the own table has the instance all the same, and each heartbeat tries
again. What `own.py` decides is done here at once, heartbeats follow each third of the TTL.

Leaving, two ways:
- The service ends: DRAINING stands in the registry long enough for the others to have read it, then the file goes.
- This sidecar ends alone, to come back at once (`sidecar restart`) or never (`sidecar rm`), and cannot know which: it
  leaves DRAINING behind, good for `HANDOVER_SECONDS`. Nobody who has only this instance loses it meanwhile; a successor
  says UP within that time, and without one all others drop it, since nobody vouches for it any more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import trio
from pannier.shared.duration import milliseconds, seconds
from pannier.shared.errors import PannierError
from pannier.shared.instances import Key, State
from pannier.shared.leases import Leases, Registration, Verdict
from pannier.shared.messages import Lifecycle
from pannier.sidecars.discovery.config import Config
from pannier.sidecars.discovery.epochs import Epochs
from pannier.sidecars.discovery.health import Condition, Health, Thresholds
from pannier.sidecars.discovery.own import is_leaving, own_state
from pannier.sidecars.discovery.registry import SHOWN_SECONDS, Record, Registry
from pannier.sidecars.discovery.voice import Voice

HANDOVER_SECONDS = 5.0


class Announcer:
    """The one instance that this process answers for."""

    def __init__(
        self,
        config: Config,
        service: str,
        instance: str,
        *,
        leases: Leases,
        registry: Registry,
        epochs: Epochs,
        changed: Callable[[], None],
        voice: Voice,
        pilot: Callable[[Registration], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._key: Key = (service, instance)
        self._leases = leases
        self._registry = registry
        self._epochs = epochs
        self._changed = changed
        self._voice = voice
        self._pilot = pilot
        self._wall_clock = wall_clock
        self._thresholds = Thresholds(config.health.failures, config.health.successes)
        self._ttl_ms = milliseconds(config.lease_ttl)
        self._epoch = self._at_least = 0
        self._due = 0.0
        self._stood_since = 0.0
        self._lifecycle: Lifecycle | None = None
        restored = leases.get(self._key)
        self._state: State | None = restored.registration.state if restored else None
        known_up = self._state is State.UP
        self._health = (Health(Condition.UP) if known_up else Health()) if self._is_checked else None

    @property
    def _is_checked(self) -> bool:
        return self._config.health.is_asked and self._config.app is not None

    def is_own(self, key: Key) -> bool:
        """Whether this process speaks for `key`, and not the file that an older life left in the registry."""
        return key == self._key and self._config.register and self._config.instance.address is not None

    def lifecycle(self, lifecycle: Lifecycle, now: float) -> None:
        """The supervisor says where the service stands."""
        self._lifecycle = lifecycle
        self._step(now)

    def checked(self, reason: str, now: float) -> None:
        """The app was asked; `reason` is why the answer was no good, or empty."""
        if self._health is not None:
            self._health = self._health.after(not reason, self._thresholds)
            self._step(now)

    def tick(self, now: float) -> None:
        """Renews when a third of the TTL is over."""
        if self._state is not None and self._epoch and now >= self._due:
            self._announce(self._state, now)

    async def leave(self, now: float, *, ending: bool) -> None:
        """Takes leave of the others, as above: the whole service ends if it said so, or is seen to be `ending`.

        Takes up to `SHOWN_SECONDS`, also if cancelled; no time if nobody else is in the registry and there is no pilot.
        """
        if not self._epoch or self._state is None:
            return
        leaving = State.DRAINING if self._state is State.UP else self._state
        if self.is_ending(ending):
            if leaving is not self._state:
                self._announce(leaving, now)
            if self._pilot is not None or self._registry.has_others(self._key):
                with trio.CancelScope(shield=True):
                    await trio.sleep(max(0.0, self._stood_since + SHOWN_SECONDS - now))
            self._registry.remove(self._key, self._epoch)
        elif (address := self._config.instance.address) is not None:
            ttl_ms = min(self._ttl_ms, round(HANDOVER_SECONDS * 1000))
            with contextlib.suppress(PannierError):
                self._registry.write(self._record(address, leaving, ttl_ms))

    def is_ending(self, ending: bool) -> bool:
        """Whether the whole service ends, by what is seen or what was said."""
        return ending or is_leaving(self._lifecycle)

    def _step(self, now: float) -> None:
        state = own_state(self._state, self._lifecycle, self._health)
        if state is not None and (state is not self._state or not self._epoch):
            self._announce(state, now)

    def _announce(self, state: State, now: float) -> None:
        address = self._config.instance.address
        if not self._config.register or address is None:
            return
        self._due = now + seconds(self._config.lease_ttl) / 3
        if state is not self._state:
            self._stood_since = now
        self._state = state
        try:
            if not self._epoch:
                self._epoch = self._next_epoch()
            self._registry.write(self._record(address, state, self._ttl_ms))
            self._voice.settled("registry.own", "this instance is in the registry again")
        except PannierError as error:
            self._voice.say("registry.own", f"other services cannot find this one: {error.message}")
            self._epoch = self._epoch or max(self._local_epoch(), self._at_least)
        own = self._record(address, state, self._ttl_ms).registration()
        if self._pilot is not None:
            self._pilot(own)
        verdict = self._leases.register(own, now)
        if verdict is Verdict.STALE:
            self._voice.say("own", f"{'/'.join(self._key)} is registered elsewhere, by a newer epoch", severity="error")
        else:
            self._voice.settled("own")
        if verdict.changes:
            self._changed()

    def _record(self, address: str, state: State, ttl_ms: int) -> Record:
        return Record(*self._key, address, self._epoch, state, ttl_ms, self._config.instance.metadata)

    def renumber(self, at_least: int, now: float) -> None:
        """Others know a life of this instance with a greater epoch, from before the counter was lost."""
        if self._state is not None:
            self._epoch = 0
            self._at_least = at_least
            self._announce(self._state, now)

    def _next_epoch(self) -> int:
        at_least = max(self._registry.last_epoch(self._key) + 1, self._local_epoch(), self._at_least)
        return self._epochs.next(self._key, at_least)

    def _local_epoch(self) -> int:
        return max(self._leases.next_epoch(self._key), round(self._wall_clock() * 1000))
