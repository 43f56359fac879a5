"""The host's registry: two processes that only share a folder."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from pannier.shared.errors import PannierError
from pannier.shared.instances import State
from pannier.sidecars.discovery.files import FILE_LIMIT
from pannier.sidecars.discovery.registry import DEAD_SECONDS, Record, Registry, Scan

ORDERS = Record("orders", "o-1", "127.0.0.1:8001", 5, State.UP, 10_000, {"zone": "a"})
DRAINING = msgspec.structs.replace(ORDERS, state=State.DRAINING)
PAYMENTS = Record("payments", "p-1", "127.0.0.1:8002", 7, State.UP, 10_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def file_of(root: Path, record: Record) -> Path:
    return root / record.service / f"{record.id}.json"


def grow_older(path: Path, seconds: float) -> None:
    found = path.stat()
    os.utime(path, (found.st_atime, found.st_mtime - seconds))


def beats(registry: Registry, now: float) -> set[str]:
    return {one.id for one in registry.scan(now).beats}


def settle(root: Path) -> None:
    """As if the last change was some time ago, long enough for file times to show the next one."""
    for folder in (root, *root.iterdir()):
        grow_older(folder, 1.0)


def test_folders_in_which_nothing_changed_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Registry(root), Registry(root)
    first.write(ORDERS)
    first.write(PAYMENTS)
    second.scan(0)
    settle(root)
    assert beats(second, 1) == set()
    read: list[str] = []
    scandir = os.scandir

    def noting(path: str | Path) -> Iterator[os.DirEntry[str]]:
        read.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noting)
    assert beats(second, 2) == set()
    assert read == []
    first.write(ORDERS)
    assert beats(second, 3) == {"o-1"}
    assert str(root / "orders") in read


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Registry(root).write(ORDERS),
        lambda root: Registry(root).write(msgspec.structs.replace(ORDERS, id="o-2")),
        lambda root: Registry(root).write(msgspec.structs.replace(ORDERS, service="carts")),
        lambda root: file_of(root, ORDERS).unlink(),
        lambda root: shutil.rmtree(root / "orders"),
        shutil.rmtree,
    ],
    ids=["renewed", "another instance", "another service", "a file removed", "a folder removed", "all removed"],
)
def test_after_stillness_every_change_is_seen(root: Path, change: Callable[[Path], None]) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.scan(0)
    settle(root)
    registry.scan(1)
    assert registry.scan(2) == Scan()
    change(root)
    assert registry.scan(3) != Scan()


def test_two_find_each_other_and_only_changes_beat(root: Path) -> None:
    first, second = Registry(root), Registry(root)
    first.write(ORDERS)
    second.write(PAYMENTS)
    assert beats(second, 0) == {"o-1", "p-1"}
    assert beats(second, 1) == set()
    first.write(ORDERS)
    (beat,) = second.scan(2).beats
    assert beat == ORDERS.registration()
    assert beat.metadata == {"zone": "a"}
    assert beat.ttl == 10


def test_a_file_removed_after_it_said_draining_is_a_deliberate_end(root: Path) -> None:
    first, second = Registry(root), Registry(root)
    first.write(ORDERS)
    second.write(PAYMENTS)
    second.scan(0)
    first.write(DRAINING)
    second.scan(0.5)
    first.remove(("orders", "o-1"), 5)
    assert second.scan(1).removed == ((("orders", "o-1"), 5),)
    assert second.scan(2).removed == ()


def test_a_file_of_a_newer_incarnation_is_not_removed(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.remove(("orders", "o-1"), 4)
    assert file_of(root, ORDERS).exists()


@pytest.mark.semantics("discovery", "A wiped registry ends nobody")
def test_a_wiped_folder_doubts_instead_of_ending(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.write(PAYMENTS)
    registry.scan(0)
    for record in (ORDERS, PAYMENTS):
        file_of(root, record).unlink()
        file_of(root, record).parent.rmdir()
    root.rmdir()
    scan = registry.scan(1)
    assert scan.removed == ()
    assert set(scan.wiped) == {("orders", "o-1"), ("payments", "p-1")}


def test_a_wiped_folder_doubts_also_when_one_owner_has_renewed_first(root: Path) -> None:
    owner, reader = Registry(root), Registry(root)
    owner.write(ORDERS)
    owner.write(PAYMENTS)
    reader.scan(0)
    shutil.rmtree(root)
    owner.write(ORDERS)
    scan = reader.scan(1)
    assert [beat.id for beat in scan.beats] == ["o-1"]
    assert scan.removed == ()
    assert scan.wiped == (("payments", "p-1"),)


def test_who_left_a_last_word_and_never_came_back_is_buried(root: Path) -> None:
    registry = Registry(root)
    registry.write(DRAINING)
    registry.write(PAYMENTS)
    assert not registry.has_others(("payments", "p-1"))
    registry.scan(0)
    assert registry.has_others(("payments", "p-1"))
    registry.scan(20)
    assert file_of(root, ORDERS).exists()
    registry.scan(21)
    assert not file_of(root, ORDERS).exists()
    assert registry.scan(22).removed == ((("orders", "o-1"), 5),)
    assert file_of(root, PAYMENTS).exists()


def test_the_only_instance_may_leave_after_it_said_draining(root: Path) -> None:
    registry, other = Registry(root), Registry(root)
    registry.write(ORDERS)
    other.scan(0)
    registry.write(DRAINING)
    other.scan(1)
    registry.remove(("orders", "o-1"), 5)
    assert other.scan(2).removed == ((("orders", "o-1"), 5),)


@pytest.mark.parametrize("age", [60.0, -60.0])
def test_a_corpse_is_not_announced_until_it_moves(root: Path, age: float) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    grow_older(file_of(root, ORDERS), age)
    assert beats(registry, 0) == set()
    registry.write(ORDERS)
    assert beats(registry, 1) == {"o-1"}


def test_a_wall_clock_that_jumps_does_not_stop_the_beats(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    assert beats(registry, 0) == {"o-1"}
    registry.write(ORDERS)
    grow_older(file_of(root, ORDERS), 3600)
    assert beats(registry, 1) == {"o-1"}


def test_the_long_dead_are_buried(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.scan(0)
    registry.scan(DEAD_SECONDS)
    assert file_of(root, ORDERS).exists()
    registry.scan(DEAD_SECONDS + 1)
    assert not file_of(root, ORDERS).exists()


def test_the_last_one_out_leaves_no_folder(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.write(PAYMENTS)
    registry.remove((ORDERS.service, ORDERS.id), ORDERS.epoch)
    assert [folder.name for folder in root.iterdir()] == [PAYMENTS.service]
    assert registry.last_epoch((PAYMENTS.service, PAYMENTS.id)) == PAYMENTS.epoch
    registry.remove((PAYMENTS.service, PAYMENTS.id), PAYMENTS.epoch)
    assert not root.exists()
    assert registry.last_epoch((PAYMENTS.service, PAYMENTS.id)) == 0
    registry.write(ORDERS)
    assert beats(registry, 0) == {"o-1"}


def test_a_look_that_did_not_see_everything_ends_nobody(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    registry.write(PAYMENTS)
    registry.scan(0)
    registry.write(ORDERS)
    scandir = os.scandir

    def exhausted(path: str | Path) -> object:
        if str(path).endswith("payments"):
            raise OSError(errno.EMFILE, "Too many open files")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", exhausted)
        scan = registry.scan(1)
        assert [beat.id for beat in scan.beats] == ["o-1"]
        assert scan.removed == scan.wiped == ()
    with monkeypatch.context() as patched:
        patched.setattr("pannier.sidecars.discovery.registry.FILES_LIMIT", 1)
        assert registry.scan(2).removed == ()
    registry.write(PAYMENTS)
    with monkeypatch.context() as patched:

        def no_descriptor(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        patched.setattr(os, "open", no_descriptor)
        assert registry.scan(3).beats == ()
    assert beats(registry, 4) == {"p-1"}


def foreign_files(root: Path) -> Iterator[None]:
    good = file_of(root, ORDERS).read_bytes()
    folder = root / "orders"
    for name, data in {
        "empty": b"",
        "torn": good[:-10],
        "renamed": good,
        "binary": b"\xff\x00",
        "huge": b" " * (FILE_LIMIT + 1),
        "deep": b"[" * 10_000,
        "epoch-0": good.replace(b'"epoch":5', b'"epoch":0').replace(b"o-1", b"epoch-0"),
        "bad-address": good.replace(b"127.0.0.1:8001", b"nonsense").replace(b"o-1", b"bad-address"),
    }.items():
        (folder / f"{name}.json").write_bytes(data)
        yield
    (folder / "link.json").symlink_to(file_of(root, ORDERS))
    yield
    (folder / "folder.json").mkdir()
    yield
    os.mkfifo(folder / "fifo.json")
    yield


def test_foreign_files_are_ignored_and_counted(root: Path) -> None:
    registry = Registry(root)
    registry.write(ORDERS)
    for count, _ in enumerate(foreign_files(root), 1):
        registry.write(ORDERS)
        assert beats(registry, count) == {"o-1"}
        assert registry.ignored == count
    (root / "orders" / "no-suffix").write_text("x")
    (root / "Bad Name").mkdir()
    (root / "file").write_text("x")
    assert registry.scan(100).beats == ()


@pytest.mark.parametrize("what", ["link", "file", "writable"])
def test_a_folder_that_cannot_be_trusted_is_refused(root: Path, what: str) -> None:
    if what == "link":
        (root.parent / "elsewhere").mkdir()
        root.symlink_to(root.parent / "elsewhere")
    elif what == "file":
        root.write_text("")
    else:
        root.mkdir()
        root.chmod(0o777)
    registry = Registry(root)
    for use in (
        lambda: registry.scan(0),
        lambda: registry.write(ORDERS),
    ):
        with pytest.raises(PannierError, match="not safe to use"):
            use()


def test_files_are_for_their_owner_alone_and_no_temporary_ones_stay(root: Path) -> None:
    Registry(root).write(ORDERS)
    assert root.stat().st_mode & 0o777 == 0o700
    assert file_of(root, ORDERS).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (root / "orders").iterdir()] == ["o-1.json"]
