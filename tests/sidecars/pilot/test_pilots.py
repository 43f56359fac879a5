"""Pilots that share a store: what one has not heard yet, who has gone, and who takes over."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing
from pannier.shared.errors import Unreachable
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.entries import PREFIX, Entry, Verdict, key_of
from pannier.sidecars.pilot.registry.peers import GONE_SECONDS
from pannier.sidecars.pilot.registry.peers import PREFIX as PILOTS
from pannier.sidecars.pilot.registry.registry import BURIED_SECONDS, DOUBTED_TTLS
from pannier.sidecars.pilot.stores.store import Compacted, Item

from tests.sidecars.pilot.paper import TTL, World, entry

A, B = ("orders", "a"), ("orders", "b")
DAY_S = 86_400


@pytest.fixture
def world() -> World:
    return World("one", "two")


async def test_who_renews_with_another_pilot_is_that_ones_and_its_first_one_does_not_give_it_up(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await world.later(3)
    await two.registry.register(A, entry())  # and the watch of the first one lags
    for _ in range(TTL + 2):
        world.now += 1
        one.registry.look()
        await one.registry.write_down()
    two.deliver()
    assert two.ids() == ["a"]
    one.deliver()
    assert one.ids() == ["a"]


async def test_a_lease_of_an_older_life_ends_no_newer_one(world: World) -> None:
    one, two = world.pilots
    await two.read()
    registering = one.registry.register(A, entry(1))
    await registering
    two.deliver()
    await two.registry.register(A, entry(2, "10.0.0.2:80"))
    one.deliver()
    await world.later(3 * TTL, renewing=())
    assert [i.epoch for i in one.registry.instances("orders")] == [2]


async def test_whose_pilot_has_gone_is_taken_over_and_given_up_a_ttl_later_if_he_is_silent(world: World) -> None:
    one, two = world.pilots
    await two.registry.register(B, entry())
    await world.later(3, renewing=[(two, B)])
    await one.registry.register(A, entry())
    one.beat()
    two.deliver()
    one.down = True
    await world.later(round(GONE_SECONDS) + 3, renewing=[(two, B)])
    assert two.registry.view.get(key_of(A))[0].pilot == "two"  # type: ignore[union-attr]
    assert two.ids() == ["a", "b"]
    assert PILOTS + "one" not in world.paper.items, "nobody looks for it any more"
    await world.later(TTL + 2, renewing=[(two, B)])
    assert two.ids() == ["b"]


async def test_a_pilot_that_does_not_hear_itself_takes_no_renewals_and_believes_nobody_gone(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await world.later(4, renewing=[(one, A)])
    two.down = True
    one.down = True  # the store has gone, for both
    for _ in range(30):
        world.now += 1
        with pytest.raises(Unreachable) if one.peers.blind else trio.CancelScope():
            await one.registry.register(A, entry())
        one.registry.look()
    assert one.peers.blind and not one.peers.gone("two")
    assert one.ids() == ["a"]


async def test_who_comes_back_to_a_pilot_that_does_not_know_he_had_left_is_sent_away_in_time(world: World) -> None:
    one, two = world.pilots
    await two.registry.register(B, entry())
    await one.registry.register(A, entry())
    await world.later(3)
    one.deliver()  # and nothing more from here on
    await two.registry.register(A, entry())
    refused = 0
    for tick in range(1, 4 * TTL):
        world.now += TTL / 3
        for pilot in world.pilots:
            pilot.beat()
        try:
            await one.registry.register(A, entry())
        except Unreachable:
            refused += 1
            await two.registry.register(A, entry())
        await two.registry.register(B, entry())
        two.deliver()
        two.registry.look()
        await two.registry.write_down()
        assert two.ids() == ["a", "b"], tick
        assert not any(instance.suspect for instance in two.registry.instances("orders")), tick
    assert refused == 4 * TTL - 2


async def test_of_two_pilots_that_decide_at_once_the_second_decides_again(world: World) -> None:
    one, two = world.pilots
    assert (await one.registry.register(A, entry(1))).verdict is Verdict.CREATED
    outcome = await two.registry.register(A, entry(2, "10.0.0.2:80"))  # who knows nothing of the first
    assert outcome.verdict is Verdict.CHANGED
    assert (await one.registry.register(A, entry(1))).verdict is Verdict.RENEWED, "it has not been told yet"
    one.deliver()
    assert (await one.registry.register(A, entry(1))).verdict is Verdict.STALE


async def test_two_who_take_over_from_two_do_not_stumble_over_each_other() -> None:
    world = World("one", "two", "three", "four")
    one, two, three, four = world.pilots
    await three.registry.register(("x", "3"), entry())
    await four.registry.register(("y", "4"), entry())
    await world.later(3)
    three.down = four.down = True
    world.now += GONE_SECONDS
    for pilot in (one, two):
        pilot.beat()
    for pilot in (one, two):
        pilot.deliver()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.registry.write_down)
        nursery.start_soon(two.registry.write_down)
    one.deliver()
    assert {one.registry.view.get(key_of(key))[0].pilot for key in (("x", "3"), ("y", "4"))} <= {"one", "two"}  # type: ignore[union-attr]


async def test_a_change_of_another_pilot_that_comes_after_our_own_answer_is_told(world: World) -> None:
    one, two = world.pilots
    before = world.paper.revision
    await two.registry.register(("stock", "x"), entry())
    await one.registry.register(A, entry())  # answered before the watch tells of the stock
    revision, changed = await one.registry.changes(0, set(), wait=0)
    assert changed == [], "only the watch says how far we are"
    one.deliver(1)
    assert await one.registry.changes(revision, set(), wait=0) == (before + 1, ["stock"])
    one.deliver()
    assert await one.registry.changes(before + 1, set(), wait=0) == (before + 2, ["orders"])


async def test_watchers_may_go_from_one_pilot_to_another(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await world.later(4)
    await two.read()
    assert one.registry.view.revision == two.registry.view.revision, "beats are nobody's business"
    await two.registry.register(B, entry())
    two.deliver()
    revision = two.registry.view.revision
    async with trio.open_nursery() as nursery:

        async def catch_up() -> None:
            await trio.testing.wait_all_tasks_blocked()
            one.deliver()

        nursery.start_soon(catch_up)
        with trio.fail_after(10):
            assert await one.registry.changes(revision, set(), wait=0.5) == (revision, [])


async def test_what_a_store_has_lost_is_told_on_and_written_again(world: World) -> None:
    one, _ = world.pilots
    await one.registry.register(A, entry())
    await one.registry.register(B, entry())
    await one.registry.leave(B, 1)
    one.deliver()
    world.paper.items.clear()  # nobody has deleted it
    await one.read()
    assert one.ids() == ["a"]
    await one.registry.write_down()
    assert list(world.paper.items) == [key_of(A)]
    one.deliver()
    assert one.ids() == ["a"]


async def test_a_store_that_is_away_for_a_day_costs_nobody_an_endpoint(world: World) -> None:
    one, two = world.pilots
    await world.begin()
    renewing = [(one, A), (two, B)]
    for pilot, key in renewing:
        await pilot.registry.register(key, entry())
    await world.later(4, renewing=renewing)
    one.down = two.down = True
    refused = 0
    for _ in range(DAY_S // 2):
        world.now += 2
        for pilot, key in renewing:
            try:
                await pilot.registry.register(key, entry())
            except Unreachable:
                refused += 1
            pilot.registry.look()
    assert refused > DAY_S - 20, "a pilot that hears nothing of the others takes no renewals, and forgets nobody"
    assert (one.ids(), two.ids()) == (["a", "b"], ["a", "b"])
    one.down = two.down = False
    await world.begin()
    for pilot in world.pilots:
        pilot.beat()
        pilot.deliver()
    await world.later(4 * TTL, renewing=renewing)
    for pilot in world.pilots:
        assert [(i.id, i.suspect) for i in pilot.registry.instances("orders")] == [("a", False), ("b", False)]


@pytest.mark.parametrize(
    "value", [None, b"nonsense", msgspec.msgpack.encode(entry(1, "10.0.0.9:80"))], ids=["deleted", "nonsense", "older"]
)
async def test_what_others_do_to_a_store_ends_nobody_and_is_mended(world: World, value: bytes | None) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry(2))
    for pilot in world.pilots:
        pilot.deliver()
    revision = one.registry.view.revision
    world.paper.write(key_of(A), value)
    for pilot in world.pilots:
        pilot.deliver()
        assert [(i.id, i.epoch) for i in pilot.registry.instances("orders")] == [("a", 2)]
    assert (await two.registry.changes(revision, set(), wait=0))[1] == []
    await one.registry.write_down()
    assert msgspec.msgpack.decode(world.paper.items[key_of(A)].value or b"", type=Entry).epoch == 2
    two.deliver()
    assert (await two.registry.move(A, 2, State.DRAINING)).verdict is Verdict.CHANGED


async def test_a_store_that_was_set_back_does_not_set_back_anybody(world: World) -> None:
    one, _ = world.pilots
    await world.begin()
    await one.registry.register(A, entry(1))
    copy, revision = dict(world.paper.items), world.paper.revision
    await one.registry.register(A, entry(2, "10.0.0.2:80"))
    await one.registry.register(B, entry())
    one.deliver()
    known = one.registry.view.revision
    world.paper.items, world.paper.revision, world.paper.log, one.told = copy, revision, [], revision
    await one.read()
    assert [(i.id, i.epoch) for i in one.registry.instances("orders")] == [("a", 2), ("b", 1)]
    with pytest.raises(Compacted):
        await one.registry.changes(known, set(), wait=0.01)
    await one.registry.write_down()
    assert msgspec.msgpack.decode(world.paper.items[key_of(A)].value or b"", type=Entry).epoch == 2
    assert key_of(B) in world.paper.items


async def test_an_own_write_during_a_scan_is_not_undone_by_it(world: World) -> None:
    one, _ = world.pilots
    revision, items = await one.scan(PREFIX)
    await one.registry.register(A, entry())
    one.registry._read(revision, items)
    assert one.ids() == ["a"]
    one.deliver()
    assert one.ids() == ["a"]


async def test_who_is_doubted_goes_in_the_end_where_others_are(world: World) -> None:
    one, _ = world.pilots
    keys = [("orders", f"i{number}") for number in range(10)]
    for key in (*keys, ("single", "s")):
        await one.registry.register(key, entry())
    living = [(one, key) for key in keys[2:]]
    await world.later(2 * TTL, renewing=living)
    assert one.registry.preserving or len(one.ids()) < 10
    await world.later((DOUBTED_TTLS + 5) * TTL, renewing=living)
    assert one.ids() == sorted(key[1] for key in keys[2:])
    assert one.ids("single") == ["s"], "there is nobody else"
    assert not one.registry.preserving


async def test_pilots_that_rely_on_each_others_instances_do_not_leave_nobody(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await two.registry.register(B, entry())
    for _ in range((DOUBTED_TTLS + 8) * TTL):
        world.now += 1
        for pilot in world.pilots:
            pilot.beat()
            pilot.registry.look()
        for pilot in world.pilots:  # both decide before either hears of the other
            await pilot.registry.write_down()
        for pilot in world.pilots:
            pilot.deliver()
    assert [(i.id, i.suspect) for i in one.registry.instances("orders")] == [("a", True), ("b", True)]
    assert two.registry.renewed(B, entry()) is None, "it has to be written"
    assert (await two.registry.register(B, entry())).verdict is Verdict.CHANGED, "it is doubted no more"
    assert two.registry.renewed(B, entry()) is not None
    await world.later(4 * TTL, renewing=[(two, B)])
    assert two.ids() == ["b"], "now there is another one"


async def test_who_is_given_up_but_still_in_the_store_is_nobody_to_rely_on(world: World) -> None:
    one, _ = world.pilots
    keys = [("orders", f"i{number}") for number in range(3)]
    for key in keys:
        await one.registry.register(key, entry())
    one.deliver()
    one.down = True  # and nothing that is decided can be written
    for second in range((DOUBTED_TTLS + 20) * TTL):
        world.now += 1
        if second < TTL * (DOUBTED_TTLS + 4):
            one.registry._renew(keys[0], one.registry.view.get(key_of(keys[0]))[0])  # type: ignore[arg-type]
        one.registry.look()
    one.down = False
    await one.registry.write_down()
    assert "i0" in one.ids()


async def test_an_end_is_not_unknown_because_the_watch_is_late(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    assert (await two.registry.move(A, 1, State.DRAINING)).verdict is Verdict.CHANGED
    await one.registry.register(B, entry())
    assert (await two.registry.leave(B, None)).verdict is Verdict.REMOVED
    assert (await two.registry.leave(("orders", "c"), None)).verdict is Verdict.UNKNOWN


async def test_a_first_epoch_after_a_burial_is_timed_like_any(world: World) -> None:
    one, _ = world.pilots
    await one.registry.register(A, entry(2))
    await one.registry.leave(A, 2)
    one.deliver()
    world.wall += BURIED_SECONDS + 1
    await one.registry.bury()
    await one.registry.register(B, entry())
    await one.registry.register(A, entry(1))
    await world.later(2 * TTL, renewing=[(one, B)])
    assert one.ids() == ["b"]


async def test_who_was_replaced_before_his_own_answer_came_is_not_timed(world: World) -> None:
    one, two = world.pilots
    swap = one.swap

    async def replaced_first(key: str, value: bytes | None, version: int) -> int:
        answer = await swap(key, value, version)
        one.swap = swap  # type: ignore[method-assign]
        await two.registry.register(A, entry(2, "10.0.0.2:80"))
        one.deliver()
        return answer

    one.swap = replaced_first  # type: ignore[method-assign]
    await one.registry.register(A, entry(1))
    await world.later(2 * TTL, renewing=[])
    assert not one.registry._leases.suspects()
    assert [i.epoch for i in one.registry.instances("orders")] == [2]


async def test_a_burial_whose_word_comes_before_its_answer_is_one_burial(world: World) -> None:
    one, _ = world.pilots
    await one.registry.register(A, entry())
    await one.registry.leave(A, 1)
    one.deliver()
    world.wall += BURIED_SECONDS + 1
    swap = one.swap

    async def told_first(key: str, value: bytes | None, version: int) -> int:
        answer = await swap(key, value, version)
        one.deliver()
        return answer

    one.swap = told_first  # type: ignore[method-assign]
    await one.registry.bury()
    assert one.registry.view.names() == []


async def test_a_renewal_does_not_undo_a_drain_and_a_new_life_is_up(world: World) -> None:
    one, _ = world.pilots
    await one.registry.register(A, entry(1))
    await one.registry.move(A, 1, State.DRAINING)
    assert (await one.registry.register(A, entry(1))).verdict is Verdict.RENEWED
    assert one.registry.instances("orders")[0].state is State.DRAINING
    await one.registry.register(A, entry(1), state=State.UP)
    assert one.registry.instances("orders")[0].state is State.UP
    await one.registry.move(A, 1, State.DRAINING)
    await one.registry.register(A, entry(2))
    assert one.registry.instances("orders")[0].state is State.UP


async def test_whom_another_pilot_doubts_is_told_and_so_is_that_he_is_back(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await two.registry.register(B, entry())
    await world.later(TTL, renewing=[(one, A), (two, B)])
    for doubted in (True, False):
        while two.registry.instances("orders")[0].suspect is not doubted:
            await world.later(1, renewing=[(two, B)] if doubted else [(one, A), (two, B)])
        with trio.fail_after(5):
            assert A in await two.registry.wait_changed(two.registry.view.revision, 0)


async def test_what_was_read_after_a_conflict_is_no_news_if_the_watch_was_quicker(world: World) -> None:
    one, two = world.pilots
    await one.registry.register(A, entry())
    await world.later(1, renewing=[(one, A)])
    await two.registry.register(A, entry(2, "10.0.0.2:80"))
    read = one.get

    async def late(key: str) -> Item | None:
        found = await read(key)
        await two.registry.register(A, entry(3, "10.0.0.3:80"))
        one.deliver()
        return found

    one.get = late  # type: ignore[method-assign]
    assert (await one.registry.register(A, entry(1), state=State.DRAINING)).verdict is Verdict.STALE
    assert one.registry.instances("orders") == two.registry.instances("orders")
