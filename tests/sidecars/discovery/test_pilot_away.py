"""No pilot answers for a day: who was known stays known, and the tries to come back are spread by chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


class Tries(Voice):
    """Writes down when a try has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def say(self, subject: str, message: str, *, severity: str = "warning") -> None:
        self.at.append(trio.current_time())


def nothing(*_: object) -> None:
    """Nobody is told."""


async def tries(path: Path, seconds: float, mirror: Mirror) -> Sequence[float]:
    """The pauses between the tries of one sidecar in so many seconds without a pilot."""
    voice = Tries()
    link = PilotLink(
        [f"unix:{path}"],
        mirror,
        follow=["*"],
        token=None,
        heard=nothing,
        renumber=nothing,
        configuration=Configuration(
            "dev", "web", file=path.with_name("config.json"), kept=path.with_name("kept"), voice=voice
        ),
        voice=voice,
    )
    with trio.move_on_after(seconds) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await trio.sleep(seconds - 1)
            link.end()
    assert not scope.cancelled_caught
    return [after - before for before, after in zip(voice.at, voice.at[1:], strict=False)]


async def test_a_day_without_a_pilot_costs_nobody_an_endpoint_and_the_tries_are_spread(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    mirror = Mirror(trio.current_time())
    instances = [Instance("orders", f"i{number}", f"10.0.0.{number}:80", State.UP, 1, 1) for number in range(1, 4)]
    mirror.told(Told("orders", 1, instances), trio.current_time())
    pauses = await tries(tmp_path / "nobody", DAY_S, mirror)
    assert {lease.registration.id for lease in mirror.leases if not lease.suspect} == {"i1", "i2", "i3"}
    assert len(pauses) > DAY_S / SPREAD_SECONDS
    counts = [0] * PARTS
    for pause in pauses:
        counts[min(PARTS - 1, int(PARTS * pause / SPREAD_SECONDS))] += 1
    assert max(pauses) <= SPREAD_SECONDS + 0.1
    assert all(0.8 * len(pauses) / PARTS < each < 1.2 * len(pauses) / PARTS for each in counts), counts
