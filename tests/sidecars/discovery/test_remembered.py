"""What a host finds on its disk of what a pilot has said: whole, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.instances import State
from pannier.shared.leases import Registration
from pannier.sidecars.discovery import remembered

NOW = 1_800_000_000.0
SAID = [
    Registration("orders", "a", "10.0.0.1:80", 7, 0.0, State.UP, {"version": "2"}, "pilot"),
    Registration("orders", "b", "[fd00::1]:80", 1, 0.0, State.DRAINING, {}, "pilot"),
]
WHOLE = remembered.encode(SAID, NOW)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "endpoints" / "web"
    assert list(remembered.read(file, NOW)) == []
    remembered.write(file, WHOLE)
    remembered.write(file, WHOLE)
    assert list(remembered.read(file, NOW + 86_400)) == SAID
    assert os.listdir(file.parent) == ["web"]
    assert file.stat().st_mode & 0o777 == 0o600


@given(st.integers(0, len(WHOLE) - 1))
def test_what_is_torn_is_ignored(length: int) -> None:
    with pytest.raises(ValueError, match="torn"):
        remembered.decode(WHOLE[:length], NOW)


@given(st.integers(0, 8 * len(WHOLE) - 1))
def test_what_is_damaged_is_ignored(bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="torn"):
        remembered.decode(bytes(damaged), NOW)


@pytest.mark.parametrize("later", [remembered.OLD_SECONDS, -3 * 3600.0])
def test_what_is_old_or_of_the_future_is_ignored(later: float) -> None:
    with pytest.raises(ValueError, match="days old"):
        remembered.decode(WHOLE, NOW + later)


def test_a_link_or_a_foreign_kind_of_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(WHOLE)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a link"):
        remembered.read(tmp_path / "link", NOW)
    with pytest.raises(ValueError, match="plain file"):
        remembered.read(tmp_path / "pipe", NOW)
