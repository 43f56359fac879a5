"""No pilot answers for a day: who was known stays known, and the tries to come back are spread by chance."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance, Told
from pannier.sidecars.discovery.configuration import Configuration
from pannier.sidecars.discovery.mirror import Mirror
from pannier.sidecars.discovery.pilot_link import SPREAD_SECONDS, PilotLink
from pannier.sidecars.discovery.voice import Voice

DAY_S = 86_400.0
PARTS = 10


def nothing(*_: object) -> None:
    """Nobody is told."""


async def test_a_day_without_a_pilot_costs_nobody_an_endpoint_and_the_tries_are_spread(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    draw = random.uniform

    def drawn(least: float, most: float) -> float:
        pauses.append(draw(least, most))
        return pauses[-1]

    monkeypatch.setattr(random, "uniform", drawn)  # after each try that has failed
    mirror, voice = Mirror(trio.current_time()), Voice()
    instances = [Instance("orders", f"i{number}", f"10.0.0.{number}:80", State.UP, 1, 1) for number in range(1, 4)]
    mirror.told(Told("orders", 1, instances), trio.current_time())
    link = PilotLink(
        [f"unix:{tmp_path / 'nobody'}"],
        mirror,
        follow=["*"],
        token=None,
        heard=nothing,
        renumber=nothing,
        configuration=Configuration("dev", "web", file=tmp_path / "config.json", kept=tmp_path / "kept", voice=voice),
        voice=voice,
    )
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
