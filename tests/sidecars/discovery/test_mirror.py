"""What a sidecar makes of what a pilot says, however wrong that is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.detours import OF, WEIGHT
from pannier.shared.instances import EVERY, State
from pannier.shared.pilot_stream import Changed, Current, Found, Gone, Instance, Told
from pannier.sidecars.discovery.mirror import PATIENCE_SECONDS, Heard, Mirror


def one(name: str, *, epoch: int = 1, revision: int = 1, state: State = State.UP, service: str = "orders") -> Instance:
    return Instance(service, name, f"10.0.0.{ord(name) % 250}:80", state, epoch, revision)


def told(revision: int, *instances: Instance, service: str = "orders") -> Told:
    return Told(service, revision, instances)


def changed(revision: int, *instances: Instance, gone: Sequence[Gone] = ()) -> Changed:
    return Changed("orders", revision, instances, gone)


def mirror(*names: str) -> Mirror:
    found = Mirror(0.0)
    found.told(told(1, *map(one, names)), 0.0)
    return found


def there(found: Mirror) -> set[str]:
    return {lease.registration.id for lease in found.leases}


def doubted(found: Mirror) -> set[str]:
    return {lease.registration.id for lease in found.leases.suspects()}


def test_what_is_told_is_there_and_what_changes_changes() -> None:
    found = mirror("a", "b")
    assert found.known(["orders", "other", EVERY]) == {"orders": 1, "other": 0, EVERY: 0}
    assert found.changed(changed(2, one("c"), one("a", state=State.DRAINING, revision=2)), 0.0) == Heard(True)
    assert there(found) == {"a", "b", "c"}
    lease = found.leases.get(("orders", "a"))
    assert lease is not None and lease.registration.state is State.DRAINING
    assert found.known(["orders"]) == {"orders": 2}


def test_a_deliberate_end_is_believed_also_of_the_last() -> None:
    found = mirror("a", "b")
    heard = found.changed(changed(2, gone=[Gone("a", 1, final=True), Gone("b", 1, final=True)]), 0.0)
    assert (heard, there(found)) == (Heard(True), set())


def test_an_older_life_ends_nobody() -> None:
    found = Mirror(0.0)
    found.told(told(1, one("a", epoch=2), one("b")), 0.0)
    found.changed(changed(2, one("a", epoch=1), gone=[Gone("a", 1, final=True)]), 0.0)
    lease = found.leases.get(("orders", "a"))
    assert lease is not None and lease.registration.epoch == 2


@pytest.mark.semantics("discovery", "More than half of a service lost at once stays in use until probes fail")
@pytest.mark.parametrize(
    ("names", "given_up", "left", "suspects"),
    [
        ("ab", "a", "b", ""),
        ("abcd", "ab", "cd", ""),
        ("a", "a", "a", "a"),
        ("abc", "ab", "abc", "ab"),
        ("abc", "abc", "abc", "abc"),
    ],
)
def test_more_than_half_given_up_at_once_stays_until_probes_fail(
    names: str, given_up: str, left: str, suspects: str
) -> None:
    found = mirror(*names)
    heard = found.changed(changed(2, gone=[Gone(name, 1) for name in given_up]), 0.0)
    assert there(found) == set(left)
    assert doubted(found) == set(suspects)
    assert bool(heard.alarm) == bool(suspects)
    for name in suspects:
        assert found.confirm_gone(("orders", name))
    assert there(found) == set(names) - set(given_up)


def test_who_leaves_while_draining_was_given_up_by_himself() -> None:
    found = Mirror(0.0)
    found.told(told(1, one("a", state=State.DRAINING)), 0.0)
    found.changed(changed(2, gone=[Gone("a", 1)]), 0.0)
    assert there(found) == set()


@pytest.mark.semantics("discovery", "An empty or halved list from a pilot takes away nobody")
@pytest.mark.parametrize("left", ["", "a", "ab"])
def test_an_empty_or_halved_list_ends_nobody_and_asks(left: str) -> None:
    found = mirror("a", "b", "c", "d")
    heard = found.told(told(5, *map(one, left)), 0.0)
    missing = {"a", "b", "c", "d"} - set(left)
    assert there(found) == {"a", "b", "c", "d"}
    assert doubted(found) == missing
    assert {name for _, name in heard.missing} == missing
    assert "used until probes fail" in heard.alarm
    explained = found.found(Found("orders", (), [Gone(name, 1, final=True) for name in sorted(missing)]), 0.0)
    assert explained == Heard(True)
    assert found.known(["orders"]) == {"orders": 5}, "it says nothing of others"
    assert there(found) == set(left)


def test_a_tombstone_that_nobody_knows_explains_nothing() -> None:
    found = mirror("a", "b")
    found.told(told(5), 0.0)
    found.found(Found("orders", (), [Gone("a", 0), Gone("b", 0)]), 0.0)
    assert there(found) == doubted(found) == {"a", "b"}


def test_whom_the_pilot_tells_again_is_doubted_no_more() -> None:
    found = mirror("a", "b")
    found.told(told(5), 0.0)
    found.told(told(6, one("a"), one("b")), 0.0)
    assert (there(found), doubted(found)) == ({"a", "b"}, set())


def test_a_service_that_is_not_listed_any_more_is_missing() -> None:
    found = mirror("a")
    assert found.current(Current(["orders"])) == Heard()
    assert found.current(Current(None)) == Heard()
    heard = found.current(Current([]))
    assert heard.missing == (("orders", "a"),)
    assert doubted(found) == {"a"}


@pytest.mark.semantics("discovery", "Only what is newer than what is known is believed")
def test_a_pilot_that_is_behind_is_believed_only_when_it_stays_so() -> None:
    found = mirror("a", "b")
    found.changed(changed(10, one("c", revision=10)), 0.0)
    assert found.changed(changed(3, one("d"), gone=[Gone("a", 1, final=True)]), 0.0) == Heard(old=True)
    old = told(3, one("z"))
    assert found.told(old, 1.0) == Heard(old=True)
    assert found.told(old, PATIENCE_SECONDS) == Heard(old=True)
    assert there(found) == {"a", "b", "c"}
    assert found.told(old, 1.0 + PATIENCE_SECONDS).changed
    assert there(found) == {"a", "b", "c", "z"}
    assert doubted(found) == {"a", "b", "c"}


def test_patience_begins_anew_with_each_word_that_is_new_and_each_connection() -> None:
    found = mirror("a")
    found.changed(changed(10), 0.0)
    assert found.told(told(3), 1.0) == Heard(old=True)
    found.changed(changed(11), 2.0)
    assert found.told(told(3), 100.0) == Heard(old=True)
    found.connected()
    assert found.told(told(3), 200.0) == Heard(old=True)


def test_a_store_that_was_set_back_is_believed_with_its_smaller_epochs() -> None:
    found = Mirror(0.0)
    found.told(told(50, one("a", epoch=37), one("b", epoch=9)), 0.0)
    found.told(Told("orders", 2, [one("a", epoch=1, revision=2)], anew=True), 0.0)
    lease = found.leases.get(("orders", "a"))
    assert lease is not None and lease.registration.epoch == 1
    assert doubted(found) == {"b"}
    assert found.known(["orders"]) == {"orders": 2}


def test_who_was_given_up_and_comes_back_elsewhere_is_there() -> None:
    found = mirror("a", "b")
    moved = msgspec.structs.replace(one("a"), address="10.9.9.9:80")
    found.changed(changed(2, moved), 0.0)
    lease = found.leases.get(("orders", "a"))
    assert lease is not None and lease.registration.address == "10.9.9.9:80"


def test_whom_the_pilot_doubts_is_probed_until_it_does_not() -> None:
    found = mirror("a")
    found.changed(changed(1, msgspec.structs.replace(one("a"), suspect=True)), 0.0)
    assert doubted(found) == {"a"}
    found.changed(changed(1, one("a")), 0.0)
    assert doubted(found) == set()


def test_who_is_not_up_saves_nobody_from_being_the_last() -> None:
    found = Mirror(0.0)
    found.told(told(1, one("a"), one("b", state=State.DOWN), one("c", state=State.STARTING)), 0.0)
    found.changed(changed(2, gone=[Gone("a", 1)]), 0.0)
    assert doubted(found) == {"a"}


def test_halves_that_follow_one_another_are_more_than_half() -> None:
    found = mirror("a", "b", "c", "d")
    for revision, name in enumerate("abcd", start=2):
        found.changed(changed(revision, gone=[Gone(name, 1)]), 1.0)
    assert there(found) == doubted(found) == {"c", "d"}
    found.changed(changed(9, one("a"), one("b"), one("c"), one("d")), 2.0)
    found.changed(changed(10, gone=[Gone("a", 1)]), 60.0)
    assert there(found) == {"b", "c", "d"}, "in another window"


@pytest.mark.parametrize("first", ["doubted", "taken"])
def test_an_address_that_was_given_away_vouches_for_nobody(first: str) -> None:
    found = mirror("a", "b")
    other = msgspec.structs.replace(one("z", service="payments"), address=one("a").address)
    steps = [lambda: found.told(told(2, one("b")), 0.0), lambda: found.told(told(2, other, service="payments"), 0.0)]
    for step in steps if first == "doubted" else reversed(steps):
        step()
    assert there(found) == {"b", "z"}
    assert doubted(found) == set()


def test_what_finds_no_room_is_said() -> None:
    found = Mirror(0.0, capacity=1)
    heard = found.told(told(1, one("a"), one("b"), one("c")), 0.0)
    assert "2 instances find no room" in heard.alarm


_names = st.sampled_from("abcde")
_says = st.one_of(
    st.builds(lambda revision, names: told(revision, *map(one, sorted(names))), st.integers(0, 20), st.sets(_names)),
    st.builds(
        lambda revision, up, gone: changed(revision, *map(one, sorted(up)), gone=[Gone(n, e, f) for n, e, f in gone]),
        st.integers(0, 20),
        st.sets(_names),
        st.lists(st.tuples(_names, st.integers(0, 2), st.just(False)), max_size=5),
    ),
    st.builds(Current, st.sampled_from([[], ["orders"]])),
)


@given(st.lists(_says, max_size=20))
def test_without_a_deliberate_end_or_a_failed_probe_nobody_is_left_with_none(said: Sequence[object]) -> None:
    found = mirror("a", "b", "c")
    for message in said:
        match message:
            case Told():
                found.told(message, 0.0)
            case Changed():
                found.changed(message, 0.0)
            case Current():
                found.current(message)
        assert there(found)


def by_way(of: str, weight: str = "40", *, revision: int = 1, epoch: int = 1) -> Instance:
    metadata = {OF: of, WEIGHT: weight}
    return Instance("orders", f"{of}.c", "10.9.9.9:15090", State.UP, epoch, revision, metadata)


def test_a_detour_that_is_given_up_is_dropped_and_counts_in_no_window() -> None:
    found = Mirror(0.0)
    found.told(told(1, *map(one, "ab"), *map(by_way, "ab")), 0.0)
    heard = found.changed(changed(2, gone=[Gone("a.c", 1), Gone("b.c", 1)]), 0.0)
    assert (heard, there(found), doubted(found)) == (Heard(True), {"a", "b"}, set())
    assert found.changed(changed(3, gone=[Gone("a", 1)]), 0.0) == Heard(True), "half of two"
    assert there(found) == {"b"}


def test_the_detours_of_a_service_do_not_make_its_instances_fewer() -> None:
    found = Mirror(0.0)
    found.told(told(1, one("a"), *map(by_way, "abcdefgh")), 0.0)
    found.changed(changed(2, gone=[Gone("a", 1)]), 0.0)
    assert doubted(found) == {"a"}, "it is the only one"


def test_a_detour_that_is_missing_is_dropped_and_not_asked_about() -> None:
    found = Mirror(0.0)
    found.told(told(1, one("a"), by_way("a")), 0.0)
    assert found.told(told(2, one("a")), 0.0) == Heard(True)
    assert there(found) == {"a"}
    found.changed(changed(3, by_way("a", revision=3)), 0.0)
    heard = found.current(Current([]))
    assert (heard.changed, heard.missing, there(found), doubted(found)) == (True, (("orders", "a"),), {"a"}, {"a"})


def test_the_address_of_a_detour_is_not_given_away() -> None:
    found = Mirror(0.0)
    central = Instance("central", "c", "10.9.9.9:15090", State.UP, 1, 1)
    found.told(told(1, one("a"), by_way("a")), 0.0)
    found.told(told(1, central, service="central"), 0.0)
    found.doubt(("central", "c"))
    assert doubted(found) == {"c"}


def test_detours_that_nobody_tends_are_dropped_and_asked_for_anew() -> None:
    found = Mirror(0.0)
    found.told(told(7, one("a"), by_way("a")), 0.0)
    assert (found.drop_detours(), found.drop_detours()) == (True, False)
    assert (there(found), found.known(["orders"])) == ({"a"}, {"orders": 0})
    found.told(told(7, one("a"), by_way("a")), 0.0)
    assert (there(found), found.known(["orders"])) == ({"a", "a.c"}, {"orders": 7})
