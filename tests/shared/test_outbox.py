from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pannier.shared.outbox import Outbox


def drain(outbox: Outbox) -> list[bytes]:
    frames = []
    while (frame := outbox.next()) is not None:
        frames.append(frame)
        outbox.settle()
    return frames


def test_order_is_kept_across_kinds():
    outbox = Outbox()
    outbox.event(b"1")
    outbox.control(b"2")
    outbox.state("a", b"3")
    outbox.event(b"4")
    assert drain(outbox) == [b"1", b"2", b"3", b"4"]


def test_state_conflates_in_its_place():
    outbox = Outbox()
    outbox.state("a", b"old")
    outbox.state("b", b"b")
    outbox.state("a", b"new")
    assert drain(outbox) == [b"new", b"b"]
    assert outbox.statistics().conflated == 1


def test_events_drop_the_oldest_by_count_and_by_bytes():
    outbox = Outbox(max_events=2, max_event_bytes=5)
    for frame in (b"1", b"2", b"3"):
        outbox.event(frame)
    outbox.event(b"4444")
    assert drain(outbox) == [b"3", b"4444"]
    assert outbox.statistics().dropped == 2


class Accounts(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books balance and nothing grows."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(max_events=3, max_event_bytes=100)

    @rule(size=st.integers(0, 60))
    def event(self, size: int) -> None:
        self.outbox.event(b"x" * size)

    @rule(topic=st.sampled_from("ab"))
    def state(self, topic: str) -> None:
        self.outbox.state(topic, b"x")

    @rule()
    def control(self) -> None:
        self.outbox.control(b"xxx")

    @rule()
    def write(self) -> None:
        if self.outbox.next() is not None:
            self.outbox.settle()

    @rule()
    def die(self) -> None:
        self.outbox.next()
        self.outbox.abandon()
        assert len(self.outbox) == 0
        assert self.outbox.control_bytes == 0

    @invariant()
    def balanced(self) -> None:
        s = self.outbox.statistics()
        assert s.published == s.delivered + s.conflated + s.dropped + s.queued
        assert s.queued <= 5


TestAccounts = Accounts.TestCase
