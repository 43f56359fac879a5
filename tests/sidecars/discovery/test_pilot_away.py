"""No pilot answers for a day: who was known stays known, and the tries to come back are spread by chance."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.detours import OF, WEIGHT
from pannier.shared.instances import State
from pannier.shared.leases import Registration
from pannier.shared.pilot_stream import Answer, Instance, StreamError, Told
from pannier.sidecars.discovery.config import Pilot as Settings
from pannier.sidecars.discovery.configuration import Configuration
from pannier.sidecars.discovery.mirror import Mirror
from pannier.sidecars.discovery.pilot import DETOURS_SECONDS, Pilot
from pannier.sidecars.discovery.pilot_link import AGAIN_SECONDS, HURRY_SECONDS, SPREAD_SECONDS, PilotLink
from pannier.sidecars.discovery.voice import Voice

DAY_S = 86_400.0
PARTS = 10


def nothing(*_: object) -> None:
    """Nobody is told."""


def link_to(addresses: list[str], mirror: Mirror, folder: Path) -> PilotLink:
    voice = Voice()
    return PilotLink(
        addresses,
        mirror,
        follow=["*"],
        token=None,
        heard=nothing,
        renumber=nothing,
        configuration=Configuration("dev", "web", file=folder / "config.json", kept=folder / "kept", voice=voice),
        voice=voice,
    )


async def test_shares_by_way_of_centrals_outlast_a_pilot_for_a_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    mirror, voice = Mirror(trio.current_time()), Voice()
    way = Instance("orders", "i1.c", "10.9.9.9:15090", State.UP, 1, 1, {OF: "i1", WEIGHT: "40"})
    mirror.told(Told("orders", 1, [Instance("orders", "i1", "10.0.0.1:80", State.UP, 1, 1), way]), 0.0)
    changes: list[float] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        pilot = Pilot(
            Settings([f"unix:{tmp_path / 'nobody'}"]),
            mirror,
            Configuration("dev", "web", file=tmp_path / "config.json", kept=tmp_path / "kept", voice=voice),
            tmp_path / "endpoints",
            changed=lambda: changes.append(trio.current_time() - began),
            renumber=nothing,
            voice=voice,
            nursery=nursery,
            timeout=1.0,
        )
        pilot.start()
        while trio.current_time() - began < 2 * DETOURS_SECONDS:
            pilot.look()
            await trio.sleep(0.5)
        pilot.end()
        nursery.cancel_scope.cancel()
    assert changes == [pytest.approx(DETOURS_SECONDS, abs=0.5)]
    assert [lease.registration.id for lease in mirror.leases] == ["i1"]


async def test_a_day_without_a_pilot_costs_nobody_an_endpoint_and_the_tries_are_spread(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    draw = random.uniform

    def drawn(least: float, most: float) -> float:
        pauses.append(draw(least, most))
        return pauses[-1]

    monkeypatch.setattr(random, "uniform", drawn)  # after each try that has failed
    mirror = Mirror(trio.current_time())
    instances = [Instance("orders", f"i{number}", f"10.0.0.{number}:80", State.UP, 1, 1) for number in range(1, 4)]
    mirror.told(Told("orders", 1, instances), trio.current_time())
    link = link_to([f"unix:{tmp_path / 'nobody'}"], mirror, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.sleep(DAY_S)
        link.end()
    assert {lease.registration.id for lease in mirror.leases if not lease.suspect} == {"i1", "i2", "i3"}
    assert sum(pauses[:-1]) <= DAY_S <= sum(pauses), "it has tried all day"
    counts = [0] * PARTS
    for pause in pauses:
        counts[min(PARTS - 1, int(PARTS * pause / SPREAD_SECONDS))] += 1
    assert all(0.8 * len(pauses) / PARTS < each < 1.2 * len(pauses) / PARTS for each in counts), counts


async def test_who_speaks_for_a_central_is_back_within_a_second(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda _, most: pauses.append(most) or most)
    link = link_to([f"unix:{tmp_path / 'nobody'}"], Mirror(trio.current_time()), tmp_path)
    link.announce(Registration("orders", "i1.c", "10.9.9.9:15090", 1, 10.0, metadata={OF: "i1", WEIGHT: "40"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.sleep(3.5)
        link.end()
    assert pauses == [HURRY_SECONDS] * 4


async def test_many_refusals_at_once_are_one(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    link = link_to(["unix:/a", "unix:/b"], Mirror(trio.current_time()), tmp_path)
    for _ in range(256):
        link._heard_answer(Answer(1, error="the store does not answer", elsewhere=True))
    await trio.sleep(AGAIN_SECONDS)
    with pytest.raises(StreamError, match="the store does not answer"):
        link._heard_answer(Answer(1, error="the store does not answer", elsewhere=True))
