"""What a sidecar makes of what a pilot says, however wrong that is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.instances import EVERY, State
from pannier.shared.pilot_stream import Changed, Current, Gone, Instance, Told
from pannier.sidecars.discovery.mirror import SETBACK_SECONDS, Heard, Mirror


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
    explained = found.changed(changed(5, gone=[Gone(name, 1, final=True) for name in sorted(missing)]), 0.0)
    assert explained == Heard(True)
    assert there(found) == set(left)


def test_a_tombstone_that_nobody_knows_explains_nothing() -> None:
    found = mirror("a", "b")
    found.told(told(5), 0.0)
    found.changed(changed(5, gone=[Gone("a", 0), Gone("b", 0)]), 0.0)
    assert there(found) == doubted(found) == {"a", "b"}


def test_whom_the_pilot_tells_again_is_doubted_no_more() -> None:
    found = mirror("a", "b")
    found.told(told(5), 0.0)
    found.told(told(6, one("a"), one("b")), 0.0)
    assert (there(found), doubted(found)) == ({"a", "b"}, set())


def test_a_service_that_is_not_listed_any_more_is_missing() -> None:
    found = mirror("a")
    assert found.current(Current(9, ["orders"])) == Heard()
    assert found.current(Current(9, None)) == Heard()
    heard = found.current(Current(9, []))
    assert heard.missing == (("orders", "a"),)
    assert doubted(found) == {"a"}


@pytest.mark.semantics("discovery", "Only what is newer than what is known is believed")
def test_a_pilot_that_is_behind_is_believed_only_when_it_stays_so() -> None:
    found = mirror("a", "b")
    found.changed(changed(10, one("c", revision=10)), 0.0)
    assert found.changed(changed(3, one("d"), gone=[Gone("a", 1, final=True)]), 0.0) == Heard(behind=True)
    old = told(3, one("z"))
    assert found.told(old, 1.0) == Heard(behind=True)
    assert found.told(old, SETBACK_SECONDS) == Heard(behind=True)
    assert there(found) == {"a", "b", "c"}
    assert found.told(old, 1.0 + SETBACK_SECONDS).changed
    assert there(found) == {"a", "b", "c", "z"}
    assert doubted(found) == {"a", "b", "c"}


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
    st.builds(lambda services: Current(1, services), st.sampled_from([[], ["orders"]])),
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
