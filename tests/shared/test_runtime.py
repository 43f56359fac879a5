from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.runtime import runtime_dir, service_dir, state_dir


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    short = Path(f"/tmp/pannier-test-{os.getpid()}-{tmp_path.name[-8:]}")
    short.symlink_to(tmp_path)  # pytest's own folders may be too long for a socket; the parent may be a symlink
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(short / "run"))
    yield short / "run"  # type: ignore[misc]
    short.unlink()


def test_makes_private_folders(root: Path) -> None:
    assert runtime_dir() == root
    assert service_dir("orders") == root / "orders"
    for folder in (root, root / "orders"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert service_dir("orders") == root / "orders"


def test_looks_without_making(root: Path) -> None:
    assert not service_dir("orders", create=False).exists()


def test_falls_back_to_the_session_and_then_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANNIER_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("PANNIER_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir() == tmp_path / "pannier"
    monkeypatch.setenv("PANNIER_STATE_DIR", str(tmp_path / "own"))
    assert state_dir() == tmp_path / "own"


def test_refuses_a_symlink(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PannierError, match="symbolic link") as caught:
        runtime_dir()
    assert caught.value.hint


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_refuses_what_others_may_write(root: Path, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(PannierError, match="others may write") as caught:
        runtime_dir()
    assert f"chmod 700 {root}" in caught.value.hint


def test_refuses_a_foreign_owner(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_dir()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(PannierError, match="belongs to uid"):
        runtime_dir()


def test_refuses_a_file(root: Path) -> None:
    root.write_text("")
    with pytest.raises(PannierError, match="no folder"):
        runtime_dir()


def test_refuses_a_path_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", "/tmp/" + "x" * 100)
    with pytest.raises(PannierError, match="at most 107"):
        runtime_dir()
    assert not Path("/tmp/" + "x" * 100).exists()


def test_refuses_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", "run")
    with pytest.raises(PannierError, match="not an absolute path"):
        runtime_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "-a", "a-", "a_b", "a" * 64, "a\n", "registry"])
def test_refuses_names_that_are_none(root: Path, name: str) -> None:
    with pytest.raises(UsageError):
        service_dir(name)
