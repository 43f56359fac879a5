"""What a bridge makes of what a source says: over pilots on paper, whose clocks and watches are moved by hand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pytest
import trio
from pannier.shared.errors import Unreachable
from pannier.shared.instances import Key, State
from pannier.sidecars.pilot.bridges.belief import LOOKS, SECONDS, STAGE_SECONDS
from pannier.sidecars.pilot.bridges.inward import ORIGIN, TTL_SECONDS, Inward
from pannier.sidecars.pilot.bridges.source import MAX_INSTANCES, Found, Look
from pannier.sidecars.pilot.registry.entries import Entry, key_of
from pannier.sidecars.pilot.registry.peers import GONE_SECONDS

from tests.sidecars.pilot.paper import Pilot, World

A, B, C, D = (("orders", name) for name in "abcd")


class Said:
    """A source that says what it is told to say."""

    name = "zookeeper://x/services"
    every = 1.0

    def __init__(self, **found: Found) -> None:
        self.look_is: Look | None = None
        self.says(found)

    def says(
        self, found: Mapping[str, Found], *, unclear: set[Key] | None = None, emptied: set[str] | None = None
    ) -> None:
        instances = {("orders", name): each for name, each in found.items()}
        self.look_is = Look(instances, unclear or frozenset(), emptied or frozenset())

    async def look(self) -> Look:
        await trio.lowlevel.checkpoint()
        if self.look_is is None:
            raise Unreachable("it does not answer")
        return self.look_is

    async def news(self) -> None:
        await trio.sleep_forever()


def found(number: int, incarnation: int = 0, **metadata: str) -> Found:
    return Found(f"10.0.0.{number}:80", metadata, incarnation)


def bridged(pilot: Pilot, source: Said) -> Inward:
    return Inward(pilot.registry, source, clock=lambda: pilot.world.now, wall=lambda: pilot.world.wall)


def held(pilot: Pilot, key: Key) -> Entry:
    entry, _ = pilot.registry.view.get(key_of(key))
    assert entry is not None
    return entry


@pytest.fixture
def world() -> World:
    return World("one", "two")


@pytest.fixture
def one(world: World) -> Pilot:
    return world.pilots[0]


async def looks(bridge: Inward, world: World, times: int, *, apart: float = 1.0) -> None:
    """Looks so many times, with that much time between."""
    for _ in range(times):
        world.now += apart
        for pilot in world.pilots:
            pilot.beat()
            pilot.deliver()
        await bridge.look()


async def test_who_is_said_to_be_there_is_registered_with_his_origin_and_his_life(one: Pilot) -> None:
    source = Said(a=found(1, 77, version="2"), b=found(2))
    one.world.wall = 1234.5
    await bridged(one, source).look()
    assert held(one, A) == Entry(
        77, "10.0.0.1:80", State.UP, round(TTL_SECONDS * 1000), {"version": "2", ORIGIN: source.name}, "one"
    )
    assert held(one, B).epoch == 1_234_500


async def test_looking_again_writes_nothing_and_renewing_keeps_everybody(world: World, one: Pilot) -> None:
    source = Said(a=found(1, 77), b=found(2))
    bridge = bridged(one, source)
    await bridge.look()
    writes = [item.key for item in world.paper.log if item.key.startswith("instances/")]
    for _ in range(round(3 * TTL_SECONDS) // 5):
        await world.later(5)
        await bridge.look()
        await bridge.renew()
    assert [item.key for item in world.paper.log if item.key.startswith("instances/")] == writes
    assert one.ids() == ["a", "b"]
    assert not any(instance.suspect for instance in one.registry.instances("orders"))


async def test_a_new_life_replaces_the_old_one_and_an_old_look_does_not_bring_it_back(one: Pilot) -> None:
    source = Said(a=found(1, 77))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({"a": found(2, 80)})
    await bridge.look()
    assert (held(one, A).epoch, held(one, A).address) == (80, "10.0.0.2:80")
    source.says({"a": found(1, 77)})  # of a server that lags
    await bridge.look()
    assert held(one, A).epoch == 80
    assert bridge.statistics().stale == 1


async def test_a_source_that_was_set_back_is_believed_in_the_end(world: World, one: Pilot) -> None:
    source = Said(a=found(1, 77), b=found(2, 78))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({"a": found(9, 3), "b": found(2, 4)})  # wiped, and everybody is there again, one elsewhere
    await looks(bridge, world, LOOKS)
    assert (held(one, A).epoch, held(one, B).epoch) == (77, 78)
    await looks(bridge, world, 2, apart=SECONDS)
    assert (held(one, A).epoch, held(one, A).address) == (78, "10.0.0.9:80")
    assert held(one, B).epoch == 78, "as far as anybody can tell it has lived on"
    before = world.paper.revision
    await bridge.look()
    assert world.paper.revision == before


async def test_a_few_who_are_gone_have_gone(one: Pilot) -> None:
    source = Said(a=found(1), b=found(2), c=found(3))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({"a": found(1), "b": found(2)})
    await bridge.look()
    assert one.ids() == ["a", "b"]
    assert held(one, C).final


@pytest.mark.parametrize("left", [{}, {"a": found(1)}])
async def test_an_empty_or_more_than_halved_answer_is_doubted_and_then_believed_in_stages(
    world: World, one: Pilot, left: Mapping[str, Found]
) -> None:
    source = Said(a=found(1), b=found(2), c=found(3), d=found(4))
    bridge = bridged(one, source)
    await bridge.look()
    source.says(left)
    await looks(bridge, world, 10)
    assert one.ids() == ["a", "b", "c", "d"]
    assert bridge.statistics().doubted == 10
    world.now += SECONDS
    sizes = []
    for _ in range(4):
        await looks(bridge, world, 1, apart=STAGE_SECONDS)
        sizes.append(len(one.ids()))
        await looks(bridge, world, 10, apart=0.05)
        assert len(one.ids()) == sizes[-1], "a stage is a time, however often anybody looks"
    assert sizes == ([2, 1, 1, 1] if left else [2, 1, 0, 0])


async def test_a_doubt_begins_anew_when_they_were_seen_meanwhile(world: World, one: Pilot) -> None:
    source = Said(a=found(1))
    bridge = bridged(one, source)
    await bridge.look()
    for _ in range(2):
        source.says({})
        await looks(bridge, world, LOOKS + 2, apart=SECONDS / LOOKS / 2)
        source.says({"a": found(1)})
        await looks(bridge, world, 1)
    assert one.ids() == ["a"]


async def test_a_service_that_is_said_to_be_empty_is(one: Pilot) -> None:
    source = Said(a=found(1), b=found(2))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({}, emptied={"orders"})
    await bridge.look()
    assert one.ids() == []


async def test_who_cannot_be_understood_any_more_stays_as_he_was(one: Pilot) -> None:
    source = Said(a=found(1), b=found(2))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({"b": found(2)}, unclear={A})
    await bridge.look()
    assert one.ids() == ["a", "b"]
    assert bridge.statistics().refused == 1


async def test_a_source_that_does_not_answer_changes_nothing_for_hours(world: World, one: Pilot) -> None:
    source = Said(a=found(1), b=found(2))
    bridge = bridged(one, source)
    await bridge.look()
    source.look_is = None
    for _ in range(4 * 60):
        world.now += 15
        for pilot in world.pilots:
            pilot.beat()
            pilot.deliver()
        with pytest.raises(Unreachable):
            await bridge.look()
        await bridge.renew()
        one.registry.look()
        await one.registry.write_down()
    assert one.ids() == ["a", "b"]


async def test_who_registers_himself_is_not_replaced_by_what_is_said_of_him(one: Pilot) -> None:
    await one.registry.register(A, Entry(1, "10.0.0.99:80", ttl_ms=10_000))
    source = Said(a=found(1, 77))
    bridge = bridged(one, source)
    await bridge.look()
    assert held(one, A).address == "10.0.0.99:80"
    source.says({})
    await bridge.look()
    assert one.ids() == ["a"]
    assert bridge.statistics().refused == 1


async def test_two_pilots_with_one_bridge_have_one_entry_and_do_not_fight(world: World) -> None:
    source = Said(a=found(1, 77), b=found(2))
    one, two = (bridged(pilot, source) for pilot in world.pilots)
    await one.look()
    await two.look()  # at the same time: neither has been told of the other
    await world.later(1)
    for bridge in (one, two, one, two):
        await bridge.look()
    await world.later(1)
    assert [held(pilot, key).epoch for pilot in world.pilots for key in (A,)] == [77, 77]
    entries = [key for key in world.paper.items if key.startswith("instances/")]
    before = [item for item in world.paper.log if item.key in entries]
    for _ in range(20):
        await world.later(5)
        for bridge in (one, two):
            await bridge.look()
            await bridge.renew()
    assert [item for item in world.paper.log if item.key in entries] == before
    assert one.statistics().instances + two.statistics().instances == 2

    source.says({"a": found(1, 77)})
    for bridge in (one, two):
        await bridge.look()
    await world.later(1)
    assert [pilot.ids() for pilot in world.pilots] == [["a"], ["a"]]


async def test_when_the_pilot_that_tends_them_goes_the_other_ones_bridge_goes_on(world: World) -> None:
    source = Said(a=found(1, 77), b=found(2, 78))
    one, two = (bridged(pilot, source) for pilot in world.pilots)
    await one.look()
    await world.later(3)
    await two.look()
    world.pilots[0].down = True
    for _ in range(round((GONE_SECONDS + 3 * TTL_SECONDS) / 5)):
        await world.later(5)
        await two.look()
        await two.renew()
    assert [(i.id, i.epoch, i.suspect) for i in world.pilots[1].registry.instances("orders")] == [
        ("a", 77, False),
        ("b", 78, False),
    ]
    assert two.statistics().instances == 2


async def test_two_pilots_whose_views_differ_keep_whom_one_of_them_sees(world: World) -> None:
    sees, misses = Said(a=found(1), b=found(2), c=found(3)), Said(a=found(1), b=found(2))
    one, two = bridged(world.pilots[0], sees), bridged(world.pilots[1], misses)
    for _ in range(10):
        await one.look()
        await world.later(2)
        await two.look()
        await world.later(2)
    assert world.pilots[1].ids() == ["a", "b", "c"]
    assert len([item for item in world.paper.log if item.key == key_of(C)]) == 1


@pytest.mark.parametrize("left", [0, 2])
async def test_pilots_that_tend_a_part_of_a_service_each_judge_the_whole(world: World, left: int) -> None:
    ids = [f"{who}{number}" for who in "ab" for number in range(4)]
    everybody = {name: found(number) for number, name in enumerate(ids)}
    sources = Said(), Said()
    bridges = [bridged(pilot, source) for pilot, source in zip(world.pilots, sources, strict=True)]

    async def look(apart: float) -> int:
        world.now += apart
        for pilot in world.pilots:
            pilot.beat()
        for pilot in world.pilots:
            pilot.deliver()
        for bridge in bridges:
            await bridge.look()
        for pilot in world.pilots:
            pilot.deliver()
        return len(world.pilots[0].ids())

    for bridge, source, who in zip(bridges, sources, "ab", strict=True):
        source.says({name: each for name, each in everybody.items() if name.startswith(who)})
        await bridge.look()
    await world.later(1)
    for source in sources:
        source.says(everybody)
    assert await look(1.0) == len(ids)
    assert [bridge.statistics().instances for bridge in bridges] == [4, 4]
    for source in sources:  # at least half of what the second pilot tends, and less than half of all
        source.says({name: everybody[name] for name in ids[4 : 4 + left]})
    assert [await look(1.0) for _ in range(10)] == 10 * [len(ids)]
    sizes = [await look(SECONDS), *[await look(1.0) for _ in range(round(5 * STAGE_SECONDS))]]
    stages = [(size, len(list(times))) for size, times in groupby(sizes)]
    assert [size for size, _ in stages] == ([4, 2] if left else [4, 2, 1, 0])
    assert all(times >= STAGE_SECONDS for _, times in stages)


async def test_whom_another_pilot_does_not_let_go_keeps_nobody_else(world: World) -> None:
    theirs, mine = Said(a=found(1)), Said(b=found(2))
    bridge = bridged(world.pilots[1], mine)
    await bridged(world.pilots[0], theirs).look()
    await bridge.look()
    await world.later(1)
    mine.says({})  # and the other one's goes on
    await looks(bridge, world, LOOKS, apart=SECONDS / 2)
    assert world.pilots[1].ids() == ["a", "b"]
    await looks(bridge, world, 10, apart=SECONDS / 5)
    assert world.pilots[1].ids() == ["a"]


async def test_more_than_a_bridge_takes_is_not_believed_at_all(one: Pilot) -> None:
    source = Said(a=found(1))
    bridge = bridged(one, source)
    await bridge.look()
    source.says({f"i{number}": found(2) for number in range(MAX_INSTANCES + 1)})
    with pytest.raises(Unreachable, match="at most"):
        await bridge.look()
    assert one.ids() == ["a"]


async def test_who_was_taken_out_by_hand_is_back_after_a_while_if_the_source_insists(world: World, one: Pilot) -> None:
    source = Said(a=found(1, 77), b=found(2, 78))
    bridge = bridged(one, source)
    await bridge.look()
    await one.registry.leave(A, 77)
    await looks(bridge, world, LOOKS)
    assert one.ids() == ["b"]
    await looks(bridge, world, 2, apart=SECONDS)
    assert [(i.id, i.epoch) for i in one.registry.instances("orders")] == [("a", 78), ("b", 78)]


async def test_a_later_node_is_a_new_life_also_where_the_registry_counts_higher(world: World, one: Pilot) -> None:
    source = Said(a=found(1, 77))
    bridge = bridged(one, source)
    await one.registry.leave(A, 90)  # by hand, and of whatever comes up to there
    await bridge.look()
    assert one.ids() == [], "it may be of a server that lags, or of one that was set back"
    await looks(bridge, world, LOOKS, apart=SECONDS / 2)
    assert held(one, A).epoch == 91
    source.says({"a": found(2, 80)})
    await bridge.look()
    assert (held(one, A).epoch, held(one, A).address) == (92, "10.0.0.2:80")
    source.says({"a": found(1, 77)})
    await bridge.look()
    assert (held(one, A).epoch, held(one, A).address) == (92, "10.0.0.2:80")
    await one.registry.leave(A, 92)
    source.says({"a": found(3, 85)})
    await bridge.look()
    assert (held(one, A).epoch, held(one, A).address) == (93, "10.0.0.3:80")


async def test_while_the_pilot_is_blind_everybody_is_renewed(world: World, one: Pilot) -> None:
    bridge = bridged(one, Said(a=found(1), b=found(2), c=found(3)))
    await bridge.look()
    one.down = True
    world.now += GONE_SECONDS + 1
    assert one.peers.blind
    with pytest.raises(Unreachable):
        await bridge.renew()
    leases = [one.registry._leases.get(key) for key in (A, B, C)]
    assert [lease.expires for lease in leases if lease is not None] == 3 * [world.now + TTL_SECONDS]


async def test_who_cannot_be_written_is_refused_and_nobody_else(one: Pilot) -> None:
    bridge = bridged(one, Said(a=found(1, zone="\ud800"), b=found(2)))
    for _ in range(2):
        await bridge.look()
    assert (one.ids(), bridge.statistics().refused) == (["b"], 2)


async def test_pilots_that_are_told_different_things_do_not_rewrite_each_other_and_say_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    says_one, says_two = Said(a=found(1, zone="x")), Said(a=found(1, zone="y"))
    one, two = bridged(world.pilots[0], says_one), bridged(world.pilots[1], says_two)
    await one.look()
    await world.later(1)
    for _ in range(round(SECONDS) + 5):
        await one.look()
        await two.look()
        await world.later(1)
        await one.renew()
    assert len([item for item in world.paper.log if item.key == key_of(A)]) == 1
    assert held(world.pilots[1], A).metadata["zone"] == "x"
    assert caplog.text.count("is told otherwise") == 1
    says_one.says({"a": found(1, zone="y")})
    await one.look()
    await world.later(1)
    assert held(world.pilots[1], A).metadata["zone"] == "y"
