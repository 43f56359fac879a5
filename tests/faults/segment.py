"""Shared memory as another process of the same user can lay its hands on it: through the keeper's descriptors.

Nothing keeps the same uid out, which is why it is tried: a read-only mapping and a seal guard against bugs, a checksum
against the rest.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bed import Bed

WORD = struct.Struct("<Q")
CURRENT = 8
"""The word of a table that names the generation in force."""
SLOT_HEADS = 16
HEADER_BYTES = 4096
SLOT_BYTES = 16 << 20
SLOTS = 3
GENERATION_BITS = 40
FIRST_HOT = 64
HOT_WORDS = 4
_FUTEX = 202  # its number on x86-64; 98 on arm64
_FUTEX_WAKE = 1
EVERYBODY = (1 << 31) - 1


def descriptor(bed: Bed, service: str, name: str) -> int:
    """A descriptor of our own for a segment that the service's keeper holds. Raises OSError if there is none."""
    keeper = bed.processes(service)["keeper"].pid
    for entry in Path(f"/proc/{keeper}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry).startswith(f"/memfd:{name} "):
                return os.open(entry, os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(f"the keeper of {service} holds no segment {name}")


@contextmanager
def opened(bed: Bed, service: str, name: str) -> Iterator[int]:
    """`descriptor`, closed at the end."""
    found = descriptor(bed, service, name)
    try:
        yield found
    finally:
        os.close(found)


@dataclass
class Memory:
    """All bytes of a segment, mapped for writing."""

    bytes: mmap.mmap

    def word(self, index: int) -> int:
        value: int = WORD.unpack_from(self.bytes, 8 * index)[0]
        return value

    def put(self, index: int, value: int) -> None:
        WORD.pack_into(self.bytes, 8 * index, value)

    def generation(self) -> int:
        """Of a table: the one in force."""
        return self.word(CURRENT) & ((1 << GENERATION_BITS) - 1)

    def in_force(self) -> range:
        """Of a table: the bytes of the payload in force."""
        slot = self.generation() % SLOTS
        length = self.word(SLOT_HEADS + 8 * slot + 1)
        begin = HEADER_BYTES + slot * SLOT_BYTES
        return range(begin, begin + (length if length <= SLOT_BYTES else 0))

    def ring(self) -> None:
        """Of a table: wakes its readers, as a publication does."""
        half = ctypes.c_uint32.from_buffer(self.bytes, 8 * CURRENT)
        try:
            number = _FUTEX if os.uname().machine == "x86_64" else 98
            ctypes.CDLL(None).syscall(number, ctypes.byref(half), _FUTEX_WAKE, EVERYBODY, 0, 0, 0)
        finally:
            del half


@contextmanager
def mapped(bed: Bed, service: str, name: str) -> Iterator[Memory]:
    """The memory of a segment, while the block lasts."""
    with opened(bed, service, name) as found, mmap.mmap(found, 0) as everything:
        yield Memory(everything)
