"""What an app finds as its configuration, whatever a pilot and the disk say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from pannier.shared.pilot_stream import Configuration as Told
from pannier.shared.pilot_stream import FollowConfiguration
from pannier.sidecars.discovery.configuration import Configuration, Held
from pannier.sidecars.discovery.voice import Voice
from pannier.sidecars.pilot.documents.documents import Document, revised


@pytest.fixture
def found(tmp_path: Path) -> Configuration:
    return opened(tmp_path)


def opened(folder: Path) -> Configuration:
    kept = folder / "state" / "web"
    return Configuration("production", "web", file=folder / "config.json", kept=kept, voice=Voice())


def told(version: int, values: Mapping[str, str] | None, when: float = 1.0) -> Told:
    return Told("production", "web", version, when, dict(values) if values is not None else None)


def test_the_app_finds_it_in_a_file_and_a_restart_without_a_pilot_as_well(found: Configuration, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    found.recall()
    found.take(told(0, None))
    assert not file.exists()
    found.take(told(1, {"limit": "5"}))
    assert json.loads(file.read_text()) == {"version": 1, "when": 1.0, "values": {"limit": "5"}}
    file.unlink()
    again = opened(tmp_path)
    again.recall()
    assert again.held == Held(1, 1.0, {"limit": "5"})
    assert json.loads(file.read_text())["version"] == 1
    assert again.asked() == FollowConfiguration("production", "web", 1)


@pytest.mark.parametrize(
    ("version", "when", "taken"),
    [(2, 2.0, False), (3, 3.0, False), (4, 3.0, True), (4, 4.0, True), (1, 9.0, True), (0, 9.0, False)],
)
def test_only_what_is_later_counts(found: Configuration, version: int, when: float, taken: bool) -> None:
    found.take(told(3, {"limit": "5"}, 3.0))
    found.take(told(version, {"limit": "6"}, when))
    assert (found.held.values == {"limit": "6"}) == taken


def test_a_pilot_that_lags_behind_is_not_believed_whatever_the_clocks_of_pilots_say(found: Configuration) -> None:
    """The version before was made by one whose clock is an hour ahead."""
    before = revised(Document(3, 900.0), {}, None, 4_600.0, "")
    after = revised(before, {}, None, 1_000.0, "")
    found.take(told(after.version, {"limit": "5"}, after.when))
    found.take(told(before.version, {"limit": "4"}, before.when))
    assert found.held.values == {"limit": "5"}


def test_a_deleted_one_has_no_values(found: Configuration, tmp_path: Path) -> None:
    found.take(told(1, {"limit": "5"}))
    found.take(told(2, None))
    assert json.loads((tmp_path / "config.json").read_text()) == {"version": 2, "when": 1.0, "values": {}}


@pytest.mark.parametrize("kept", [b"", b"{", b'{"version": "x"}', b"[]"])
def test_what_is_torn_on_the_disk_is_ignored(found: Configuration, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "web").write_bytes(kept)
    found.recall()
    assert found.held == Held()


async def test_who_waits_is_told_of_the_next_version(
    found: Configuration, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:

        async def change() -> None:
            await trio.sleep(5)
            found.take(told(1, {"limit": "5"}))

        nursery.start_soon(change)
        assert (await found.changed(0, wait=30)).version == 1
    begun = trio.current_time()
    assert (await found.changed(1, wait=30)).version == 1
    assert trio.current_time() - begun == 30
    assert (await found.changed(0, wait=30)).version == 1
