"""One stream of aggregated discovery as a state machine: requests and changes go in, the next response comes out. Pure.

There are two of them, for the incremental form and for the state of the world. Both keep to this:

- **Make before break.** Clusters are told before their endpoints, both before the routes that use them; routes wait
  until the client has taken the endpoints of every new cluster. What is removed goes the other way: a cluster that has
  gone is told to be gone once the routes and listeners without it are accepted. A client that never says so is waited
  for `GATE_SECONDS`, no longer.
- A cluster that was told anew is warmed anew, while its former self is used: its endpoints follow it, also if they are
  the same. So they are told on each new stream, too: the old one may have ended between the two, and the client does
  not say so.
- One response of a type is under way at a time. Who is slow is told the newest state next, never a backlog.
- What was rejected is not sent again until it is another, once it is known which it is (`topic.py`). A nonce that is
  not of the last response means nothing.
- In the state of the world a response with clusters or listeners has all of them, one with endpoints or routes those
  that have changed.

Refused: a name of the `xdstp:` scheme, an unknown type, too many names. Each ends the stream with an error that says
so, because the protocol has no other place for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pannier.sidecars.pilot.xds.resources import BY_URL, Resource, Response, Type, no_endpoints, version_of
from pannier.sidecars.pilot.xds.topic import ABSENT, Difference, Offer, Topic

GATE_SECONDS: Final = 5.0
MAX_NAMES: Final = 10_000
"""That one client follows of one type by name; and how many it may have from before that there are not any more."""
MAX_LETTERS: Final = 512
RESPONSE_BYTES: Final = 1024 * 1024
"""Of an incremental response, if more than one resource is in it."""
ALL: Final = "*"


class Refused(Exception):
    """The stream ends, since what was asked for cannot be had. `exhausted`: it was too much."""

    def __init__(self, message: str, *, exhausted: bool = False) -> None:
        super().__init__(message)
        self.exhausted = exhausted


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the incremental form. An `error` rejects the response with that nonce."""

    url: str
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AskedAll:
    """A request of the state of the world: all names that are followed."""

    url: str
    names: Sequence[str] = ()
    nonce: str = ""
    error: str | None = None


class Stream:
    """What both forms share. `topics` are those that the client has asked for; `wake_at` is when `next` would say more
    than it did, if nothing else happens before."""

    def __init__(self, offer: Offer) -> None:
        self.topics: dict[Type, Topic] = {}
        self.wake_at = math.inf
        self._offer = offer
        self._nonce = 0
        # Endpoints of clusters that are new to the client → the nonce with which they were told after that, if any.
        self._warming: dict[str, str] = {}
        self._held: dict[Type, float] = {}  # what waits for something else, and since when

    def receive(self, asked: Any, now: float) -> None:
        """A request of this form. Raises Refused."""
        raise NotImplementedError

    def changed(self, kind: Type, names: Iterable[str] | None) -> bool:
        """These may have changed, or anything of the type (None); whether the client follows any of it."""
        topic = self.topics.get(kind)
        if topic is None:
            return False
        topic.touch(names)
        return topic.dirty

    def next(self, now: float) -> Response | None:
        """What is to be sent now; to be asked again until there is nothing."""
        self.wake_at = math.inf
        for kind in Type:
            if (topic := self._ready(kind, now)) is None:
                continue
            difference = topic.difference(self._offer)
            if difference.more and not difference.told:
                self.wake_at = now
            if kind is Type.ROUTES and not self._open(kind, bool(difference), self._settled, now):
                continue
            gone = () if kind in {Type.CLUSTER, Type.ENDPOINTS} else difference.removed
            if difference and (response := self._tell(topic, difference, gone, now)) is not None:
                return response
        for kind in (Type.CLUSTER, Type.ENDPOINTS):
            if (topic := self._ready(kind, now)) is None:
                continue
            difference = topic.difference(self._offer)
            if difference.more:
                continue
            if self._open(kind, bool(difference.removed), partial(self._is_unused, kind), now):
                response = self._tell(topic, difference, difference.removed, now)
                if response is not None:
                    return response
        return None

    def _ready(self, kind: Type, now: float) -> Topic | None:
        """The topic of a type, if something of it may be told now."""
        topic = self.topics.get(kind)
        if topic is None or topic.outstanding is not None:
            return None
        if topic.dirty and topic.not_before > now:
            self.wake_at = min(self.wake_at, topic.not_before)
            return None
        return topic

    def _open(self, kind: Type, wanted: bool, is_ready: Callable[[], bool], now: float) -> bool:
        """Whether there is something to tell that need not wait for something else any longer."""
        if not wanted:
            self._held.pop(kind, None)
            return False
        since = self._held.setdefault(kind, now)
        if is_ready() or now >= since + GATE_SECONDS:
            del self._held[kind]
            if kind is Type.ROUTES:
                self._warming.clear()
            return True
        self.wake_at = min(self.wake_at, since + GATE_SECONDS)
        return False

    def _settled(self) -> bool:
        """Whether every cluster that there is has been told, and has its endpoints."""
        clusters = self.topics.get(Type.CLUSTER)
        missing = Difference() if clusters is None else clusters.difference(self._offer)
        if missing.told or missing.more:
            return False
        for name in [name for name in self._warming if self._offer.get(Type.CLUSTER, name) is None]:
            del self._warming[name]  # nobody waits for the endpoints of what is no more
        return not self._warming

    def _is_unused(self, kind: Type) -> bool:
        """Whether nothing uses any more what is to be removed of a type: what was rejected may."""
        users = (Type.LISTENER, Type.ROUTES) if kind is Type.CLUSTER else (Type.LISTENER, Type.ROUTES, Type.CLUSTER)
        topics = [self.topics[user] for user in users if user in self.topics]
        return not any(topic.outstanding or topic.rejects or topic.difference(self._offer) for topic in topics)

    def _tell(self, topic: Topic, difference: Difference, gone: Collection[str], now: float) -> Response | None:
        raise NotImplementedError

    def _send(
        self, topic: Topic, resources: Sequence[Resource], removed: Sequence[str], gone: Iterable[str], now: float
    ) -> Response:
        self._nonce += 1
        nonce = f"{self._nonce:x}"
        before = {one.name: topic.known.get(one.name) for one in resources}
        asked = self.topics.get(Type.ENDPOINTS)
        response = Response(topic.kind, nonce, version_of(resources), resources, removed)
        topic.tell(response, gone, now)
        if topic.kind is Type.ENDPOINTS:
            for name in removed:
                self._warming.pop(name, None)
        for one in resources:
            if topic.kind is Type.ENDPOINTS and one.name in self._warming:
                self._warming[one.name] = nonce
            if topic.kind is Type.CLUSTER and one.endpoints:
                told = before[one.name]
                if told is None or told.version == ABSENT:
                    self._warming[one.endpoints] = ""
                if (told is None or told.version != one.version) and asked is not None:
                    asked.ask_again(one.endpoints)
        return response

    def _topic(self, url: str, names: Sequence[str]) -> tuple[Topic, bool]:
        """The topic of a request, and whether it is new. Raises Refused."""
        kind = BY_URL.get(url)
        if kind is None:
            raise Refused(f"there are no resources of type {url[:MAX_LETTERS]!r}; there are: {', '.join(BY_URL)}")
        for name in names:
            if name.startswith("xdstp:"):
                raise Refused(f"{name[:MAX_LETTERS]!r}: names of the xdstp scheme are not served; use plain ones")
            if len(name) > MAX_LETTERS:
                raise Refused(f"a name has at most {MAX_LETTERS} letters", exhausted=True)
            if name == ALL and not kind.whole:
                raise Refused(f"{kind.name.lower()} are told by name only, not by {ALL!r}")
        topic = self.topics.get(kind)
        if topic is not None:
            return topic, False
        return self.topics.setdefault(kind, Topic(kind, divisible=self._divides(kind))), True

    def _divides(self, kind: Type) -> bool:
        """Whether a response may have less than all there is."""
        return True

    def _bound(self, names: Collection[str]) -> None:
        if len(names) > MAX_NAMES:
            raise Refused(f"more than {MAX_NAMES} names of one type are followed", exhausted=True)

    def _answered(self, topic: Topic, nonce: str, error: str | None, now: float) -> None:
        if topic.outstanding is None or topic.outstanding.nonce != nonce:
            topic.ignored += 1
            return
        again = topic.answer(error, now)
        if topic.kind is Type.ENDPOINTS:
            for name in [name for name, told in self._warming.items() if told == nonce]:
                if name in again:
                    self._warming[name] = ""
                else:
                    del self._warming[name]


class Delta(Stream):
    """The incremental form."""

    def receive(self, asked: Asked, now: float) -> None:
        """Raises Refused."""
        topic, new = self._topic(asked.url, (*asked.subscribe, *asked.unsubscribe))
        if asked.nonce and not new:
            self._answered(topic, asked.nonce, asked.error, now)
        if ALL in asked.unsubscribe:
            topic.unsubscribe_all()
        topic.unsubscribe([name for name in asked.unsubscribe if name != ALL])
        if ALL in asked.subscribe or (new and not asked.subscribe and topic.kind.whole):
            topic.subscribe_all()
        topic.subscribe(name for name in asked.subscribe if name != ALL)
        self._bound(topic.names)
        if new and topic.kind is not Type.ENDPOINTS:
            self._bound(asked.versions.keys() - self._offer.names(topic.kind) if topic.wildcard else asked.versions)
            topic.resume(asked.versions.items())
        if new and topic.kind is Type.CLUSTER:  # endpoints have their cluster's name
            self._warming.update(dict.fromkeys(asked.versions, ""))

    def _tell(self, topic: Topic, difference: Difference, gone: Collection[str], now: float) -> Response | None:
        removed = [*difference.absent, *gone]
        resources: list[Resource] = []
        size = 0
        for one in topic.portion(difference.told):
            size += len(one.as_delta)
            if resources and size > RESPONSE_BYTES:
                break
            resources.append(one)
        if topic.kind is Type.CLUSTER and (difference.more or len(resources) < len(difference.told)):
            self._held.pop(Type.ROUTES, None)  # it is we who are slow
        if not (resources or removed or difference.owed):
            return None
        return self._send(topic, resources, removed, removed, now)


class StateOfTheWorld(Stream):
    """The form in which a client repeats all that it follows, with each answer."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        self._last: dict[Type, str] = {}
        self._named: set[Type] = set()

    def receive(self, asked: AskedAll, now: float) -> None:
        """Raises Refused."""
        topic, new = self._topic(asked.url, asked.names)
        if not new and asked.nonce != self._last.get(topic.kind, ""):
            topic.ignored += 1
            return
        if topic.outstanding is not None or asked.error is not None:
            self._answered(topic, asked.nonce, asked.error, now)
        names = set(asked.names) - {ALL}
        if ALL in asked.names or (not asked.names and topic.kind.whole and topic.kind not in self._named):
            if not topic.wildcard:
                topic.subscribe_all()
        elif topic.wildcard:
            topic.unsubscribe_all()
        if asked.names:
            self._named.add(topic.kind)
        topic.unsubscribe(topic.names - names)
        topic.subscribe(names - topic.names)
        self._bound(topic.names)

    def _tell(self, topic: Topic, difference: Difference, gone: Collection[str], now: float) -> Response | None:
        if topic.kind.whole:
            return self._tell_whole(topic, difference, gone, now)
        told = list(topic.portion(difference.told))
        if topic.kind is Type.ENDPOINTS:  # a cluster that waits for them would wait in vain
            told += [no_endpoints(name) for name in difference.absent]
        else:
            topic.tell_gone(difference.absent)
        topic.tell_gone(gone)
        return self._send(topic, told, (), (), now) if told else None

    def _divides(self, kind: Type) -> bool:
        return not kind.whole

    def _tell_whole(self, topic: Topic, difference: Difference, gone: Collection[str], now: float) -> Response | None:
        """All there is, and what is to be removed but is in use."""
        if difference.more:
            self.wake_at = now
            return None
        if not (difference.told or difference.absent or difference.owed or gone):
            return None
        names = {*topic.names, *(self._offer.names(topic.kind) if topic.wildcard else ())}
        current = [self._offer.get(topic.kind, name) for name in sorted(names)]
        kept = [topic.known[name] for name in difference.removed if name not in gone]
        resources = [*(one for one in current if one is not None), *kept]
        response = self._send(topic, resources, (), (*difference.absent, *gone), now)
        topic.touch(one.name for one in kept)
        return response

    def _send(
        self, topic: Topic, resources: Sequence[Resource], removed: Sequence[str], gone: Iterable[str], now: float
    ) -> Response:
        response = super()._send(topic, resources, removed, gone, now)
        self._last[topic.kind] = response.nonce
        return response
