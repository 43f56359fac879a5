"""Races between two lives of an instance: a registry without epochs loses the living one to them, and ours does not,
on no store.

The old life's words (it registers, renews, drains, disconnects; its session expires) may come late, between those of
the new one, in any order, to this pilot or to another one on the same store, and at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from pannier.shared.instances import Key, State
from pannier.sidecars.pilot.registry.entries import Entry, key_of
from pannier.sidecars.pilot.registry.peers import Peers
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.etcd import EtcdStore
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import Store
from pannier.sidecars.pilot.stores.zookeeper import ZooKeeperStore
from pannier.sidecars.pilot.stores.zookeeper_session import open_session

Word: TypeAlias = tuple[str, int]
"""What is said, and by which life: 1 is the old one, 2 the new one."""
OLD, NEW = 1, 2
KEY: Final[Key] = ("orders", "a")


def address(life: int) -> str:
    return f"10.0.0.{life}:80"


@dataclass
class Naive:
    """A registry as many are: an entry by service and id, there as long as the stream or session that has made it. It
    does not ask whether that is still the one."""

    entries: dict[Key, str] = field(default_factory=dict)

    def hear(self, word: Word) -> None:
        said, life = word
        if said in {"register", "renew"}:
            self.entries[KEY] = address(life)
        elif said in {"disconnect", "expire"}:
            self.entries.pop(KEY, None)


RACES: Final = {
    "the late disconnect of the old life deletes the new one": [("register", 1), ("register", 2), ("disconnect", 1)],
    "the delayed registration of the old life replaces the new one": [("register", 2), ("register", 1)],
    "a late renewal brings the old life back": [("register", 1), ("register", 2), ("renew", 1)],
    "the end of the old session deletes the new entry": [("register", 1), ("register", 2), ("expire", 1)],
    "a renewal that comes after the end resurrects": [("register", 2), ("disconnect", 2), ("renew", 2)],
    "a registration that comes after its own end is for ever": [("disconnect", 2), ("register", 2)],
}


def right(words: Sequence[Word]) -> str | None:
    """Where the instance is in truth: at the new life's address, unless that one has left."""
    return None if ("disconnect", NEW) in words else address(NEW)


def naively(words: Sequence[Word]) -> str | None:
    registry = Naive()
    for word in words:
        registry.hear(word)
    return registry.entries.get(KEY)


@st.composite
def interleavings(draw: st.DrawFn) -> list[Word]:
    """The words of two lives in the order in which they arrive. The new one has registered; it is never silent for so
    long that it would be given up."""
    old = draw(st.lists(st.sampled_from(["register", "renew", "drain", "disconnect", "expire"]), max_size=5))
    new = ["register", *draw(st.lists(st.sampled_from(["renew", "disconnect"]), max_size=3))]
    return draw(st.permutations([*((word, OLD) for word in old), *((word, NEW) for word in new)]))


@pytest.mark.parametrize("race", RACES)
def test_a_registry_without_epochs_loses(race: str) -> None:
    assert naively(RACES[race]) != right(RACES[race])


def test_a_registry_without_epochs_loses_the_living_to_one_late_word() -> None:
    lost = find(interleavings(), lambda words: right(words) == address(NEW) and naively(words) is None)
    assert {("disconnect", OLD), ("expire", OLD)} & set(lost)


# ours, on each store

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Sequence[Registry]]]
EXAMPLES: Final = {"sqlite": 40, "etcd": 12, "zookeeper": 12}


@asynccontextmanager
async def on_sqlite(path: Path) -> AsyncIterator[Sequence[Registry]]:
    async with open_sqlite(path / secrets.token_hex(8)) as store:
        yield [Registry(store)]


@asynccontextmanager
async def on_etcd(member: tuple[str, int]) -> AsyncIterator[Sequence[Registry]]:
    root = f"fencing/{secrets.token_hex(8)}/"
    yield [sharing(EtcdStore([member], root=root), name) for name in ("one", "two")]


@asynccontextmanager
async def on_zookeeper(member: tuple[str, int]) -> AsyncIterator[Sequence[Registry]]:
    root = f"/fencing/{secrets.token_hex(8)}"
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_session([member])) for _ in range(2)]
        yield [sharing(ZooKeeperStore(session, root=root), f"pilot-{session.id}") for session in sessions]


def sharing(store: Store, name: str) -> Registry:
    peers = Peers(store, name)
    peers._heard[name] = (1, trio.current_time())  # it hears its store
    return Registry(store, peers=peers)


@pytest.fixture(params=EXAMPLES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Open, int]:
    """Opens pilots on a new store of that kind, two where two can share it; how often that is done."""
    examples = EXAMPLES[request.param]
    if request.param == "sqlite":
        return lambda: on_sqlite(tmp_path), examples
    member = request.getfixturevalue(request.param)
    open_it = on_etcd if request.param == "etcd" else on_zookeeper
    return lambda: open_it(member), examples


async def hear(registry: Registry, word: Word) -> None:
    said, life = word
    if said in {"register", "renew"}:
        await registry.register(KEY, Entry(life, address(life), ttl_ms=10_000))
    elif said == "drain":
        await registry.move(KEY, life, State.DRAINING)
    elif said == "disconnect":
        await registry.leave(KEY, life)
    else:
        registry._missed[KEY] = life
        await registry.write_down()


async def stored(registry: Registry) -> str | None:
    """Where the store itself has the instance."""
    item = await registry._store.get(key_of(KEY))
    assert item is not None and item.value is not None
    entry = msgspec.msgpack.decode(item.value, type=Entry)
    assert entry.epoch == NEW and entry.state is State.UP
    return None if entry.gone else entry.address


async def played(open_it: Open, words: Sequence[Word], *, at_once: int) -> str | None:
    """What comes of the words, so many of which come at the same time, at one pilot after the other."""
    async with open_it() as registries:
        for begin in range(0, len(words), at_once):
            async with trio.open_nursery() as nursery:
                for number, word in enumerate(words[begin : begin + at_once], begin):
                    nursery.start_soon(hear, registries[number % len(registries)], word)
        return await stored(registries[0])


@pytest.mark.parametrize("race", RACES)
def test_the_same_races_do_not_happen_here(opened: tuple[Open, int], race: str) -> None:
    assert trio.run(lambda: played(opened[0], RACES[race], at_once=1)) == right(RACES[race])


def test_no_interleaving_of_two_lives_loses_the_new_one(opened: tuple[Open, int]) -> None:
    open_it, examples = opened

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(interleavings(), st.integers(1, 4))
    def play(words: list[Word], at_once: int) -> None:
        assert trio.run(lambda: played(open_it, words, at_once=at_once)) == right(words)

    play()
