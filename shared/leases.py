"""Who is registered, until when, and which incarnation of an instance counts.

Rules:
- An instance is (service, id). Each start of it has a greater **epoch**: an older epoch can neither renew nor
  deregister a newer one, also after the newer one has left.
- A lease that is not renewed within its TTL is evicted, except where eviction would harm more than it helps. Then it
  becomes a *suspect*: it stays published until it is renewed, deregistered, or failed probes confirm that it is gone.
  - the last instance of a service is never evicted by time alone;
  - when more than 15 % of the leases vanish in one window, the fault is more likely ours or the network's, and eviction
    stops (Eureka's self-preservation). One lease a window may always go, or small registries would keep every corpse.
- An instance that said it is DRAINING, DOWN or STARTING is evicted by time without ado. So is one that is by way of a
  Central (`detours.py`), which is never doubted either, and counts in none of these rules.
- Time that this process did not run does not count against a lease: nobody could renew. Who has renewed since has a
  whole TTL, and no more.

What is asked of all leases at once is counted as they change, and a lease is looked at when it may be due: 100 000 of
them cost no more each second than those that are.

No clock, no I/O: `now` is in seconds of a monotonic clock. Refused: wall-clock expiry dates (they jump), and a
heartbeat counter instead of epochs (it cannot tell a zombie from its successor).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from pannier.shared.detours import is_detour
from pannier.shared.instances import Key, State

CAPACITY = 4096
WINDOW_SECONDS = 15.0
PRESERVED_FRACTION = 0.15
PAUSE_SECONDS = 2.0
_FLOORS = 4 * CAPACITY


class Verdict(StrEnum):
    """What became of a registration or deregistration."""

    CREATED = "created"
    CHANGED = "changed"
    RENEWED = "renewed"
    REMOVED = "removed"
    STALE = "stale"
    UNKNOWN = "unknown"
    FULL = "full"

    @property
    def changes(self) -> bool:
        """Whether what is published may differ now."""
        return self in (Verdict.CREATED, Verdict.CHANGED, Verdict.REMOVED)


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says about itself. `ttl` in seconds; `address` is `host:port` or `unix:/path`."""

    service: str
    id: str
    address: str
    epoch: int
    ttl: float
    state: State = State.UP
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Literal["lease", "registry", "pilot"] = "lease"

    @property
    def key(self) -> Key:
        return (self.service, self.id)

    @property
    def is_detour(self) -> bool:
        """Whether it is another instance by way of a Central."""
        return is_detour(self.metadata)


@dataclass(frozen=True, slots=True)
class Lease:
    """A registration in force. `suspect`: overdue at `expires`, kept because eviction was refused."""

    registration: Registration
    expires: float
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Expiry:
    """What one look at the clock did: the keys evicted, the keys newly suspected, the pause that was forgiven (s)."""

    evicted: tuple[Key, ...] = ()
    suspected: tuple[Key, ...] = ()
    forgiven: float = 0.0


class Leases:
    """All leases of one sidecar, and the lowest epoch that each instance may still use (oldest forgotten first)."""

    def __init__(self, now: float, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._leases: dict[Key, Lease] = {}
        self._suspects: dict[Key, None] = {}
        self._detours = 0
        self._steady: dict[str, int] = {}  # how many of a service are UP, and nobody doubts them
        self._slots: dict[int, dict[Key, None]] = {}  # whom to look at in which second, or later
        self._slot: dict[Key, int] = {}
        self._floors: OrderedDict[Key, int] = OrderedDict()
        self._evictions: deque[float] = deque()
        self._preserving = False
        self._looked = now

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def __repr__(self) -> str:
        mode = " PRESERVING" if self._preserving else ""
        return f"<Leases {len(self._leases)} held, {len(self._suspects)} suspect{mode}>"

    @property
    def preserving(self) -> bool:
        """True while eviction is stopped because too many renewals vanished at once."""
        return self._preserving

    def get(self, key: Key) -> Lease | None:
        return self._leases.get(key)

    def suspects(self) -> tuple[Lease, ...]:
        return tuple(self._leases[key] for key in self._suspects)

    def next_epoch(self, key: Key) -> int:
        """The lowest epoch that a new incarnation of `key` may use."""
        lease = self._leases.get(key)
        return max(self._floors.get(key, 1), lease.registration.epoch + 1 if lease else 1)

    def register(self, registration: Registration, now: float) -> Verdict:
        """Registers or renews. STALE: an older epoch, or the epoch in force from another address. FULL: no room."""
        key = registration.key
        held = self._leases.get(key)
        if registration.epoch < self._floor(key) or (
            held and registration.epoch == held.registration.epoch and registration.address != held.registration.address
        ):
            return Verdict.STALE
        if held is None and len(self._leases) >= self._capacity:
            return Verdict.FULL
        self._hold(Lease(registration, now + registration.ttl))
        self._calm()
        if held is None:
            return Verdict.CREATED
        return Verdict.RENEWED if held.registration == registration else Verdict.CHANGED

    def deregister(self, key: Key, epoch: int | None = None, *, final: bool = True) -> Verdict:
        """A deliberate end, by `epoch` or a newer one (None: whatever is in force).

        If it is `final`, that epoch never comes back, so that a delayed renewal does not resurrect the instance.
        """
        held = self._leases.get(key)
        if held is None:
            return Verdict.UNKNOWN
        if epoch is not None and epoch < held.registration.epoch:
            return Verdict.STALE
        self._end(key, floor=max(epoch or 0, held.registration.epoch) + final)
        self._calm()
        return Verdict.REMOVED

    def forget(self, key: Key) -> None:
        """It is timed no more, and nothing is remembered of it: somebody else decides about its epochs."""
        if key in self._leases:
            self._drop(key)
        self._floors.pop(key, None)
        self._calm()

    def confirm_gone(self, key: Key) -> bool:
        """Failed probes confirm a suspect: it is evicted. False if it was renewed in the meantime."""
        held = self._leases.get(key)
        if held is None or not held.suspect:
            return False
        self._end(key, floor=held.registration.epoch)
        self._calm()
        return True

    def suspect(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        """Doubts leases whose source lost them without saying why; returns those that were not doubted before.
        Detours are not."""
        doubted = tuple(key for key in keys if (lease := self._leases.get(key)) is not None and _may_be_doubted(lease))
        for key in doubted:
            self._hold(replace(self._leases[key], suspect=True))
        return doubted

    def expire(self, now: float) -> Expiry:
        """Evicts what is overdue, or suspects it where the rules above forbid eviction. Call at least each second."""
        forgiven = self._forgive_pause(now)
        while self._evictions and self._evictions[0] <= now - WINDOW_SECONDS:
            self._evictions.popleft()
        overdue = self._overdue(now)
        missed: list[Key] = []
        evicted: list[Key] = []
        for registration in overdue:
            if registration.state is State.UP and not registration.is_detour:
                missed.append(registration.key)
            else:
                evicted.append(registration.key)
                self._end(registration.key, floor=registration.epoch)
        if len(missed) + len(self._evictions) > max(1, _tolerated(self._instances + len(self._evictions))):
            self._preserving = True
        for key in missed:
            if not self._preserving and not self._last_of_service(key):
                self._end(key, floor=self._leases[key].registration.epoch)
                self._evictions.append(now)
                evicted.append(key)
        return Expiry(tuple(evicted), self.suspect(missed), forgiven)

    def _forgive_pause(self, now: float) -> float:
        gap, self._looked = now - self._looked, now
        if gap <= PAUSE_SECONDS:
            return 0.0
        for key, lease in self._leases.items():
            self._leases[key] = replace(lease, expires=min(lease.expires + gap, now + lease.registration.ttl))
        return gap

    def _overdue(self, now: float) -> Sequence[Registration]:
        """Who is overdue and was not before, longest first."""
        found: list[Lease] = []
        for slot in sorted(slot for slot in self._slots if slot <= now):
            for key in self._slots.pop(slot):
                lease = self._leases[key]
                del self._slot[key]
                if lease.suspect:
                    continue
                if lease.expires <= now:
                    found.append(lease)
                else:
                    self._look_at(lease)
        return [lease.registration for lease in sorted(found, key=lambda lease: lease.expires)]

    def _look_at(self, lease: Lease) -> None:
        """At the latest when it is due; who is looked at earlier stays there, so that a renewal moves nothing."""
        key, slot = lease.registration.key, int(lease.expires)
        before = self._slot.get(key)
        if before is not None and before <= slot:
            return
        if before is not None:
            self._slots[before].pop(key)
        self._slots.setdefault(slot, {})[key] = None
        self._slot[key] = slot

    @property
    def _instances(self) -> int:
        return len(self._leases) - self._detours

    def _last_of_service(self, key: Key) -> bool:
        return self._steady.get(key[0], 0) <= _is_steady(self._leases[key])

    def _hold(self, lease: Lease) -> None:
        key = lease.registration.key
        before = self._leases.get(key)
        self._leases[key] = lease
        self._detours += lease.registration.is_detour - (before is not None and before.registration.is_detour)
        steady = _is_steady(lease) - (before is not None and _is_steady(before))
        if steady:
            self._count(key[0], steady)
        if lease.suspect:
            self._suspects[key] = None
        else:
            self._suspects.pop(key, None)
            self._look_at(lease)

    def _drop(self, key: Key) -> None:
        lease = self._leases.pop(key)
        self._detours -= lease.registration.is_detour
        self._suspects.pop(key, None)
        slot = self._slot.pop(key, None)
        if slot is not None:
            del self._slots[slot][key]
        if _is_steady(lease):
            self._count(key[0], -1)

    def _count(self, service: str, more: int) -> None:
        """So many more of a service are UP, and nobody doubts them."""
        steady = self._steady.pop(service, 0) + more
        if steady:
            self._steady[service] = steady

    def _floor(self, key: Key) -> int:
        held = self._leases.get(key)
        return max(self._floors.get(key, 0), held.registration.epoch if held else 0)

    def _end(self, key: Key, *, floor: int) -> None:
        self._drop(key)
        self._floors[key] = max(floor, self._floors.pop(key, 0))
        while len(self._floors) > _FLOORS:
            self._floors.popitem(last=False)

    def _calm(self) -> None:
        if self._preserving and len(self._suspects) <= max(1, _tolerated(self._instances)):
            self._preserving = False


def _is_steady(lease: Lease) -> bool:
    return lease.registration.state is State.UP and not lease.suspect and not lease.registration.is_detour


def _may_be_doubted(lease: Lease) -> bool:
    return not lease.suspect and not lease.registration.is_detour


def _tolerated(expected: int) -> int:
    return int(PRESERVED_FRACTION * expected)
