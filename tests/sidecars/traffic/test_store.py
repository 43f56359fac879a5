from __future__ import annotations

from pathlib import Path

import pytest
from pannier.shared.errors import PannierError
from pannier.sidecars.traffic.canary import Canary, State
from pannier.sidecars.traffic.store import Store
from pannier.sidecars.traffic.watch import Kept

KEPT = {"payments": Kept(Canary("abc", State.ABORTED, 30, 1.5, "success 9 % < 99 %"), [(1, 2, 300, 4)])}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path / "canary", "orders")
    assert store.load() == {}
    store.save(KEPT)
    assert Store(tmp_path / "canary", "orders").load() == KEPT
    assert (tmp_path / "canary").stat().st_mode & 0o777 == 0o700
    assert [file.name for file in (tmp_path / "canary").iterdir()] == ["orders.json"]


def test_nothing_to_keep_leaves_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "canary", "orders")
    store.save({})
    assert not (tmp_path / "canary").exists()
    store.save(KEPT)
    store.save({})
    assert list((tmp_path / "canary").iterdir()) == []


GOOD = (
    b'{"service":"orders","canaries":{"payments":'
    b'{"canary":{"shift":"a","state":"running","weight":10,"since":1.0,"reason":""},"mark":[]}}}'
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-9],
        GOOD.replace(b"orders", b"stock"),
        GOOD.replace(b'"weight":10', b'"weight":1000'),
        GOOD.replace(b"running", b"flying"),
        b"\xff\xfe",
        b'{"service":"\xff"}',
        b"[" * 100_000,
        b" " * ((1 << 22) + 1) + GOOD,
    ],
)
def test_a_torn_or_foreign_file_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "orders.json").write_bytes(data)
    with pytest.raises(PannierError, match="cannot be used"):
        Store(tmp_path, "orders").load()
    Store(tmp_path, "orders").save(KEPT)
    assert Store(tmp_path, "orders").load() == KEPT


def test_a_good_file_is_the_shape_above(tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_bytes(GOOD)
    assert Store(tmp_path, "orders").load() == {"payments": Kept(Canary("a", State.RUNNING, 10, 1.0))}


def test_what_cannot_be_written_is_said_and_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(tmp_path, "orders")
    store.save(KEPT)
    (tmp_path / "orders.new").mkdir()
    with pytest.raises(PannierError, match="cannot keep the canaries"):
        store.save({"payments": Kept(Canary("b", State.RUNNING, 1, 1.0))})
    assert store.load() == KEPT
