"""What one client follows of one type, what it has been told of it, and what it has said to that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pannier.sidecars.pilot.xds.resources import Resource, Response, Type

ABSENT: Final = ""
"""The version of what a client has been told not to exist."""
UNSURE: Final = "?"
"""The version of what a client may have taken, or not: it was in a response of several that was rejected."""
PARTS: Final = 8
"""Into so many is a response divided that was rejected, to find out what of it the client does not take."""
MADE_AT_ONCE: Final = 200
"""Resources that are made for one look; there are others who wait."""
BACK_OFF_SECONDS: Final = 0.1
MAX_BACK_OFF_SECONDS: Final = 10.0
ERROR_LETTERS: Final = 512


class Offer(Protocol):
    """What a client could be told now. `made` counts what had to be made for that, which takes its time."""

    @property
    def made(self) -> int: ...

    def names(self, kind: Type) -> Collection[str]:
        """All there is for who asks for all."""

    def get(self, kind: Type, name: str) -> Resource | None:
        """None: there is no such thing."""


@dataclass(slots=True)
class Difference:
    """Between what is and what a client knows. `absent` are names that it asks for and that do not exist; `removed` do
    not exist any more. `owed`: it is to be told even that there is nothing; `more`: not all was looked at."""

    told: list[Resource] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    owed: bool = False
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.told or self.absent or self.removed or self.owed or self.more)


class Topic:
    """`names` are followed, or all there is (`wildcard`); `edition` is another whenever `names` are. One response at a
    time is under way: what changes meanwhile is told by the next one, at its newest. `divisible`: a response need not
    have all there is."""

    def __init__(self, kind: Type, *, divisible: bool = True) -> None:
        self.kind = kind
        self.divisible = divisible
        self.names: set[str] = set()
        self.edition = 0
        self.wildcard = False
        self.known: dict[str, Resource] = {}
        self.outstanding: Response | None = None
        self.since = 0.0  # the outstanding one was sent
        self.not_before = 0.0
        self.sent = self.acked = self.nacked = self.ignored = 0
        self.error = ""  # of what it rejects still
        self.version = ""  # that was accepted last
        self._rejected: dict[str, str] = {}
        self._parts: dict[str, int] = {}  # are told with no more than so many, since a larger response was rejected
        self._was_part = False
        self._asked: set[str] = set()  # are answered also if nothing has changed
        self._stale: set[str] = set()  # may have changed
        self._all_stale = False
        self._owed = False  # an answer, although it may be empty: who has asked for all there is waits for one
        self._nacks = 0  # one after the other

    @property
    def dirty(self) -> bool:
        return bool(self._all_stale or self._asked or self._stale or self._owed)

    @property
    def rejects(self) -> bool:
        """Whether the client has something older than what there is, and will keep it."""
        return bool(self._rejected)

    def follows(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def subscribe(self, names: Iterable[str]) -> None:
        """They are told next, whatever is known of them."""
        for name in names:
            self.edition += name not in self.names
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
            self.edition += name in self.names
            self.names.discard(name)
            if not self.wildcard:
                self._forget(name)
            elif name in self.known:
                self._asked.add(name)
            else:
                self._asked.discard(name)

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

    def ask_again(self, name: str) -> None:
        """To be told although nothing of it has changed, if the client follows it."""
        if self.follows(name):
            self._asked.add(name)

    def difference(self, offer: Offer) -> Difference:
        """What there is to tell. What is found to be no news is not looked at again until it is touched."""
        found = Difference(owed=self._owed)
        if not self.dirty:
            return found
        before = offer.made
        there = offer.names(self.kind) if self.wildcard else ()
        if self._all_stale:
            self._stale.update(there, self.names, self.known)
            self._all_stale = False
        for name in sorted(self._stale | self._asked):
            current = offer.get(self.kind, name) if name in self.names or name in there else None
            told = self.known.get(name)
            found.more = offer.made - before >= MADE_AT_ONCE
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
            if found.more:
                break
        return found

    def portion(self, told: Sequence[Resource]) -> Sequence[Resource]:
        """What of it goes into one response. Parts of what was rejected and what is new take turns."""
        parted = [one for one in told if one.name in self._parts]
        if not parted or (self._was_part and len(parted) < len(told)):
            return [one for one in told if one.name not in self._parts]
        most = self._parts[parted[0].name]
        return [one for one in parted if self._parts[one.name] == most][:most]

    def tell(self, response: Response, gone: Iterable[str], now: float) -> None:
        """It is sent. `gone` are names that the client knows not to exist from now on."""
        self._was_part = any(one.name in self._parts for one in response.resources)
        for one in response.resources:
            self.known[one.name] = one
            self._told(one.name)
        self.tell_gone(gone)
        self.outstanding, self.since = response, now
        self._owed = False
        self.sent += 1

    def tell_gone(self, names: Iterable[str]) -> None:
        """The client knows these not to exist, or will never be told."""
        for name in names:
            self._told(name)
            if name in self.names:
                self.known[name] = Resource(name, ABSENT)
            else:
                self.known.pop(name, None)

    def answer(self, error: str | None, now: float) -> Collection[str]:
        """The client has accepted the outstanding response, or not: then what is sent next waits for the longer, the
        more were rejected in a row. A single resource is not sent again until it is another. Several are sent again in
        parts, since a client may stop at the first that it does not take: their names are returned."""
        response, self.outstanding = self.outstanding, None
        assert response is not None, "there is one to answer"
        if error is None:
            self.acked += 1
            self._nacks, self.not_before = 0, 0.0
            self.version = response.version
            if not self._rejected and not self._parts:
                self.error = ""
            return ()
        self.nacked += 1
        self.error = error[:ERROR_LETTERS]
        self.not_before = now + min(BACK_OFF_SECONDS * 2.0 ** min(self._nacks, 30), MAX_BACK_OFF_SECONDS)
        self._nacks += 1
        said = [one for one in response.resources if one.name in self.known]
        if not self.divisible or len(response.resources) == 1:
            self._rejected.update((one.name, one.version) for one in said)
            return ()
        for one in said:
            self.known[one.name] = replace(one, version=UNSURE)
            self._parts[one.name] = max(1, len(response.resources) // PARTS)
            self._stale.add(one.name)
        return {one.name for one in said}

    def _is_news(self, current: Resource, told: Resource | None) -> bool:
        if self._rejected.get(current.name) == current.version:
            return False
        return told is None or told.version != current.version

    def _told(self, name: str) -> None:
        self._rejected.pop(name, None)
        self._parts.pop(name, None)
        self._asked.discard(name)
        self._stale.discard(name)

    def _forget(self, name: str) -> None:
        self.known.pop(name, None)
        self._told(name)
