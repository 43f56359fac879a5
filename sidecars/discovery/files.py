"""Small files that other processes read while they are written, and that a stranger may have put there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

FILE_LIMIT = 16_384


def read_own(path: Path, *, limit: int = FILE_LIMIT) -> bytes:
    """The bytes of a plain file of ours. Raises OSError, and ValueError for what is foreign or oversized."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("a link") from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > limit:
            raise ValueError("no plain file of ours")
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Puts a whole file in place: a reader sees the old one or the new one, also after a crash of the machine if it is
    `durable`, which waits for the disk. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
