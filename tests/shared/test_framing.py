from __future__ import annotations

import contextlib
import time
import tracemalloc

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pannier.shared import framing
from pannier.shared.errors import Blame
from pannier.shared.framing import (
    MAX_BODY,
    MAX_CONFIG_ITEMS,
    MAX_DEPTH,
    MAX_FRAME,
    MAX_ITEMS,
    FramingError,
    Reader,
    decode,
    encode,
    frame,
)


class Leaf(msgspec.Struct, frozen=True):
    text: str = ""
    data: bytes = b""
    number: int = 0
    ratio: float = 0.0
    flag: bool = False
    maybe: str | None = None


class Tree(msgspec.Struct, frozen=True):
    leaves: list[Leaf]
    by_name: dict[str, Leaf]


leaves = st.builds(
    Leaf,
    text=st.text(max_size=70),
    data=st.binary(max_size=300),
    number=st.integers(-(2**63), 2**64 - 1),
    ratio=st.floats(allow_nan=False),
    flag=st.booleans(),
    maybe=st.none() | st.text(max_size=5),
)
trees = st.builds(Tree, leaves=st.lists(leaves, max_size=20), by_name=st.dictionaries(st.text(), leaves, max_size=20))


@given(trees)
def test_what_was_encoded_is_decoded(tree):
    assert decode(encode(tree), Tree) == tree


def test_nothing_is_a_struct_without_fields():
    assert decode(encode(None), Leaf) == Leaf()


@given(st.lists(leaves, min_size=1, max_size=5), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(values, data):
    stream = b"".join(map(frame, values))
    reader, bodies, position = Reader(), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream) - position))
        bodies += reader.feed(stream[position : position + size])
        position += size
    assert [decode(body, Leaf) for body in bodies] == values
    assert not reader.pending


def test_one_byte_at_a_time():
    reader = Reader()
    bodies = [body for byte in frame(Leaf("x")) * 2 for body in reader.feed(bytes([byte]))]
    assert [decode(body, Leaf) for body in bodies] == [Leaf("x")] * 2


def test_truncated_at_every_byte():
    body = encode(Tree([Leaf("a" * 40, b"b" * 300, -5, 0.5)], {"x": Leaf()}))
    for end in range(len(body)):
        with pytest.raises(FramingError):
            decode(body[:end], Tree)
        reader = Reader()
        assert reader.feed(frame(Tree([], {}))[:-1]) == []
        assert reader.pending


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 16 * 2**20, 2**32 - 1])
def test_a_length_that_is_not_allowed_ends_the_reader_at_once(length):
    reader = Reader()
    with pytest.raises(FramingError) as caught:
        reader.feed(length.to_bytes(4, "big") + b"x" * 1000)
    assert caught.value.blame is Blame.PEER
    assert not reader.pending
    with pytest.raises(FramingError):
        reader.feed(frame(Leaf()))


def nested(depth: int) -> bytes:
    return b"\x91" * (depth - 1) + b"\x90"


DEPTH = {f"depth {depth}": nested(depth) for depth in (33, 100, 1000, 1024, 1025, 100_000)}
HOSTILE = DEPTH | {
    "array headers": b"\xdc\xff\xff" * 80_000,
    "array of 2**32-1": b"\xdd\xff\xff\xff\xff",
    "map of 10**6 keys": b"\xdf" + (10**6).to_bytes(4, "big") + b"\xa1k\xc0" * 60_000,
    "text of 2**32-1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32-1": b"\xc6\xff\xff\xff\xff",
    "empty maps": b"\xdd\x00\x03\xff\x00" + b"\x80" * 0x3FF00,
    "nils": b"\xdd\x00\x03\xff\x00" + b"\xc0" * 0x3FF00,
    "fixext 1": b"\xd4\x05x",
    "ext 8": b"\xc7\x01\x05x",
    "ext 32": b"\xc9\xff\xff\xff\xff\x05",
    "timestamp": msgpack.packb(msgpack.Timestamp(1)),
    "timestamp inside": msgpack.packb({"text": msgpack.Timestamp(1)}),
    "never used": b"\xc1",
    "bad UTF-8": b"\x81\xa4text\xa2\xff\xfe",
    "half a surrogate": b"\x81\xa4text\xa3\xed\xa0\x80",
    "key is a number": b"\x81\x01\xc0",
    "key is a list": b"\x81\x90\xc0",
    "key is bytes": b"\x81\xc4\x04text\xa1x",
    "two messages": encode(Leaf()) * 2,
    "another type": msgpack.packb({"text": 5}),
    "text for bytes": msgpack.packb({"data": "aGk="}),
    "no map": b"\xc0",
    "empty": b"",
    "over a frame": b"\xc6" + (MAX_FRAME).to_bytes(4, "big") + b"x" * MAX_FRAME,
}


def array_of(item: bytes, number: int) -> bytes:
    return b"\xdd" + number.to_bytes(4, "big") + item * number


# As dear as the limits allow: the survey lets them through, and the type refuses them.
DEAR = {
    "empty maps at the limit": array_of(b"\x80", MAX_ITEMS - 1),
    "empty lists at the limit": array_of(b"\x90", MAX_ITEMS - 1),
    "texts at the limit": array_of(b"\xb4" + b"x" * 20, MAX_ITEMS - 1),
    "floats at the limit": array_of(b"\xcb\x01\x01\x01\x01\x01\x01\x01\x01", MAX_ITEMS - 1),
    "maps of one key at the limit": array_of(b"\x81\xa1x\x80", (MAX_ITEMS - 1) // 3),
    "keys at the limit": b"\x81\xa4text\xdf"
    + ((MAX_ITEMS - 3) // 2).to_bytes(4, "big")
    + b"".join(b"\xa5%05d\x80" % number for number in range((MAX_ITEMS - 3) // 2)),
}


def seconds_to_refuse(body: bytes) -> float:
    began = time.process_time()
    with pytest.raises(FramingError):
        decode(body, Leaf)
    return time.process_time() - began


def bytes_to_refuse(body: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(FramingError):
            decode(body, Leaf)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", (HOSTILE | DEAR).values(), ids=(HOSTILE | DEAR).keys())
def test_hostile_bodies_are_refused_within_10_ms_and_1_mib(body):
    assert min(seconds_to_refuse(body) for _ in range(5)) < 0.010
    # Now and then the interpreter makes its table of names anew, which is megabytes, and nothing of this message.
    assert min(bytes_to_refuse(body) for _ in range(3)) < 2**20


class Nest(msgspec.Struct, frozen=True, array_like=True):
    inner: Nest | None = None


def test_the_limit_of_depth_is_exact():
    body = b"\x91" * (MAX_DEPTH - 1) + b"\x91\xc0"
    assert decode(body, Nest)
    with pytest.raises(FramingError, match="deep"):
        decode(b"\x91" + body, Nest)


def test_the_limit_of_items_is_exact_and_holds_for_both_sides():
    class Numbers(msgspec.Struct, frozen=True):
        n: list[int]

    largest = MAX_ITEMS - 3
    assert len(decode(encode(Numbers([0] * largest)), Numbers).n) == largest
    with pytest.raises(FramingError, match="values"):
        encode(Numbers([0] * (largest + 1)))
    many = msgpack.packb({"n": [0] * (MAX_CONFIG_ITEMS - 3)})
    assert len(decode(many, Numbers, most=MAX_CONFIG_ITEMS).n) == MAX_CONFIG_ITEMS - 3
    with pytest.raises(FramingError, match="values"):
        decode(many, Numbers)


def test_too_large_to_send():
    assert encode(Leaf(data=b"x" * (MAX_BODY - 100)))
    with pytest.raises(FramingError) as caught:
        encode(Leaf(data=b"x" * MAX_BODY))
    assert caught.value.blame is Blame.INTERNAL


@pytest.mark.parametrize("value", [Leaf(number=2**64), Leaf(text="\ud800")])
def test_what_msgpack_cannot_say_is_our_error(value):
    with pytest.raises(FramingError) as caught:
        encode(value)
    assert caught.value.blame is Blame.INTERNAL


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=40),
    max_leaves=60,
)


@given(plain)
def test_the_survey_knows_every_lead_byte_that_msgpack_writes(value):
    framing._survey(msgpack.packb(value))


@given(st.binary(max_size=200))
@example(b"\xda\x00")
@example(b"\xcb")
def test_random_bytes_are_refused_or_are_really_that_type(body):
    with contextlib.suppress(FramingError):
        assert isinstance(decode(body, Leaf), Leaf)


@given(trees, st.data())
def test_flipped_bits_are_refused_or_are_really_that_type(tree, data):
    body = bytearray(encode(tree))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FramingError):
        assert isinstance(decode(bytes(body), Tree), Tree)
