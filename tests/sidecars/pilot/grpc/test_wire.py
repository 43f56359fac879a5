"""gRPC as bytes: what is read, in whatever pieces it comes, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.pilot.grpc.call import CallOver, Code, GrpcError
from pannier.sidecars.pilot.grpc.exchange import status_of
from pannier.sidecars.pilot.grpc.frames import MAX_FRAME, PREFACE_BYTES, FrameError, Frames
from pannier.sidecars.pilot.grpc.limits import WINDOW_SECONDS, Limits, Patience
from pannier.sidecars.pilot.grpc.wire import (
    MAX_STATUS_TEXT,
    Deframer,
    framed,
    percent_encoded,
    speaks_grpc,
    timeout_seconds,
    trailers,
)


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_whole_in_whatever_pieces(messages: Sequence[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(framed, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    deframer = Deframer("", 300)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += deframer.feed(wire[start:end])
    assert found == messages
    assert deframer.whole


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_nothing_else_happens_for_any_bytes(pieces: Sequence[bytes]) -> None:
    deframer = Deframer("gzip", 64)
    for piece in pieces:
        try:
            assert all(len(message) <= 64 for message in deframer.feed(piece))
        except GrpcError as error:
            assert error.status in {Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED, Code.INTERNAL}
            return


@pytest.mark.parametrize(
    ("encoding", "wire", "code"),
    [
        ("", b"\0\0\0\0\x0b", Code.RESOURCE_EXHAUSTED),
        ("", b"\0\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED),
        ("gzip", b"\1\0\0\0\1x", Code.UNIMPLEMENTED),
        ("identity", b"\1\0\0\0\1x", Code.INTERNAL),
        ("", b"\1\0\0\0\1x", Code.INTERNAL),
        ("", b"\2\0\0\0\1x", Code.INTERNAL),
        ("gzip", b"\x80\0\0\0\1x", Code.INTERNAL),
    ],
)
def test_what_is_no_message_is_refused_by_its_prefix(encoding: str, wire: bytes, code: Code) -> None:
    with pytest.raises(GrpcError) as refused:
        Deframer(encoding, 10).feed(framed(b"fine") + wire)
    assert refused.value.status is code


def test_who_says_gzip_and_sends_plain_messages_is_heard() -> None:
    assert Deframer("gzip", 10).feed(framed(b"plain")) == [b"plain"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("99999999S", 99_999_999), ("2M", 120), ("0n", 0), ("250m", 0.25), ("10u", 1e-5), ("5n", 5e-9)],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "1s", "-1S", "1.5S", "123456789S", "1S ", " 1S", "\u0661S", "1S\n"])
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(GrpcError) as refused:
        timeout_seconds(text)
    assert refused.value.status is Code.INVALID_ARGUMENT


@given(st.text(max_size=MAX_STATUS_TEXT))
def test_a_text_survives_its_encoding(text: str) -> None:
    encoded = percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote(encoded.decode()) == text.encode(errors="replace").decode()


def test_texts_are_kept_out_of_the_tables_of_compression() -> None:
    *_, text = trailers(GrpcError(Code.NOT_FOUND, "50 % of nöthing"))
    assert (tuple(text), text.indexable) == ((b"grpc-message", b"50 %25 of n%C3%B6thing"), False)
    assert len(trailers(GrpcError(Code.NOT_FOUND, "long" * 10_000))[-1][1]) <= MAX_STATUS_TEXT


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("Application/gRPC; charset=utf-8", True),
        ("application/grpc+json", False),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_content_types(content_type: str, taken: bool) -> None:
    assert speaks_grpc(content_type) is taken


GONE, STATUS = CallOver("gone"), GrpcError(Code.ABORTED, "said")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (STATUS, Code.ABORTED),
        (GONE, Code.CANCELLED),
        (ExceptionGroup("", [STATUS]), Code.ABORTED),
        (ExceptionGroup("", [GONE, ExceptionGroup("", [STATUS])]), Code.ABORTED),
        (ExceptionGroup("", [GONE]), Code.CANCELLED),
        (ExceptionGroup("", [STATUS, ValueError()]), Code.INTERNAL),
        (ValueError("a secret"), Code.INTERNAL),
    ],
)
def test_what_a_handler_raises_is_a_status(error: Exception, code: Code) -> None:
    status = status_of(error, "/a.B/C")
    assert status.status is code
    assert "secret" not in status.message


def test_resets_are_counted_in_a_window() -> None:
    patience = Patience(Limits(resets=3))
    assert [patience.reset(now) for now in (0, 1, 2, 2.5)] == [True, True, True, False]
    assert patience.reset(WINDOW_SECONDS + 1.5)
    assert not patience.reset(WINDOW_SECONDS + 1.6)


def test_frames_that_bring_nothing_are_allowed_beside_those_that_do() -> None:
    patience = Patience(Limits(idle_frames=10))
    for _ in range(1000):
        patience.useful()
        assert patience.frames(5, 1.0)
    allowed = [patience.frames(1, 1.0) for _ in range(100)]
    assert 10 <= allowed.count(True) <= 20
    assert patience.frames(1, 1.0 + WINDOW_SECONDS)


def frame(length: int, kind: int = 0, stream: int = 1) -> bytes:
    return length.to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, stream])


GOODBYE = frame(12, 7, 0) + b"\0\0\0\7" + bytes(4) + b"done"


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 8)), max_size=20), st.data())
def test_frames_are_counted_where_they_begin_and_only_goodbyes_are_kept_back(
    told: Sequence[tuple[int, int]], data: st.DataObject
) -> None:
    pieces = [frame(length, kind) + bytes(length) for length, kind in told]
    goodbyes = data.draw(st.lists(st.integers(0, len(pieces)), max_size=2))
    for at in goodbyes:
        pieces.insert(at, GOODBYE)
    wire = bytes(PREFACE_BYTES) + b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    frames = Frames()
    passed = b"".join(frames.feed(wire[start:end]) for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True))
    assert passed == bytes(PREFACE_BYTES) + b"".join(piece for piece in pieces if piece != GOODBYE)
    assert (frames.number, frames.leaving) == (len(pieces), bool(goodbyes))


@pytest.mark.parametrize(
    "wire",
    [
        frame(8, 7, 0) + b"\0\0\0\1\0\0\0\2",  # not in good order
        frame(4, 7, 0) + bytes(4),  # too short
        frame(8, 7, 1) + bytes(8),  # of a stream
    ],
)
def test_any_other_goodbye_is_for_h2(wire: bytes) -> None:
    frames = Frames()
    assert frames.feed(bytes(PREFACE_BYTES) + wire) == bytes(PREFACE_BYTES) + wire
    assert not frames.leaving


@pytest.mark.parametrize(
    "wire", [frame(MAX_FRAME + 1), frame(0xFFFFFF), frame(0, 1) + 6 * frame(0, 9), frame(9) + bytes(9) + frame(16385)]
)
def test_a_frame_is_refused_by_its_head(wire: bytes) -> None:
    with pytest.raises(FrameError):
        Frames().feed(bytes(PREFACE_BYTES) + wire)


def test_a_header_may_be_continued_a_few_times_and_then_again() -> None:
    frames = Frames()
    frames.feed(bytes(PREFACE_BYTES) + 3 * (frame(0, 1) + 5 * frame(0, 9)) + frame(MAX_FRAME))
    assert frames.number == 19
