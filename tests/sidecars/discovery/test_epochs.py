from __future__ import annotations

import os
from pathlib import Path

import pytest
from pannier.shared.errors import PannierError
from pannier.sidecars.discovery.epochs import FORGOTTEN_SECONDS, Epochs

KEY = ("orders", "o-1")


def test_epochs_grow_across_restarts_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    root = tmp_path / "epochs"
    assert [Epochs(root).next(KEY, at) for at in (1000, 500, 2000)] == [1000, 1001, 2000]
    assert Epochs(root).next(("orders", "o-2"), 1) == 1


def test_a_torn_counter_does_not_matter(tmp_path: Path) -> None:
    Epochs(tmp_path).next(KEY, 1)
    (counter,) = tmp_path.iterdir()
    counter.write_bytes(b"12garbage")
    assert Epochs(tmp_path).next(KEY, 7) == 7


def test_counters_of_long_ago_are_forgotten(tmp_path: Path) -> None:
    Epochs(tmp_path).next(KEY, 1)
    (counter,) = tmp_path.iterdir()
    old = counter.stat().st_mtime - FORGOTTEN_SECONDS - 1
    os.utime(counter, (old, old))
    Epochs(tmp_path).next(("orders", "o-2"), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["orders@o-2"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PannierError, match="cannot note the epoch"):
        Epochs(tmp_path / "file" / "epochs").next(KEY, 1)
