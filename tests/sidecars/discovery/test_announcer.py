"""What the others see of an instance while its sidecar leaves."""

from pathlib import Path

import pytest
import trio
from pannier.shared.instances import State
from pannier.shared.leases import Leases
from pannier.shared.messages import Lifecycle
from pannier.sidecars.discovery.announcer import HANDOVER_SECONDS, Announcer
from pannier.sidecars.discovery.config import Config, Instance
from pannier.sidecars.discovery.epochs import Epochs
from pannier.sidecars.discovery.registry import SHOWN_SECONDS, Record, Registry, Scan
from pannier.sidecars.discovery.voice import Voice

KEY = ("orders", "o-1")


def lifecycle(state: str) -> Lifecycle:
    return Lifecycle("orders", "dev", state, [])


class Host:
    """A registry, one announcer in it, and somebody who reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = Registry(folder / "registry")
        self.reader = Registry(folder / "registry")
        self.announcer = self.begin()

    def begin(self) -> Announcer:
        return Announcer(
            Config(instance=Instance(address="127.0.0.1:8001")),
            *KEY,
            leases=Leases(0),
            registry=self.own,
            epochs=Epochs(self.folder / "epochs"),
            changed=lambda: None,
            voice=Voice(),
        )

    def add_other(self) -> None:
        self.reader.write(Record("payments", "p-1", "127.0.0.1:8002", 1, State.UP, 10_000))

    def look(self) -> Scan:
        self.own.scan(trio.current_time())
        return self.reader.scan(trio.current_time())

    async def leave(self, *, ending: bool, cancelled: bool = False) -> tuple[list[Scan], float]:
        """What a look each half second sees, and how long leaving takes."""
        scans: list[Scan] = []

        async def watch() -> None:
            while True:
                scans.append(self.look())
                await trio.sleep(0.5)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            with trio.CancelScope() as scope:
                if cancelled:
                    scope.cancel()
                await self.announcer.leave(trio.current_time(), ending=ending)
            nursery.cancel_scope.cancel()
        took = trio.current_time() - began
        return [*scans, self.look()], took


@pytest.fixture
def host(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_whoever_ends_unannounced_shows_draining_before_the_file_goes(
    host: Host, cancelled: bool, autojump_clock
) -> None:
    host.add_other()
    host.announcer.lifecycle(lifecycle("ready"), trio.current_time())
    host.look()
    scans, took = await host.leave(ending=True, cancelled=cancelled)
    assert State.DRAINING in [beat.state for scan in scans for beat in scan.beats if beat.id == "o-1"]
    assert [key for scan in scans for key, _ in scan.removed] == [KEY]
    assert not any(scan.wiped for scan in scans)
    assert took == pytest.approx(SHOWN_SECONDS)


async def test_draining_that_has_stood_long_enough_is_not_waited_for(host: Host, autojump_clock) -> None:
    host.add_other()
    host.announcer.lifecycle(lifecycle("ready"), trio.current_time())
    host.announcer.lifecycle(lifecycle("draining"), trio.current_time())
    host.look()
    await trio.sleep(1)
    scans, took = await host.leave(ending=False)
    assert [key for scan in scans for key, _ in scan.removed] == [KEY]
    assert took == 0


async def test_whoever_is_alone_does_not_wait(host: Host, autojump_clock) -> None:
    host.announcer.lifecycle(lifecycle("ready"), trio.current_time())
    host.look()
    _, took = await host.leave(ending=True)
    assert took == 0
    assert not (host.folder / "registry" / "orders").exists()


async def test_a_sidecar_that_ends_alone_is_dropped_by_the_others_unless_it_comes_back(
    host: Host, autojump_clock
) -> None:
    leases = Leases(trio.current_time())
    host.add_other()
    host.announcer.lifecycle(lifecycle("ready"), trio.current_time())
    for beat in host.look().beats:
        leases.register(beat, trio.current_time())
    scans, _ = await host.leave(ending=False)
    (last_word,) = [beat for scan in scans for beat in scan.beats if beat.id == "o-1"]
    assert (last_word.state, last_word.ttl) == (State.DRAINING, HANDOVER_SECONDS)
    leases.register(last_word, trio.current_time())
    evicted: list[object] = []
    for _ in range(round(HANDOVER_SECONDS)):
        await trio.sleep(1)
        evicted += leases.expire(trio.current_time()).evicted
    assert evicted == [KEY]

    successor = host.begin()
    assert successor.is_own(KEY)
    successor.lifecycle(lifecycle("ready"), trio.current_time())
    (word,) = host.look().beats
    assert (word.state, word.epoch > last_word.epoch) == (State.UP, True)
