"""What one client follows of one type, what it has been told of it, and what it has said to that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pannier.sidecars.pilot.xds.resources import Resource, Response, Type

ABSENT: Final = ""
"""The version of what a client has been told not to exist."""
BACK_OFF_SECONDS: Final = 0.1
MAX_BACK_OFF_SECONDS: Final = 10.0
ERROR_LETTERS: Final = 512


class Offer(Protocol):
    """What a client could be told now."""

    def names(self, kind: Type) -> Collection[str]:
        """All there is for who asks for all."""

    def get(self, kind: Type, name: str) -> Resource | None:
        """None: there is no such thing."""


@dataclass(slots=True)
class Difference:
    """Between what is and what a client knows. `absent` are names that it asks for and that do not exist; `removed` do
    not exist any more. `owed`: it is to be told even that there is nothing."""

    told: list[Resource] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    owed: bool = False

    def __bool__(self) -> bool:
        return bool(self.told or self.absent or self.removed or self.owed)


class Topic:
    """`names` are followed, or all there is (`wildcard`). One response at a time is under way: what changes meanwhile
    is told by the next one, at its newest."""

    def __init__(self, kind: Type) -> None:
        self.kind = kind
        self.names: set[str] = set()
        self.wildcard = False
        self.known: dict[str, Resource] = {}
        self.outstanding: Response | None = None
        self.since = 0.0  # the outstanding one was sent
        self.not_before = 0.0
        self.sent = self.acked = self.nacked = self.ignored = 0
        self.error = ""
        self.version = ""  # that was accepted last
        self._rejected: dict[str, str] = {}
        self._asked: set[str] = set()  # are answered also if nothing has changed
        self._stale: set[str] = set()  # may have changed
        self._all_stale = False
        self._owed = False  # an answer, although it may be empty: who has asked for all there is waits for one
        self._nacks = 0  # one after the other

    @property
    def dirty(self) -> bool:
        return bool(self._all_stale or self._asked or self._stale or self._owed)

    def follows(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def subscribe(self, names: Iterable[str]) -> None:
        """They are told next, whatever is known of them."""
        for name in names:
            self.names.add(name)
            self._asked.add(name)

    def resume(self, versions: Iterable[tuple[str, str]]) -> None:
        """What the client has from an earlier stream is not told again unless it has changed."""
        for name, version in versions:
            self.known[name] = Resource(name, version)
            self._asked.discard(name)
            self._stale.add(name)

    def subscribe_all(self) -> None:
        self.wildcard = self._all_stale = self._owed = True

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Of who follows all there is, a name that he gives back is told once more: he may have dropped it."""
        for name in names:
            self.names.discard(name)
            if self.wildcard:
                self._asked.add(name)
            else:
                self._forget(name)

    def unsubscribe_all(self) -> None:
        """The names remain."""
        self.wildcard = False
        for name in self.known.keys() - self.names:
            self._forget(name)

    def touch(self, names: Iterable[str] | None) -> None:
        """These may have changed, or anything."""
        if names is None:
            self._all_stale = True
        else:
            self._stale.update(name for name in names if self.follows(name))

    def ask_again(self, name: str) -> bool:
        """To be told although nothing of it has changed; whether the client follows it at all."""
        if self.follows(name):
            self._asked.add(name)
        return self.follows(name)

    def difference(self, offer: Offer) -> Difference:
        """What there is to tell. What is found to be no news is not looked at again until it is touched."""
        found = Difference(owed=self._owed)
        there = offer.names(self.kind) if self.wildcard else ()
        if self._all_stale:
            self._stale.update(there, self.names, self.known)
            self._all_stale = False
        for name in sorted(self._stale | self._asked):
            current = offer.get(self.kind, name) if name in self.names or name in there else None
            told = self.known.get(name)
            if current is None and not self.follows(name):
                self._forget(name)
            elif current is None and told is not None and told.version != ABSENT:
                found.removed.append(name)
            elif current is None and name in self._asked:
                found.absent.append(name)
            elif current is not None and (name in self._asked or self._is_news(current, told)):
                found.told.append(current)
            else:
                self._stale.discard(name)
        return found

    def tell(self, response: Response, gone: Iterable[str], now: float) -> None:
        """It is sent. `gone` are names that the client knows not to exist from now on."""
        for one in response.resources:
            self.known[one.name] = one
            self._rejected.pop(one.name, None)
            self._done(one.name)
        self.tell_gone(gone)
        self.outstanding, self.since = response, now
        self._owed = False
        self.sent += 1

    def tell_gone(self, names: Iterable[str]) -> None:
        """The client knows these not to exist, or will never be told."""
        for name in names:
            self._rejected.pop(name, None)
            self._done(name)
            if name in self.names:
                self.known[name] = Resource(name, ABSENT)
            else:
                self.known.pop(name, None)

    def answer(self, error: str | None, now: float) -> None:
        """The client has accepted the outstanding response, or not: then what it contained is not sent again until it
        is another, and what is sent next waits for the longer, the more were rejected in a row."""
        response, self.outstanding = self.outstanding, None
        assert response is not None, "there is one to answer"
        if error is None:
            self.acked += 1
            self._nacks, self.not_before = 0, 0.0
            self.version = response.version
            return
        self.nacked += 1
        self.error = error[:ERROR_LETTERS]
        self.not_before = now + min(BACK_OFF_SECONDS * 2.0 ** min(self._nacks, 30), MAX_BACK_OFF_SECONDS)
        self._nacks += 1
        for one in response.resources:
            self._rejected[one.name] = one.version

    def _is_news(self, current: Resource, told: Resource | None) -> bool:
        if self._rejected.get(current.name) == current.version:
            return False
        return told is None or told.version != current.version

    def _done(self, name: str) -> None:
        self._asked.discard(name)
        self._stale.discard(name)

    def _forget(self, name: str) -> None:
        self.known.pop(name, None)
        self._rejected.pop(name, None)
        self._done(name)
