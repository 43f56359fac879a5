"""What discoveries of one host tell each other of Centrals: processes that only share a folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from pannier.shared.detours import HEADROOM, OF, WEIGHT
from pannier.shared.errors import PannierError
from pannier.shared.instances import State
from pannier.sidecars.discovery.registry import Record, Registry
from pannier.sidecars.discovery.vouched_files import DEAD_SECONDS, FOLDER, VouchedFiles

CENTRAL = Record("central", "c", "10.77.0.2:15090", 7, State.UP, 10_000, {HEADROOM: "12000"})
KEYS = (("orders", "a.c"), ("orders", "b.c"))


def by_way(of: str, weight: str = "40") -> Record:
    return Record("orders", f"{of}.c", "10.77.0.2:15090", 7, State.UP, 10_000, {OF: of, WEIGHT: weight})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def writer(root: Path) -> VouchedFiles:
    return VouchedFiles(root, "central@c")


@pytest.fixture
def reader(root: Path) -> VouchedFiles:
    return VouchedFiles(root, "web@w")


def beats(files: VouchedFiles, now: float) -> set[str]:
    return {one.id for one in files.scan(now).beats}


def test_what_one_writes_others_read_once_a_change_and_he_does_not(writer: VouchedFiles, reader: VouchedFiles) -> None:
    writer.write([by_way("a"), by_way("b"), CENTRAL])
    assert beats(reader, 0) == {"a.c", "b.c", "c"}
    assert (beats(reader, 1), beats(writer, 1)) == (set(), set())
    writer.write([by_way("a"), by_way("b", "50"), CENTRAL])
    (one,) = [one for one in reader.scan(2).beats if one.id == "b.c"]
    assert (one.metadata[WEIGHT], one.source, one.ttl, one.epoch) == ("50", "registry", 10.0, 7)


def test_a_detour_that_is_not_in_it_any_more_is_removed_and_anything_else_is_doubted(
    writer: VouchedFiles, reader: VouchedFiles
) -> None:
    writer.write([by_way("a"), by_way("b"), CENTRAL])
    reader.scan(0)
    writer.write([by_way("b")])
    scan = reader.scan(1)
    assert (scan.removed, scan.wiped) == (((KEYS[0], 7),), (("central", "c"),))


def test_who_said_that_he_drains_is_removed_and_an_empty_file_goes(
    root: Path, writer: VouchedFiles, reader: VouchedFiles
) -> None:
    writer.write([by_way("a"), CENTRAL])
    reader.scan(0)
    writer.write([by_way("a"), msgspec.structs.replace(CENTRAL, state=State.DRAINING)])
    reader.scan(1)
    writer.write([])
    scan = reader.scan(2)
    assert (dict(scan.removed).keys(), scan.wiped) == ({KEYS[0], ("central", "c")}, ())
    assert not root.exists()


def test_a_corpse_is_not_believed_until_it_moves_and_is_buried(
    root: Path, writer: VouchedFiles, reader: VouchedFiles
) -> None:
    writer.write([by_way("a")])
    file = root / FOLDER / "central@c.json"
    found = file.stat()
    os.utime(file, (found.st_atime, found.st_mtime - 60))
    assert beats(reader, 0) == set()
    writer.write([by_way("a")])
    assert beats(reader, 1) == {"a.c"}
    reader.scan(2 + DEAD_SECONDS)
    assert not file.exists()


@pytest.mark.parametrize("data", [b"", b"[", b"{}", b'[{"service": "orders"}]', b"[]" + b" " * (4 << 20)])
def test_what_is_no_such_file_is_ignored_and_what_was_read_before_stays(
    root: Path, writer: VouchedFiles, reader: VouchedFiles, data: bytes
) -> None:
    writer.write([by_way("a")])
    reader.scan(0)
    (root / FOLDER / "central@c.json").write_bytes(data)
    scan = reader.scan(1)
    assert (scan.beats, scan.removed, scan.wiped) == ((), (), ())
    assert writer.last_epoch() == 0


def test_the_registry_of_instances_does_not_look_into_it(root: Path, writer: VouchedFiles) -> None:
    writer.write([by_way("a")])
    assert writer.last_epoch() == 7
    assert Registry(root).scan(0).beats == ()


def test_a_folder_that_is_not_ours_is_not_written_into(root: Path, writer: VouchedFiles, tmp_path: Path) -> None:
    root.mkdir(mode=0o700)
    (root / FOLDER).symlink_to(tmp_path)
    with pytest.raises(PannierError, match="symbolic link"):
        writer.write([by_way("a")])


def test_a_folder_that_cannot_be_read_takes_nothing_away(
    root: Path, writer: VouchedFiles, reader: VouchedFiles
) -> None:
    writer.write([by_way("a")])
    assert beats(reader, 0) == {"a.c"}
    (root / FOLDER).rename(root / "aside")
    (root / FOLDER).touch()
    with pytest.raises(PannierError, match="cannot use the registry"):
        reader.scan(1)
    (root / FOLDER).unlink()
    assert [key for key, _ in reader.scan(2).removed] == [KEYS[0]]
