"""Leases: epochs, expiry, self-preservation. The model at the end says in few lines what no sequence may break."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pannier.shared.detours import OF, WEIGHT
from pannier.shared.instances import Key, State
from pannier.shared.leases import PAUSE_SECONDS, WINDOW_SECONDS, Leases, Registration, Verdict


def one(
    instance: str, *, service: str = "orders", epoch: int = 1, state: State = State.UP, ttl: float = 10
) -> Registration:
    return Registration(service, instance, f"{instance}:80", epoch, ttl, state)


def advance(leases: Leases, start: float, end: float) -> list[Key]:
    """Looks at the clock twice a second, as the shell does; returns what was evicted."""
    evicted: list[Key] = []
    steps = round((end - start) * 2)
    for step in range(1, steps + 1):
        evicted += leases.expire(start + step / 2).evicted
    return evicted


@pytest.mark.semantics("discovery", "An instance that does not renew its lease leaves", "lease_ttl")
def test_an_instance_that_does_not_renew_leaves_after_its_ttl() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    leases.register(one("b", ttl=100), 0)
    assert advance(leases, 0, 9.5) == []
    assert advance(leases, 9.5, 10) == [("orders", "a")]
    assert [lease.registration.id for lease in leases] == ["b"]


def test_renewing_keeps_it() -> None:
    leases = Leases(0)
    leases.register(one("b", ttl=1000), 0)
    for second in range(0, 60, 3):
        assert leases.register(one("a"), second) is (Verdict.CREATED if second == 0 else Verdict.RENEWED)
        assert advance(leases, second, second + 3) == []


@pytest.mark.semantics("discovery", "An older incarnation can neither renew nor remove a newer one")
@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_an_older_epoch_neither_renews_nor_deregisters(epoch: int) -> None:
    leases = Leases(0)
    leases.register(one("a", epoch=5), 0)
    assert leases.register(one("a", epoch=epoch), 1) is Verdict.STALE
    assert leases.deregister(("orders", "a"), epoch) is Verdict.STALE
    assert leases.get(("orders", "a")).expires == 10


def test_an_older_epoch_loses_also_after_the_newer_one_left() -> None:
    leases = Leases(0)
    leases.register(one("a", epoch=5), 0)
    assert leases.deregister(("orders", "a"), 5) is Verdict.REMOVED
    assert leases.register(one("a", epoch=5), 1) is Verdict.STALE
    assert leases.next_epoch(("orders", "a")) == 6
    assert leases.register(one("a", epoch=6), 1) is Verdict.CREATED


def test_an_end_that_is_not_final_lets_the_same_epoch_return() -> None:
    leases = Leases(0)
    leases.register(one("a", epoch=5), 0)
    leases.deregister(("orders", "a"), 5, final=False)
    assert leases.register(one("a", epoch=4), 1) is Verdict.STALE
    assert leases.register(one("a", epoch=5), 1) is Verdict.CREATED


def test_one_epoch_has_one_address() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    assert leases.register(Registration("orders", "a", "elsewhere:80", 1, 10), 0) is Verdict.STALE
    assert leases.register(Registration("orders", "a", "elsewhere:80", 2, 10), 0) is Verdict.CHANGED


def by_way(of: str, *, ttl: float = 5) -> Registration:
    return Registration("orders", f"{of}.c", "c:15090", 1, ttl, metadata={OF: of, WEIGHT: "40"})


def test_detours_go_when_their_time_is_over_however_many() -> None:
    leases = Leases(0)
    leases.register(one("a", ttl=100), 0)
    detours = [by_way(f"i{number}") for number in range(50)]
    for registration in detours:
        leases.register(registration, 0)
    assert advance(leases, 0, 4.5) == []
    assert sorted(advance(leases, 4.5, 5)) == sorted(registration.key for registration in detours)
    assert (leases.preserving, leases.suspects(), len(leases)) == (False, (), 1)


def test_detours_count_in_no_rule_that_keeps_instances() -> None:
    leases = Leases(0)
    for registration in (one("a"), one("b"), one("c"), *(by_way(f"i{number}", ttl=100) for number in range(50))):
        leases.register(registration, 0)
    assert advance(leases, 0, 11) == [], "15 % of three are none, though 3 of 53 are less"
    assert leases.preserving
    last = Leases(0)
    last.register(one("a"), 0)
    last.register(by_way("a", ttl=100), 0)
    assert advance(last, 0, 11) == [], "it is the last of its service"
    assert [lease.registration.id for lease in last.suspects()] == ["a"]


def test_nobody_doubts_a_detour() -> None:
    leases = Leases(0)
    leases.register(by_way("a"), 0)
    assert leases.suspect([("orders", "a.c")]) == ()


def test_there_is_a_limit_to_how_many() -> None:
    leases = Leases(0, capacity=2)
    leases.register(one("a"), 0)
    leases.register(one("b"), 0)
    assert leases.register(one("c"), 0) is Verdict.FULL
    assert leases.register(one("a"), 1) is Verdict.RENEWED
    assert leases.deregister(("orders", "c")) is Verdict.UNKNOWN


@pytest.mark.semantics(
    "discovery", "The last instance of a service stays when its lease ends, until probes confirm that it is gone"
)
def test_the_last_instance_of_a_service_is_doubted_and_goes_when_probes_confirm_it() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    leases.register(one("p", service="payments", ttl=1000), 0)
    assert advance(leases, 0, 60) == []
    assert [lease.registration.key for lease in leases.suspects()] == [("orders", "a")]
    assert leases.confirm_gone(("orders", "a"))
    assert leases.get(("orders", "a")) is None


def test_a_renewal_clears_the_doubt() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    advance(leases, 0, 11)
    assert leases.register(one("a"), 11) is Verdict.RENEWED
    assert leases.suspects() == ()
    assert not leases.confirm_gone(("orders", "a"))


def test_two_instances_that_vanish_together_do_not_leave_their_service_empty() -> None:
    leases = Leases(0)
    for instance in "ab":
        leases.register(one(instance), 0)
    for instance in range(40):
        leases.register(one(f"p{instance}", service="payments", ttl=1000), 0)
    assert len(advance(leases, 0, 20)) == 1
    assert len(leases.suspects()) == 1


@pytest.mark.semantics("discovery", "When more than 15 % vanish in one window, nobody is evicted")
def test_eviction_stops_when_more_than_15_percent_vanish_in_a_window() -> None:
    leases = Leases(0)
    for number in range(20):
        leases.register(one(f"i{number}", ttl=10 if number < 4 else 1000), 0)
    assert advance(leases, 0, 30) == []
    assert leases.preserving
    assert "PRESERVING" in repr(leases)
    assert len(leases) == 20
    for number in range(4):
        leases.register(one(f"i{number}"), 30)
    assert not leases.preserving


def test_fifteen_percent_may_go() -> None:
    leases = Leases(0)
    for number in range(20):
        leases.register(one(f"i{number}", ttl=10 if number < 3 else 1000), 0)
    assert len(advance(leases, 0, 30)) == 3
    assert not leases.preserving


def test_a_trickle_within_one_window_counts_together() -> None:
    leases = Leases(0)
    for number in range(20):
        leases.register(one(f"i{number}", ttl=10 + number), 0)
    evicted = advance(leases, 0, 10 + WINDOW_SECONDS - 1)
    assert len(evicted) == 3
    assert leases.preserving


@pytest.mark.parametrize("state", [State.DRAINING, State.DOWN, State.STARTING])
def test_who_said_that_it_leaves_may_be_the_last(state: State) -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    leases.register(one("a", state=state), 1)
    assert advance(leases, 1, 12) == [("orders", "a")]


def test_time_that_this_process_slept_is_forgiven() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    leases.register(one("b"), 0)
    advance(leases, 0, 5)
    expiry = leases.expire(605)
    assert expiry.forgiven == 600
    assert expiry.evicted == expiry.suspected == ()
    assert advance(leases, 605, 609.5) == []


def test_who_has_renewed_since_a_pause_is_not_forgiven_it_as_well() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    leases.register(one("b"), 0)
    leases.register(one("a"), 3600)  # which is the first thing that happens after it
    assert leases.expire(3600).forgiven == 3600
    assert advance(leases, 3600, 3609.5) == []
    leases.register(one("b"), 3609.5)
    assert advance(leases, 3609.5, 3611) == [("orders", "a")]


def test_a_wiped_source_doubts() -> None:
    leases = Leases(0)
    leases.register(one("a"), 0)
    assert leases.suspect([("orders", "a"), ("orders", "unknown")]) == (("orders", "a"),)
    assert leases.suspect([("orders", "a")]) == ()
    assert len(leases) == 1


class LeasesModel(RuleBasedStateMachine):
    """Keeps, for each instance, the greatest epoch that was ever accepted: nothing older may act afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.leases = Leases(0)
        self.greatest: dict[Key, int] = {}
        self.ended: dict[Key, int] = {}

    keys = st.tuples(st.sampled_from(["orders", "payments"]), st.sampled_from("abc"))
    epochs = st.integers(1, 6)

    @rule(key=keys, epoch=epochs, state=st.sampled_from(State), ttl=st.sampled_from([1.0, 5.0, 30.0]))
    def register(self, key: Key, epoch: int, state: State, ttl: float) -> None:
        verdict = self.leases.register(Registration(*key, f"h{epoch}:80", epoch, ttl, state), self.now)
        stale = epoch < self.greatest.get(key, 0) or epoch <= self.ended.get(key, 0)
        assert (verdict is Verdict.STALE) == stale
        if not stale:
            self.greatest[key] = epoch

    @rule(key=keys, epoch=st.none() | epochs)
    def deregister(self, key: Key, epoch: int | None) -> None:
        held = self.leases.get(key)
        verdict = self.leases.deregister(key, epoch)
        if held is None:
            assert verdict is Verdict.UNKNOWN
        elif epoch is not None and epoch < held.registration.epoch:
            assert verdict is Verdict.STALE
            assert self.leases.get(key) == held
        else:
            assert verdict is Verdict.REMOVED
            self.ended[key] = max(epoch or 0, held.registration.epoch)
            self.greatest[key] = self.ended[key]

    @rule(seconds=st.sampled_from([0.5, 1.0, PAUSE_SECONDS, 60.0]))
    def look(self, seconds: float) -> None:
        up_before = {lease.registration.service for lease in self.leases if lease.registration.state is State.UP}
        self.now += seconds
        self.leases.expire(self.now)
        overlooked = [lease for lease in self.leases if lease.expires <= self.now and not lease.suspect]
        assert overlooked == [], "somebody was due and was not looked at"
        up_after = {lease.registration.service for lease in self.leases if lease.registration.state is State.UP}
        assert up_after == up_before, "time alone took the last instance of a service"

    @precondition(lambda self: self.leases.suspects())
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        suspect = data.draw(st.sampled_from(self.leases.suspects()))
        assert self.leases.confirm_gone(suspect.registration.key)

    @rule(key=keys)
    def forget(self, key: Key) -> None:
        self.leases.forget(key)
        self.greatest.pop(key, None)
        self.ended.pop(key, None)

    @rule(key=keys)
    def doubt(self, key: Key) -> None:
        self.leases.suspect([key])

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        doubted = {lease.registration.key for lease in self.leases if lease.suspect}
        assert {lease.registration.key for lease in self.leases.suspects()} == doubted
        steady = Counter(
            lease.registration.service
            for lease in self.leases
            if lease.registration.state is State.UP and not lease.suspect
        )
        assert self.leases._steady == dict(steady)

    @invariant()
    def the_greatest_epoch_is_in_force(self) -> None:
        for lease in self.leases:
            assert lease.registration.epoch == self.greatest[lease.registration.key]
            assert lease.registration.epoch < self.leases.next_epoch(lease.registration.key)


TestLeasesModel = LeasesModel.TestCase
TestLeasesModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
