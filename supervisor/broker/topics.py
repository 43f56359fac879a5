"""Topics: who listens, what the last state was, which number comes next. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pannier.shared.envelope import Event

MAX_NAME: Final = 128
"""Characters of a topic's name."""


@dataclass(frozen=True)
class TopicStatistics:
    """`published` counts since the broker began; `retained_by` is None if there is no state; `readers` are peers."""

    topic: str
    published: int
    retained_by: str | None
    retained_bytes: int
    readers: frozenset[int]


class Topics:
    """Peers are numbers here. A retained value outlives its publisher: state stands until its owner says otherwise, or
    is gone for good."""

    def __init__(self) -> None:
        self._readers: dict[str, set[int]] = {}
        self._retained: dict[str, Event] = {}
        self._sequences: dict[str, int] = {}

    def subscribe(self, peer: int, topics: Iterable[str]) -> list[Event]:
        """Adds a reader; the retained values that it gets at once."""
        found = []
        for topic in topics:
            self._readers.setdefault(topic, set()).add(peer)
            if topic in self._retained:
                found.append(self._retained[topic])
        return found

    def leave(self, peer: int) -> None:
        """Forgets a reader."""
        for topic in [topic for topic, readers in self._readers.items() if peer in readers]:
            self._readers[topic].discard(peer)
            if not self._readers[topic]:
                del self._readers[topic]

    def read(self, topic: str) -> bool:
        """Whether anybody listens."""
        return topic in self._readers

    def publish(self, topic: str, sender: str, body: bytes, *, retain: bool) -> tuple[Event, frozenset[int]]:
        """The event that this makes, and who gets it."""
        sequence = self._sequences[topic] = self._sequences.get(topic, 0) + 1
        event = Event(topic, sender, sequence, retain, body)
        if retain:
            self._retained[topic] = event
        return event, frozenset(self._readers.get(topic, ()))

    def statistics(self) -> list[TopicStatistics]:
        """Every topic that was ever published or is listened to."""
        found = []
        for topic in sorted(self._sequences.keys() | self._readers.keys()):
            held = self._retained.get(topic)
            found.append(
                TopicStatistics(
                    topic,
                    self._sequences.get(topic, 0),
                    None if held is None else held.sender,
                    0 if held is None else len(held.body),
                    frozenset(self._readers.get(topic, ())),
                )
            )
        return found

    def clear(self, sender: str, body: bytes) -> list[tuple[Event, frozenset[int]]]:
        """Forgets what `sender` has retained: the last events of those topics, with `body`, and who gets them."""
        topics = [topic for topic, event in self._retained.items() if event.sender == sender]
        last = [self.publish(topic, sender, body, retain=True) for topic in topics]
        for topic in topics:
            del self._retained[topic]
        return last
