"""What a pilot says of the services that are followed, as leases that only it ends. Pure: messages in, leases out.

Rules:
- Only a greater (epoch, revision) counts. A pilot that is behind what another one has said is not believed, until it
  has said so for `SETBACK_SECONDS`: then its store was set back, and it is the only one there is.
- Who has left deliberately is gone at once. Who was given up is gone as well, unless that takes more than half of a
  service at once: then all of those are *suspects*, which stay until their renewal, their deliberate end, or failed
  probes. So nobody is left without an endpoint because somebody's heartbeats were lost.
- Who is missing in what is told anew is a suspect, too, and is asked about: a list may be empty for many reasons, and
  an end leaves a tombstone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import msgspec
from pannier.shared.instances import EVERY, Key, State
from pannier.shared.leases import Leases, Registration, Verdict
from pannier.shared.pilot_stream import Changed, Current, Gone, Instance, Told

CAPACITY: Final = 16_384
SETBACK_SECONDS: Final = 15.0
STAGED_FRACTION: Final = 0.5


class Heard(msgspec.Struct, frozen=True):
    """What follows from a message: whether endpoints may differ now, who is to be asked about, and what an operator
    should know, if anything. `behind`: the pilot said what is older than what is known, and is to be asked again."""

    changed: bool = False
    missing: tuple[Key, ...] = ()
    alarm: str = ""
    behind: bool = False


class Mirror:
    """The followed part of a pilot. `leases` never expire by time: the pilot tends them."""

    def __init__(self, now: float, *, capacity: int = CAPACITY) -> None:
        self.leases = Leases(now, capacity=capacity)
        self._ids: dict[str, set[str]] = {}
        self._revisions: dict[str, int] = {}
        self._behind_since: dict[str, float] = {}

    def restore(self, registrations: Iterable[Registration], now: float) -> None:
        """What was known before a restart."""
        for registration in registrations:
            self._put(registration, now)

    def known(self, services: Collection[str]) -> dict[str, int]:
        """The revision up to which each is known; 0 for `EVERY`, since a part of it may have been missed."""
        return {name: 0 if name == EVERY else self._revisions.get(name, 0) for name in services}

    def told(self, message: Told, now: float) -> Heard:
        """All of a service."""
        if self._is_behind(message.service, message.revision, now):
            return Heard(behind=True)
        self._revisions[message.service] = message.revision
        full = self._put_all(message.instances, now)
        told = {instance.id for instance in message.instances}
        missing = [(message.service, name) for name in self._ids.get(message.service, set()) - told]
        doubted = self.leases.suspect(missing)
        return Heard(True, tuple(missing), _joined(full, _doubted(doubted, "are not told of any more")))

    def changed(self, message: Changed, now: float) -> Heard:
        """What has become of a service."""
        if message.revision < self._revisions.get(message.service, 0):
            return Heard(behind=True)
        self._revisions[message.service] = message.revision
        full = self._put_all(message.instances, now)
        given_up = [key for gone in message.gone if (key := self._ended(message.service, gone)) is not None]
        sound = [key for key in given_up if not self._is_suspect(key)]
        there = sum(not self._is_suspect((message.service, name)) for name in self._ids.get(message.service, ()))
        if len(sound) > STAGED_FRACTION * there:
            return Heard(True, alarm=_joined(full, _doubted(self.leases.suspect(sound), "were given up at once")))
        for key in sound:
            self._drop(key, final=False)
        return Heard(True, alarm=full)

    def current(self, message: Current) -> Heard:
        """Everything that is followed has been told; the services that are not there any more are missing."""
        if message.services is None:
            return Heard()
        vanished = self._ids.keys() - set(message.services)
        missing = [(service, name) for service in vanished for name in self._ids[service]]
        doubted = self.leases.suspect(missing)
        return Heard(bool(doubted), tuple(missing), _doubted(doubted, "are not told of any more"))

    def confirm_gone(self, key: Key) -> bool:
        """Failed probes confirm a suspect; False if it was renewed meanwhile."""
        gone = self.leases.confirm_gone(key)
        if gone:
            self._forget(key)
        return gone

    def _is_behind(self, service: str, revision: int, now: float) -> bool:
        if revision >= self._revisions.get(service, 0):
            self._behind_since.pop(service, None)
            return False
        if now - self._behind_since.setdefault(service, now) < SETBACK_SECONDS:
            return True
        del self._behind_since[service]
        return False

    def _put_all(self, instances: Iterable[Instance], now: float) -> str:
        verdicts = [self._put(_registration(instance), now) for instance in instances]
        refused = verdicts.count(Verdict.FULL)
        return f"{refused} instances find no room; follow fewer services" if refused else ""

    def _put(self, registration: Registration, now: float) -> Verdict:
        verdict = self.leases.register(registration, now)
        if verdict in (Verdict.CREATED, Verdict.CHANGED, Verdict.RENEWED):
            self._ids.setdefault(registration.service, set()).add(registration.id)
        return verdict

    def _ended(self, service: str, gone: Gone) -> Key | None:
        """Drops who has left deliberately; the key of who was given up. A tombstone that nobody knows says nothing."""
        key = (service, gone.id)
        lease = self.leases.get(key)
        if lease is None or gone.epoch < lease.registration.epoch:
            return None
        if gone.final or lease.registration.state is not State.UP:
            self._drop(key, final=gone.final)
            return None
        return key

    def _drop(self, key: Key, *, final: bool) -> None:
        self.leases.deregister(key, final=final)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        service, name = key
        found = self._ids.get(service, set())
        found.discard(name)
        if not found:
            self._ids.pop(service, None)

    def _is_suspect(self, key: Key) -> bool:
        lease = self.leases.get(key)
        return lease is not None and lease.suspect


def _registration(instance: Instance) -> Registration:
    return Registration(
        instance.service,
        instance.id,
        instance.address,
        instance.epoch,
        0.0,
        instance.state,
        instance.metadata,
        "pilot",
    )


def _doubted(keys: Collection[Key], why: str) -> str:
    if not keys:
        return ""
    services = ", ".join(sorted({service for service, _ in keys})[:5])
    return f"{len(keys)} instances of {services} {why}; used until probes fail"


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))
