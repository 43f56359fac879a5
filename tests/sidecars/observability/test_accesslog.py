from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from pannier.sidecars.observability.accesslog import AccessLogFile


def write(log: AccessLogFile, data: bytes) -> None:
    os.write(log.descriptor, data)


def test_the_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLogFile(path, 0)
        log.check()
        write(log, b"line\n")
        log.close()
    assert path.read_bytes() == b"line\nline\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.semantics("observability", "At its size the log is renamed to `.1`", "access_log.max_bytes")
def test_at_max_bytes_it_is_renamed_once(tmp_path: Path) -> None:
    log = AccessLogFile(tmp_path / "access.log", 10)
    for line in (b"first 123\n", b"second 12\n", b"third\n"):
        log.check()
        write(log, line)
    log.check()
    log.close()
    assert log.rotations == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "access.log": b"third\n",
        "access.log.1": b"second 12\n",
    }


def test_a_log_that_somebody_else_moved_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLogFile(path, 0)
    log.check()
    path.rename(tmp_path / "moved")
    log.check()
    write(log, b"new\n")
    path.unlink()
    log.check()
    log.close()
    assert path.read_bytes() == b""
    assert (tmp_path / "moved").read_bytes() == b""


def test_a_folder_that_comes_later_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = AccessLogFile(tmp_path / "later" / "access.log", 0)
    for _ in range(3):
        log.check()
        log.note(5)
    assert log.descriptor == -1
    assert [record.message for record in caplog.records] == [
        f"access log {tmp_path}/later/access.log cannot be written: No such file or directory; "
        "lines are lost and counted until it can"
    ]
    (tmp_path / "later").mkdir()
    log.check()
    assert log.descriptor >= 0
    log.note(0)
    log.note(0)
    log.close()
    assert [record.message for record in caplog.records][1:] == [
        f"access log {tmp_path}/later/access.log is being written again"
    ]


def test_a_full_disk_warns_once_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = AccessLogFile(Path("/dev/full"), 1)
    for _ in range(3):
        log.check()
        assert log.descriptor >= 0
        log.note(2)
        assert log.descriptor == -1
    assert len(caplog.records) == 1
    assert log.rotations == 0


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", b""),
        (b"one\n", b"one\n"),
        (b"one\ntw", b"one\n"),
        (b"o", b""),
        (b"one\n" + b"x" * 60_000, b"one\n"),
    ],
)
def test_what_a_full_disk_left_of_a_line_is_cut_off(tmp_path: Path, left: bytes, kept: bytes) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(left)
    log = AccessLogFile(path, 0)
    log.check()
    write(log, b"next\n")
    log.close()
    assert path.read_bytes() == kept + b"next\n"


def test_a_fifo_nobody_reads_does_not_hold_the_opening(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    log = AccessLogFile(path, 0)
    log.check()
    assert log.descriptor == -1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.check()
    write(log, b"line\n")
    assert os.read(reader, 100) == b"line\n"
    log.close()
    os.close(reader)
