"""Frames of the bus, and the only way in and out of msgpack. No I/O (h11's manner): bytes in, structs out.

A frame is a big-endian u32 length and that many bytes of msgpack, at most `MAX_FRAME`. Rules:

- Nothing is built before it is known to be small. `unpackb`'s own limits hold per container, so 300 KB of nested array
  headers still allocate 80 MiB; `_survey` therefore walks the lead bytes first and refuses depth, count, ext types and
  truncation without allocating. What it accepts costs less than 1 MiB to build, the frame's own bytes aside: the
  dearest are maps of one key, about 80 bytes a value, and `MAX_ITEMS` follows from them.
- Ext types, `Timestamp` among them, do not exist here. Types come from `msgspec.convert`, strict, never from the peer.
- What `encode` returns, `decode` takes: both sides run the same survey.
- A `Reader` that has failed stays failed; a connection ends with its first error.

Refused: a streaming `msgpack.Unpacker` (its state after an error is undefined, and it buffers what it cannot use yet),
and `msgspec.msgpack` for decoding (it accepts ext types and has no limit on depth that we could set).
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

import msgpack
import msgspec
from pannier.shared.errors import Blame, PannierError
from pannier.shared.explain import printable

MAX_FRAME: Final = 256 * 1024
"""Bytes of one frame, its length prefix aside."""
MAX_BODY: Final = MAX_FRAME - 1024
"""Bytes of one body, so that any envelope around it still fits into a frame."""
MAX_DEPTH: Final = 32
"""Containers inside one another."""
MAX_ITEMS: Final = 12_288
"""Values of one frame, keys and containers counted."""
MAX_CONFIG_ITEMS: Final = 65_536
"""Values of one configuration: a thousand rules are many values, and it comes from a side that is trusted."""

_MAX_REASON: Final = 300
"""Characters of a reason that may quote the peer: it is logged, and shown on a terminal."""

T = TypeVar("T")

_PREFIX = struct.Struct(">I")
_NATIVE = (bytes,)


class FramingError(PannierError):
    """Bytes that are no frame of ours; the connection they came from ends."""

    blame = Blame.PEER


def encode(value: msgspec.Struct | None) -> bytes:
    """The msgpack body of a struct; `None` is one without fields. Raises `FramingError` if it is over a limit."""
    return _pack(value, MAX_BODY)


def frame(message: msgspec.Struct) -> bytes:
    """A whole frame: length and message. Raises `FramingError` if the message is over a limit."""
    body = _pack(message, MAX_FRAME)
    return _PREFIX.pack(len(body)) + body


def decode(body: bytes, type_: type[T], *, most: int = MAX_ITEMS) -> T:
    """The value of `type_` that `body` holds. Raises `FramingError` for anything else, within 10 ms and 1 MiB, or six
    times as much for a configuration, which may hold `MAX_CONFIG_ITEMS`."""
    if len(body) > MAX_FRAME:
        raise FramingError(f"a body of {len(body)} bytes; at most {MAX_FRAME} are allowed")
    _survey(body, most)
    try:
        plain = msgpack.unpackb(
            body, raw=False, strict_map_key=True, max_array_len=most, max_map_len=most, max_ext_len=0
        )
        return msgspec.convert(plain, type_, strict=True, builtin_types=_NATIVE)
    except msgspec.ValidationError as error:
        raise FramingError(f"not the expected message: {printable(str(error), _MAX_REASON)}") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FramingError(f"not valid msgpack: {printable(str(error), _MAX_REASON)}") from error


def _pack(value: msgspec.Struct | None, limit: int) -> bytes:
    name = type(value).__name__
    try:
        plain = {} if value is None else msgspec.to_builtins(value, builtin_types=_NATIVE)
        body: bytes = msgpack.packb(plain, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise FramingError(f"{name} cannot be encoded: {error}", blame=Blame.INTERNAL) from error
    if len(body) > limit:
        raise FramingError(f"{name} takes {len(body)} bytes; at most {limit} fit", blame=Blame.INTERNAL)
    _survey(body)
    return body


class Reader:
    """Turns chunks of a stream into bodies of frames. Holds at most one frame that is not complete yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed: FramingError | None = None

    def __repr__(self) -> str:
        return f"<Reader {'failed' if self._failed else f'{len(self._buffer)} bytes pending'}>"

    @property
    def pending(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes, in order. Raises `FramingError` as soon as a length is not allowed, and
        for good: what came in the same chunk is lost with the connection."""
        if self._failed is not None:
            raise self._failed
        self._buffer += data
        bodies = []
        while len(self._buffer) >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(self._buffer)
            if not 0 < length <= MAX_FRAME:
                self._failed = FramingError(f"a frame of {length} bytes; 1 to {MAX_FRAME} are allowed")
                self._buffer.clear()
                raise self._failed
            end = _PREFIX.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_PREFIX.size : end]))
            del self._buffer[:end]
        return bodies


# What follows a lead byte. A positive number: that many bytes of content. Zero: nothing.
_REFUSED: Final = -1
_COUNTED: Final = -2  # a big-endian length of _WIDTH bytes, then that many bytes
_ARRAY: Final = -3  # a big-endian count of _WIDTH bytes, then that many values
_MAP: Final = -4  # a big-endian count of _WIDTH bytes, then twice that many values
_WIDTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_FOLLOWS: Final = [
    *[0] * 0x80,  # positive fixint
    *[_MAP] * 16,
    *[_ARRAY] * 16,
    *range(32),  # fixstr
    *[0, _REFUSED, 0, 0],  # nil, never used, false, true
    *[_COUNTED] * 3,  # bin
    *[_REFUSED] * 3,  # ext
    *[4, 8],  # float
    *[1, 2, 4, 8] * 2,  # uint, int
    *[_REFUSED] * 5,  # fixext
    *[_COUNTED] * 3,  # str
    *[_ARRAY] * 2,
    *[_MAP] * 2,
    *[0] * 32,  # negative fixint
]


def _survey(body: bytes, most: int = MAX_ITEMS) -> None:  # noqa: PLR0912 - one loop over one table; parts of it would only hide the state
    """Walks one msgpack value by its lead bytes, building nothing; raises `FramingError` unless it is whole, alone, at
    most `MAX_DEPTH` deep, at most `most` values large and free of ext types."""
    end = len(body)
    position = items = 0
    owed = 1
    outer: list[int] = []
    while True:
        while owed == 0:
            if not outer:
                if position != end:
                    raise FramingError(f"{end - position} bytes follow the message")
                return
            owed = outer.pop()
        owed -= 1
        items += 1
        if items > most:
            raise FramingError(f"more than {most} values in one message")
        if position >= end:
            raise FramingError("the message is truncated")
        lead = body[position]
        position += 1
        follows = _FOLLOWS[lead]
        if follows >= 0:
            position += follows
        elif follows == _REFUSED:
            raise FramingError(f"the message holds a type that is not allowed (0x{lead:02x})")
        else:
            width = _WIDTH.get(lead, 0)
            size = int.from_bytes(body[position : position + width], "big") if width else lead & 0x0F
            position += width
            if follows == _COUNTED:
                position += size
            else:
                if len(outer) >= MAX_DEPTH:
                    raise FramingError(f"the message is more than {MAX_DEPTH} levels deep")
                outer.append(owed)
                owed = 2 * size if follows == _MAP else size
                if owed > end - position:
                    raise FramingError("the message is truncated")
        if position > end:
            raise FramingError("the message is truncated")
