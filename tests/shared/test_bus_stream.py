"""What a stranger may write into the bus's socket: streams of real frames, damaged and cut anywhere.

Each comes to messages or to one `FramingError` that says what is wrong, in bounded memory, and after it to nothing
more. `make fuzz TARGET=bus` tries 100,000 of them, an ordinary run a small selection.
"""

from __future__ import annotations

import os
import tracemalloc
from typing import cast, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pannier.shared import envelope, framing
from pannier.shared.framing import MAX_FRAME, FramingError, Reader

MANY = int(os.environ.get("PANNIER_FUZZ", "200"))
MESSAGES: list[envelope.Envelope] = [
    envelope.Hello(version=1, token="t" * 32, pid=7, role="traffic"),
    envelope.Welcome(version=1, peer="p", fds=["hot", "table.base"], config=b"\x80", service="orders"),
    envelope.Reject(code="version", message="another one", hint=""),
    envelope.Request(id=2**63, to="traffic", verb="routes", body=b"\x81\xa1a\x01"),
    envelope.Reply(id=1, body=b""),
    envelope.Failure(id=1, code="unknown", message="é", hint="h"),
    envelope.Subscribe(topics=["lifecycle", "services"]),
    envelope.Publish(topic="services", body=b"x" * 300, retain=True),
    envelope.Event(topic="services", sender="discovery", sequence=9, retained=False, body=b"\xc0"),
    envelope.Ready(),
    envelope.Beat(),
]
FRAMES = [framing.frame(message) for message in MESSAGES]
TREACHEROUS = [
    *[b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x04\x00\x01", b"\x00\x04\x00\x00"],
    *[b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"],
    *[b"\xc1", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x0c\xff", b"\x91" * 40, b"\x81\xa1t", b"\xa1\xff", b"\xa1t\xc0"],
    *[b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf8" + b"\x00" * 6],
]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Some frames one after the other, changed in a few places, in the pieces that a socket might give."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.sampled_from(TREACHEROUS) | st.binary(max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [bytes(data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def outcome(pieces: list[bytes]) -> tuple[list[envelope.Envelope], str]:
    """What was understood, and what was wrong."""
    reader = Reader()
    understood: list[envelope.Envelope] = []
    try:
        for piece in pieces:
            for body in reader.feed(piece):
                understood.append(envelope.parse(body))
    except FramingError as error:
        return understood, str(error)
    return understood, ""


def test_there_is_a_frame_of_every_message() -> None:
    assert {type(message) for message in MESSAGES} == set(get_args(envelope.Envelope))
    assert outcome(FRAMES) == (MESSAGES, "")


@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams())
@example([framing._PREFIX.pack(18) + b"\x82\xa1t\xa4beat\xa8\x1b[2J\r\n\x00\x07\xc0"])
@example([framing._PREFIX.pack(60_012) + b"\x82\xa1t\xa4beat\xda\xea\x60" + b"x" * 60_000 + b"\xc0"])
def test_a_damaged_stream_comes_to_messages_or_to_one_error_that_says_why(pieces: list[bytes]) -> None:
    tracemalloc.start()
    try:
        understood, wrong = outcome(pieces)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= MAX_FRAME + (1 << 20)
    assert all(isinstance(message, get_args(envelope.Envelope)) for message in understood)
    assert not wrong or (wrong.isprintable() and len(wrong) < 400)
    for message in understood:
        assert envelope.parse(framing.frame(cast("envelope.Envelope", message))[4:]) == message


@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams())
def test_a_reader_that_has_failed_stays_failed_and_holds_nothing(pieces: list[bytes]) -> None:
    reader = Reader()
    failed = False
    for piece in pieces:
        if failed:
            with pytest.raises(FramingError):
                reader.feed(piece)
            continue
        try:
            reader.feed(piece)
        except FramingError:
            failed = True
            assert not reader.pending


@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams())
def test_how_a_stream_is_cut_changes_nothing_of_what_is_understood(pieces: list[bytes]) -> None:
    """A frame with a length that is not allowed ends the connection with what came in the same piece."""
    whole, wrong = outcome([b"".join(pieces)])
    cut, wrong_when_cut = outcome(pieces)
    assert cut[: len(whole)] == whole
    assert bool(wrong) == bool(wrong_when_cut)
