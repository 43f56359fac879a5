"""What is stored of an instance, and what may replace it. Pure: the epoch rules of the pilot, all of them.

An instance is one item of the store, (service, id). Each life of it has a greater **epoch**. So whatever an older life
still says, late or again, finds a greater epoch and changes nothing: neither its registration nor its renewal, its
draining or its end. A life that has ended leaves a tombstone with its epoch, or a late word of it would find nothing in
its way.

- A *deliberate* end is final: that epoch never comes back. One that was only given up for dead may, since it is alive.
- One epoch is one address: who comes with the epoch in force and another address is a second life that has lost count.

Because every decision is about one item, a store need only compare and swap, and no store can get this wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec
from pannier.shared.detours import is_detour
from pannier.shared.instances import Key, State

PREFIX: Final = "instances/"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of an item: a life that is in force, which renews within `ttl_ms` with `pilot` (`doubted`: that one has
    missed it for long), or what is left of the last one (`gone`, since `gone_ms` after the epoch of the clock; `final`:
    it was deliberate)."""

    epoch: int
    address: str = ""
    state: State = State.UP
    ttl_ms: int = 0
    metadata: Mapping[str, str] = {}
    pilot: str = ""
    doubted: bool = False
    gone: bool = False
    gone_ms: int = 0
    final: bool = False

    @property
    def is_detour(self) -> bool:
        """Whether it is another instance by way of a Central."""
        return is_detour(self.metadata)


class Verdict(StrEnum):
    """What became of a request."""

    CREATED = "created"
    CHANGED = "changed"
    RENEWED = "renewed"
    REMOVED = "removed"
    STALE = "stale"
    UNKNOWN = "unknown"

    @property
    def accepted(self) -> bool:
        return self not in {Verdict.STALE, Verdict.UNKNOWN}


class Decision(msgspec.Struct, frozen=True):
    """`write` is what replaces the entry; None: it stays."""

    verdict: Verdict
    write: Entry | None = None


def key_of(instance: Key) -> str:
    """The key of an instance's item."""
    service, name = instance
    return f"{PREFIX}{service}/{name}"


def instance_of(key: str) -> Key:
    """The instance whose item has that key."""
    service, _, name = key.removeprefix(PREFIX).partition("/")
    return service, name


def next_epoch(held: Entry | None) -> int:
    """The least epoch that a new life may have."""
    return 1 if held is None else held.epoch + 1


def register(held: Entry | None, asked: Entry) -> Decision:
    """A life says that it is there, for the first time or again."""
    if held is None or asked.epoch > held.epoch:
        return Decision(Verdict.CREATED if held is None or held.gone else Verdict.CHANGED, asked)
    if asked.epoch < held.epoch or held.final or (asked.address != held.address and not held.gone):
        return Decision(Verdict.STALE)
    if held.gone:
        return Decision(Verdict.CREATED, asked)
    return Decision(Verdict.RENEWED) if asked == held else Decision(Verdict.CHANGED, asked)


def move(held: Entry | None, epoch: int, state: State) -> Decision:
    """A life says where it stands."""
    if held is None or held.gone or epoch > held.epoch:
        return Decision(Verdict.UNKNOWN if held is None or epoch >= held.epoch else Verdict.STALE)
    if epoch < held.epoch:
        return Decision(Verdict.STALE)
    if state is held.state and not held.doubted:
        return Decision(Verdict.RENEWED)
    return Decision(Verdict.CHANGED, msgspec.structs.replace(held, state=state, doubted=False))


def leave(held: Entry | None, epoch: int) -> Decision:
    """A life says that it ends, deliberately."""
    if held is not None and epoch < held.epoch:
        return Decision(Verdict.STALE)
    if held is not None and held.final and epoch == held.epoch:
        return Decision(Verdict.UNKNOWN)
    if held is None or held.gone or epoch > held.epoch:
        return Decision(Verdict.UNKNOWN, Entry(epoch, gone=True, final=True))
    return Decision(Verdict.REMOVED, Entry(epoch, gone=True, final=True))


def take_over(held: Entry | None, before: str, pilot: str) -> Decision:
    """Another pilot tends a life from now on, since the one before has gone."""
    if held is None or held.gone or held.pilot != before:
        return Decision(Verdict.UNKNOWN)
    return Decision(Verdict.CHANGED, msgspec.structs.replace(held, pilot=pilot, doubted=False))


def doubt(held: Entry | None, epoch: int, pilot: str) -> Decision:
    """The pilot that tends a life has missed it for long, and says so to the others before it does anything."""
    if held is None or held.gone or epoch != held.epoch or pilot != held.pilot:
        return Decision(Verdict.UNKNOWN)
    return Decision(Verdict.CHANGED, msgspec.structs.replace(held, doubted=True))


def give_up(held: Entry | None, epoch: int, pilot: str) -> Decision:
    """The pilot that tends a life has not heard of it for too long."""
    if held is None or held.gone or epoch != held.epoch or pilot != held.pilot:
        return Decision(Verdict.UNKNOWN)
    return Decision(Verdict.REMOVED, Entry(epoch, gone=True))
