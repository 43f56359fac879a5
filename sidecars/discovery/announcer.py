"""Announces the own instance: in the own leases, so that a service may call itself, and in the host's registry.

A registry that cannot be written is said once; the own table has the instance all the same, and each heartbeat tries
again. What `own.py` decides is done here at once, heartbeats follow each third of the TTL.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pannier.shared.duration import milliseconds, seconds
from pannier.shared.errors import PannierError
from pannier.shared.messages import Lifecycle
from pannier.sidecars.discovery.config import Config
from pannier.sidecars.discovery.epochs import Epochs
from pannier.sidecars.discovery.health import Condition, Health, Thresholds
from pannier.sidecars.discovery.leases import Key, Leases, State, Verdict
from pannier.sidecars.discovery.own import is_leaving, own_state
from pannier.sidecars.discovery.registry import Record, Registry
from pannier.sidecars.discovery.voice import Voice


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
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._key: Key = (service, instance)
        self._leases = leases
        self._registry = registry
        self._epochs = epochs
        self._changed = changed
        self._voice = voice
        self._wall_clock = wall_clock
        self._thresholds = Thresholds(config.health.failures, config.health.successes)
        self._ttl_ms = milliseconds(config.lease_ttl)
        self._epoch = 0
        self._due = 0.0
        self._lifecycle: Lifecycle | None = None
        restored = leases.get(self._key)
        self._state: State | None = restored.registration.state if restored else None
        known_up = self._state is State.UP
        self._health = (Health(Condition.UP) if known_up else Health()) if self._is_checked else None

    @property
    def _is_checked(self) -> bool:
        return self._config.health.path is not None and self._config.app is not None

    def is_own(self, key: Key) -> bool:
        """Whether this process speaks for `key`, and not the file that lies in the registry."""
        return key == self._key and self._epoch > 0

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

    def leave(self, *, ending: bool) -> None:
        """Removes the file if the whole service ends: it said so, or it is seen to be `ending`.

        If this sidecar alone ends, the instance lives on and the file stays.
        """
        if self._epoch and (ending or is_leaving(self._lifecycle)):
            self._registry.remove(self._key, self._epoch)

    def _step(self, now: float) -> None:
        state = own_state(self._state, self._lifecycle, self._health)
        if state is not None and (state is not self._state or not self._epoch):
            self._announce(state, now)

    def _announce(self, state: State, now: float) -> None:
        address = self._config.instance.address
        if not self._config.register or address is None:
            return
        self._due = now + seconds(self._config.lease_ttl) / 3
        self._state = state
        try:
            if not self._epoch:
                self._epoch = self._next_epoch()
            self._registry.write(self._record(address, state))
            self._voice.settled("registry.own", "this instance is in the registry again")
        except PannierError as error:
            self._voice.say("registry.own", f"other services cannot find this one: {error.message}")
            self._epoch = self._epoch or self._local_epoch()
        verdict = self._leases.register(self._record(address, state).registration(), now)
        if verdict is Verdict.STALE:
            self._voice.say("own", f"{'/'.join(self._key)} is registered elsewhere, by a newer epoch", severity="error")
        if verdict.changes:
            self._changed()

    def _record(self, address: str, state: State) -> Record:
        return Record(*self._key, address, self._epoch, state, self._ttl_ms, self._config.instance.metadata)

    def _next_epoch(self) -> int:
        at_least = max(self._registry.last_epoch(self._key) + 1, self._local_epoch())
        return self._epochs.next(self._key, at_least)

    def _local_epoch(self) -> int:
        return max(self._leases.next_epoch(self._key), round(self._wall_clock() * 1000))
