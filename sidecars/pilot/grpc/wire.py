"""gRPC over HTTP/2, as bytes and header fields: messages with their prefix, timeouts, statuses. Pure.

Sources: the protocol as gRPC publishes it (PROTOCOL-HTTP2, compression). Nothing is compressed here: a peer that says
so in `grpc-encoding` is told what is accepted once it really sends such a message.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from hpack import HeaderTuple, NeverIndexedHeaderTuple
from pannier.sidecars.pilot.grpc.call import Code, GrpcError

PREFIX_BYTES: Final = 5
CONTENT_TYPE: Final = "application/grpc"
MAX_STATUS_TEXT: Final = 1024
"""Characters of a `grpc-message`; clients bound their headers, too."""

Fields: TypeAlias = Sequence[HeaderTuple]

_PREFIX: Final = struct.Struct(">BI")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS: Final[Mapping[str, float]] = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}

BEGIN: Final[Fields] = (HeaderTuple(b":status", b"200"), HeaderTuple(b"content-type", CONTENT_TYPE.encode()))
"""The head of an answer."""


def framed(message: bytes) -> bytes:
    """The message with its prefix, not compressed."""
    return _PREFIX.pack(0, len(message)) + message


class Deframer:
    """Bytes of one call become messages. `encoding` is the call's `grpc-encoding`."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._buffer = bytearray()

    @property
    def whole(self) -> bool:
        """Whether no message is only half here."""
        return not self._buffer

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The messages that are whole with these bytes. Raises GrpcError; then nothing more can be read."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while len(buffer) - at >= PREFIX_BYTES:
            flag, size = _PREFIX.unpack_from(buffer, at)
            if flag:
                raise self._not_plain(flag)
            if size > self._limit:
                raise GrpcError(
                    Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes was sent; up to {self._limit} are taken"
                )
            end = at + PREFIX_BYTES + size
            if len(buffer) < end:
                break
            found.append(bytes(buffer[at + PREFIX_BYTES : end]))
            at = end
        del buffer[:at]
        return found

    def _not_plain(self, flag: int) -> GrpcError:
        if flag != 1:
            return GrpcError(Code.INTERNAL, f"a message begins with {flag}, which is no flag of gRPC")
        if self._encoding in {"", "identity"}:
            return GrpcError(Code.INTERNAL, "a message is marked as compressed, and grpc-encoding does not say how")
        return GrpcError(Code.UNIMPLEMENTED, f"compression by {self._encoding[:40]} is not supported; send identity")


def timeout_seconds(text: str) -> float:
    """The seconds of a `grpc-timeout`. Raises GrpcError."""
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise GrpcError(Code.INVALID_ARGUMENT, f"grpc-timeout {text[:40]!r} is not up to 8 digits and one of HMSmun")
    return int(match[1]) * _UNITS[match[2]]


def percent_encoded(text: str) -> bytes:
    """A text as a `grpc-message` carries it: UTF-8, whatever is not printable ASCII as %XX."""
    encoded = text[:MAX_STATUS_TEXT].encode(errors="replace")
    return b"".join(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in encoded)


def trailers(error: GrpcError | None) -> Fields:
    """What ends an answer that has begun; None is OK."""
    if error is None:
        return (HeaderTuple(b"grpc-status", b"0"),)
    status = HeaderTuple(b"grpc-status", b"%d" % error.status)
    if not error.message:
        return (status,)
    # texts vary: none of them may stay in the table that the peer and we keep for compression
    fields = (status, NeverIndexedHeaderTuple(b"grpc-message", percent_encoded(error.message)))
    if error.status is Code.UNIMPLEMENTED:
        return (*fields, HeaderTuple(b"grpc-accept-encoding", b"identity"))
    return fields


def http_error(status: int) -> Fields:
    """A whole answer to what is no gRPC."""
    return (HeaderTuple(b":status", b"%d" % status), HeaderTuple(b"content-length", b"0"))


def speaks_grpc(content_type: str) -> bool:
    """Whether that is gRPC with messages of Protocol Buffers."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {CONTENT_TYPE, f"{CONTENT_TYPE}+proto"}
