"""What a discovery announces beside its own instance, and what becomes of it on other hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.detours import HEADROOM, OF, WEIGHT, Share
from pannier.shared.instances import Key, State
from pannier.shared.leases import Leases, Registration
from pannier.sidecars.discovery.voice import Voice
from pannier.sidecars.discovery.vouched_files import VouchedFiles
from pannier.sidecars.discovery.vouching import PACE_SECONDS, ROUND_SECONDS, TTL_SECONDS, Vouching

from tests.sidecars.discovery.neighbours import neighbour
from tests.system.host import Host
from tests.system.test_pilot import start

GATEWAY = "10.77.0.2:15090"
DETOUR, CENTRAL, PLAIN = ("orders", "a.c"), ("central", "c"), ("db", "one")


class Central:
    """A discovery's leases, what it tells a pilot, and who reads its file."""

    def __init__(self, folder: Path) -> None:
        self.leases = Leases(trio.current_time())
        self.told: list[tuple[float, Registration | Key]] = []
        self.wall = 1e9
        self.folder = folder
        self.reader = VouchedFiles(folder / "registry", "web@w")
        self.vouching = self.begin()

    def begin(self) -> Vouching:
        return Vouching(
            self.leases,
            VouchedFiles(self.folder / "registry", "central@c"),
            ttl=30.0,
            voice=Voice(),
            pilot=lambda registration: self.told.append((trio.current_time(), registration)),
            withdraw=lambda key: self.told.append((trio.current_time(), key)),
            wall_clock=lambda: self.wall,
        )

    async def put(self, key: Key, *, state: State = State.UP, epoch: int = 1, **metadata: str) -> None:
        self.leases.register(Registration(*key, GATEWAY, epoch, 5.0, state, metadata), trio.current_time())
        self.vouching.touched(key)
        await trio.sleep(ROUND_SECONDS)  # of the tests' own clock

    async def shift(self, weight: int, *, epoch: int = 1) -> None:
        await self.put(DETOUR, epoch=epoch, **{OF: "a", WEIGHT: str(weight)})

    async def delete(self, key: Key) -> None:
        self.leases.deregister(key)
        self.vouching.touched(key)
        await trio.sleep(ROUND_SECONDS)  # of the tests' own clock

    def weights(self) -> list[tuple[float, str | None]]:
        """What a pilot was told and when; None is an end."""
        return [(when, one.metadata[WEIGHT] if isinstance(one, Registration) else None) for when, one in self.told]

    def on_this_host(self) -> dict[str, State]:
        return {one.id: one.state for one in self.reader.scan(trio.current_time()).beats}


@pytest.fixture
async def central(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> AsyncIterator[Central]:
    found = Central(tmp_path)
    nursery.start_soon(found.vouching.run)
    yield found
    nursery.cancel_scope.cancel()


async def test_a_change_is_told_at_once_and_the_next_ones_at_most_four_times_a_second(
    central: Central, autojump_clock
) -> None:
    began = trio.current_time()
    for weight in range(1, 101):
        await central.shift(weight)
        await trio.sleep(0.01)
    await trio.sleep(1)
    times = [when - began for when, _ in central.weights()]
    assert times[0] == 0
    assert all(later - earlier >= PACE_SECONDS for earlier, later in pairwise(times))
    assert 2 < len(times) <= (trio.current_time() - began) / PACE_SECONDS + 1
    assert central.weights()[-1][1] == "100"


async def test_an_end_is_told_at_once_and_a_detour_vanishes(central: Central, autojump_clock) -> None:
    await central.shift(40)
    await central.shift(50)
    assert central.on_this_host() == {"a.c": State.UP}
    await central.delete(DETOUR)
    assert [weight for _, weight in central.weights()] == ["40", None]
    await trio.sleep(PACE_SECONDS)
    assert central.reader.scan(trio.current_time()).removed == ((DETOUR, round(1e12)),)
    assert not central.vouching.is_own(DETOUR)


async def test_it_is_renewed_while_it_is_there_and_one_that_says_nothing_new_is_not_told_again(
    central: Central, autojump_clock
) -> None:
    seen = 0
    for _ in range(60):
        await central.shift(40)
        await trio.sleep(1)
        central.leases.expire(trio.current_time())
        seen += bool(central.on_this_host())
    assert seen >= 60 / (TTL_SECONDS / 3) - 1
    assert len(central.told) == 1
    (told,) = (one for _, one in central.told)
    assert isinstance(told, Registration) and told.ttl == TTL_SECONDS


async def test_a_central_says_that_it_drains_before_it_goes(central: Central, autojump_clock) -> None:
    await central.put(CENTRAL, **{HEADROOM: "12000"})
    await trio.sleep(1)
    assert central.on_this_host() == {"c": State.UP}
    await central.delete(CENTRAL)
    await trio.sleep(0.3)
    assert central.on_this_host() == {"c": State.DRAINING}
    await trio.sleep(1)
    scan = central.reader.scan(trio.current_time())
    assert ([key for key, _ in scan.removed], scan.wiped) == ([CENTRAL], ())


async def test_what_has_no_key_of_centrals_is_told_to_nobody_and_neither_is_what_another_discovery_told(
    central: Central, autojump_clock
) -> None:
    await central.put(PLAIN, version="1")
    heard = Registration(*DETOUR, GATEWAY, 1, 5.0, metadata={OF: "a", WEIGHT: "1"}, source="registry")
    central.leases.register(heard, trio.current_time())
    central.vouching.touched(DETOUR)
    await trio.sleep(1)
    assert (central.told, central.on_this_host()) == ([], {})


async def test_each_life_has_a_greater_epoch_also_after_a_restart_with_a_clock_that_was_set_back(
    central: Central, nursery: trio.Nursery, autojump_clock
) -> None:
    def epochs() -> list[int]:
        return [one.epoch for _, one in central.told if isinstance(one, Registration)]

    await central.shift(40)
    await trio.sleep(1)
    await central.shift(50)
    await trio.sleep(1)
    await central.shift(50, epoch=2)
    await trio.sleep(1)
    assert [epoch - epochs()[0] for epoch in epochs()] == [0, 0, 1]
    central.vouching.renumber(DETOUR, epochs()[0] + 500)
    central.vouching.renumber(DETOUR, 3)
    await trio.sleep(1)
    assert epochs()[-1] == epochs()[0] + 500
    central.wall -= 1000
    central.leases = Leases(trio.current_time())
    central.vouching = central.begin()
    nursery.start_soon(central.vouching.run)
    await central.shift(60)
    assert epochs()[-1] == epochs()[0] + 501


async def test_the_end_of_the_service_ends_all_of_it(central: Central, autojump_clock) -> None:
    await central.shift(40)
    await trio.sleep(1)
    central.on_this_host()
    central.vouching.leave()
    assert central.told[-1][1] == DETOUR
    assert [key for key, _ in central.reader.scan(trio.current_time()).removed] == [DETOUR]


async def test_the_file_goes_when_others_have_read_that_it_drains(central: Central, autojump_clock) -> None:
    file = central.folder / "registry" / ".vouched" / "central@c.json"
    await central.put(CENTRAL, **{HEADROOM: "12000"})
    await trio.sleep(1)
    central.on_this_host()
    central.vouching.leave()
    assert (central.on_this_host(), file.exists()) == ({"c": State.DRAINING}, True)
    await central.vouching.vanish()
    assert not file.exists()
    assert [key for key, _ in central.reader.scan(trio.current_time()).removed] == [CENTRAL]


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Path]:
    host = Host(tmp_path)
    process, _ = start(host)
    yield host.runtime / "pilot.sock"
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.semantics(
    "discovery", "What goes by way of a Central is in all tables, and goes straight when the Central says nothing more"
)
async def test_what_a_central_says_is_in_the_tables_beside_it_and_elsewhere_until_it_says_nothing(
    pilot: Path, short_path: Path
) -> None:
    async with (
        neighbour(short_path / "a" / "central", pilot) as central,
        neighbour(short_path / "a" / "beside", None) as beside,
        neighbour(short_path / "b" / "web", pilot) as elsewhere,
    ):
        for one in (central, beside, elsewhere):
            await one.register("e", "10.77.0.9:80")
        for weight in (40.0, 12.5):
            await central.shift("e", weight)
            for one in (central, beside, elsewhere):
                await one.wait_for({"e": (Share(GATEWAY, weight),)})
        assert await central.ask("DELETE", "/v1/instances/orders/e.central") == 200
        for one in (central, beside, elsewhere):
            await one.wait_for({"e": ()})
        await central.shift("e", 5, ttl="1s")
        await elsewhere.wait_for({"e": (Share(GATEWAY, 5.0),)})
        for one in (central, beside, elsewhere):
            await one.wait_for({"e": ()})  # it was not renewed
