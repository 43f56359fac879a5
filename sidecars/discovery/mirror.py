"""What a pilot says of the services that are followed, as leases that only it ends. Pure: messages in, leases out.

Rules:
- Only a greater (epoch, revision) counts. A pilot that says what is older than what is known is not believed, unless it
  says that its store was set back, or has said it for `PATIENCE_SECONDS`: then there is no other.
- Who has left deliberately is gone at once. Who was given up is gone as well, unless that takes more than half of those
  of a service who are up, within a window: then they are *suspects*, which stay until their renewal, their deliberate
  end, or failed probes, and no end that was not deliberate. So nobody is left without an endpoint because somebody's
  heartbeats were lost.
- Who is missing in what is told anew is a suspect, too, and is asked about: a list may be empty for many reasons, and
  an end leaves a tombstone. So is whom the pilot itself doubts.
- Where somebody else is up, a suspect is not: his address was given away, and probes would find the other one.
- An instance by way of a Central (`detours.py`) is none of this: who is missing, given up or doubted is gone, and in no
  number above. With nobody who tends them, all of them are dropped after a while (`drop_detours`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeVar

import msgspec
from pannier.shared.instances import EVERY, Key, State
from pannier.shared.leases import WINDOW_SECONDS, Lease, Leases, Registration, Verdict
from pannier.shared.pilot_stream import Changed, Current, Found, Gone, Instance, Told

CAPACITY: Final = 16_384
PATIENCE_SECONDS: Final = 15.0
STAGED_FRACTION: Final = 0.5


class Heard(msgspec.Struct, frozen=True):
    """What follows from a message: whether endpoints may differ now, who is to be asked about, and what an operator
    should know, if anything. `old`: the pilot said what is older than what is known, and is to be asked again."""

    changed: bool = False
    missing: tuple[Key, ...] = ()
    alarm: str = ""
    old: bool = False


class _Window(msgspec.Struct):
    """How many of a service were up when it began, and how many were dropped since."""

    since: float
    up: int
    dropped: int = 0


class Mirror:
    """The followed part of a pilot. `leases` never expire by time: the pilot tends them."""

    def __init__(self, now: float, *, capacity: int = CAPACITY) -> None:
        self.leases = Leases(now, capacity=capacity)
        self._ids: dict[str, set[str]] = {}
        self._at: dict[str, set[Key]] = {}  # by address
        self._revisions: dict[str, int] = {}
        self._old_since: dict[str, float] = {}
        self._windows: dict[str, _Window] = {}
        self._detours: set[Key] = set()
        self._partial: set[str] = set()  # services of which something was dropped that was said

    def restore(self, registrations: Iterable[Registration], now: float) -> None:
        """What was known before a restart."""
        for registration in registrations:
            self._put(registration, now)

    @property
    def services(self) -> Collection[str]:
        """Those of which somebody is known."""
        return self._ids.keys()

    def known(self, services: Collection[str]) -> dict[str, int]:
        """The revision up to which each is known; 0 for `EVERY`, since a part of it may have been missed."""
        whole = self._partial.isdisjoint
        return {name: self._revisions.get(name, 0) if name != EVERY and whole([name]) else 0 for name in services}

    def connected(self) -> None:
        """From now on it may be another pilot that speaks."""
        self._old_since.clear()

    def told(self, message: Told, now: float) -> Heard:
        """All of a service."""
        service = message.service
        if (
            message.revision < self._revisions.get(service, 0)
            and not message.anew
            and not self._out_of_patience(service, now)
        ):
            return Heard(old=True)
        set_back = message.revision < self._revisions.get(service, 0)
        self._old_since.pop(service, None)
        self._revisions[service] = message.revision
        self._partial.discard(service)
        told = {instance.id for instance in message.instances}
        missing = [(service, name) for name in self._ids.get(service, set()) - told]
        full = self._put_all(message.instances, now, set_back=set_back)
        doubted = self._suspect(missing)
        left = tuple(key for key in missing if self.leases.get(key) is not None)
        return Heard(True, left, _joined(full, _doubted(doubted, "are not told of any more")))

    def changed(self, message: Changed, now: float) -> Heard:
        """What has become of a service."""
        if message.revision < self._revisions.get(message.service, 0):
            return Heard(old=True)
        self._old_since.pop(message.service, None)
        self._revisions[message.service] = message.revision
        return self._take(message.service, message.instances, message.gone, now)

    def found(self, message: Found, now: float) -> Heard:
        """What has become of those who were asked about."""
        return self._take(message.service, message.instances, message.gone, now)

    def current(self, message: Current) -> Heard:
        """Everything that is followed has been told; the services that are not there any more are missing."""
        if message.services is None:
            return Heard()
        vanished = self._ids.keys() - set(message.services)
        missing = [(service, name) for service in vanished for name in self._ids[service]]
        doubted = self._suspect(missing)
        left = tuple(key for key in missing if self.leases.get(key) is not None)
        return Heard(bool(doubted) or len(left) < len(missing), left, _doubted(doubted, "are not told of any more"))

    def doubt(self, key: Key) -> None:
        """This host has reason to: it is probed."""
        self._suspect([key])

    def confirm_gone(self, key: Key) -> bool:
        """Failed probes confirm a suspect; False if it was renewed meanwhile."""
        lease = self.leases.get(key)
        gone = self.leases.confirm_gone(key)
        if gone and lease is not None:
            self._forget(lease.registration)
        return gone

    def drop_detours(self) -> bool:
        """No pilot answers, and for how much they are to be used nobody can say any more; whether there were any."""
        dropped = tuple(self._detours)
        for key in dropped:
            self._partial.add(key[0])
            self._drop(key, final=False)
        return bool(dropped)

    def _out_of_patience(self, service: str, now: float) -> bool:
        return now - self._old_since.setdefault(service, now) >= PATIENCE_SECONDS

    def _take(self, service: str, instances: Sequence[Instance], gone: Sequence[Gone], now: float) -> Heard:
        full = self._put_all(instances, now)
        given_up = [key for one in gone if (key := self._ended(service, one)) is not None and not self._is_suspect(key)]
        window = self._windows.get(service)
        if window is None or now - window.since >= WINDOW_SECONDS:
            window = self._windows[service] = _Window(now, self._up(service))
        if window.dropped + len(given_up) > STAGED_FRACTION * window.up:
            doubted = self._suspect(given_up)
            return Heard(True, alarm=_joined(full, _doubted(doubted, "were given up at once")))
        window.dropped += len(given_up)
        for key in given_up:
            self._drop(key, final=False)
        return Heard(True, alarm=full)

    def _up(self, service: str) -> int:
        leases = (self.leases.get((service, name)) for name in self._ids.get(service, ()))
        return sum(one is not None and _counts(one) for one in leases)

    def _put_all(self, instances: Iterable[Instance], now: float, *, set_back: bool = False) -> str:
        refused = 0
        for instance in instances:
            registration = _registration(instance)
            if set_back:
                self._forget_newer(registration)
            refused += self._put(registration, now) is Verdict.FULL
            if instance.suspect:
                self._suspect([registration.key])
        return f"{refused} instances find no room; follow fewer services" if refused else ""

    def _forget_newer(self, registration: Registration) -> None:
        """Epochs count from 1 again in a store that was set back."""
        lease = self.leases.get(registration.key)
        if lease is not None and lease.registration.epoch > registration.epoch:
            self._forget(lease.registration)
        if self.leases.next_epoch(registration.key) > registration.epoch:
            self.leases.forget(registration.key)

    def _put(self, registration: Registration, now: float) -> Verdict:
        lease = self.leases.get(registration.key)
        held = lease.registration if lease is not None else None
        if held is not None and held.epoch == registration.epoch and held.address != registration.address:
            self._drop(held.key, final=False)  # it was given up, and came back elsewhere
        verdict = self.leases.register(registration, now)
        if verdict in (Verdict.CREATED, Verdict.CHANGED, Verdict.RENEWED):
            if held is not None and held.address != registration.address:
                self._left(held)
            self._ids.setdefault(registration.service, set()).add(registration.id)
            if registration.is_detour:  # a Central is where it says, whoever is by way of it
                self._detours.add(registration.key)
                return verdict
            self._detours.discard(registration.key)
            there = self._at.setdefault(registration.address, set())
            there.add(registration.key)
            if len(there) > 1 and registration.state is State.UP:
                for other in [key for key in there if key != registration.key and self._is_suspect(key)]:
                    self._drop(other, final=False)
        return verdict

    def _suspect(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        """Doubts these, less those whose address somebody else has. Detours are dropped, and nobody is told."""
        keys = tuple(keys)
        for key in keys:
            if key in self._detours:
                self._drop(key, final=False)
        doubted = self.leases.suspect(keys)
        for key in doubted:
            lease = self.leases.get(key)
            if lease is not None and any(self._is_up(other) for other in self._at.get(lease.registration.address, ())):
                self._drop(key, final=False)
        return doubted

    def _ended(self, service: str, gone: Gone) -> Key | None:
        """Drops who has left deliberately; the key of who was given up. A tombstone that nobody knows says nothing."""
        key = (service, gone.id)
        lease = self.leases.get(key)
        if lease is None or gone.epoch < lease.registration.epoch:
            return None
        if gone.final or lease.registration.state is not State.UP or key in self._detours:
            self._drop(key, final=gone.final)
            return None
        return key

    def _drop(self, key: Key, *, final: bool) -> None:
        lease = self.leases.get(key)
        self.leases.deregister(key, final=final)
        if lease is not None:
            self._forget(lease.registration)

    def _forget(self, registration: Registration) -> None:
        self._left(registration)
        self._detours.discard(registration.key)
        _discard(self._ids, registration.service, registration.id)

    def _left(self, registration: Registration) -> None:
        _discard(self._at, registration.address, registration.key)

    def _is_suspect(self, key: Key) -> bool:
        lease = self.leases.get(key)
        return lease is not None and lease.suspect

    def _is_up(self, key: Key) -> bool:
        lease = self.leases.get(key)
        return lease is not None and _counts(lease)


def _counts(lease: Lease) -> bool:
    """Whether it is one of those who can be called."""
    return not lease.suspect and not lease.registration.is_detour and lease.registration.state is State.UP


T = TypeVar("T")


def _discard(sets: dict[str, set[T]], name: str, item: T) -> None:
    found = sets.get(name, set())
    found.discard(item)
    if not found:
        sets.pop(name, None)


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
