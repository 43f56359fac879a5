"""How a connection to a Central begins: `shared/core/proxy/src/central/preface.rs`, written once more."""

from __future__ import annotations

import struct


def preface(role: int, service: str, instance: str, *, hops: int = 0) -> bytes:
    """A PROXY protocol header, version 2, with the fields of ours."""
    parts = (
        (0xE0, bytes([role])),
        (0xE1, service.encode()),
        (0xE2, instance.encode()),
        (0xE3, bytes(8)),
        (0xE4, bytes([hops])),
        (0xE5, bytes(2)),
    )
    tlvs = b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in parts)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, 0, len(tlvs)) + tlvs
