"""What a peer that means harm, or is broken, can do to the server: to its own connection much, to others nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import pytest
import trio
import trio.testing
from h2 import events
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pannier.sidecars.pilot.grpc.call import Call, CallOver
from pannier.sidecars.pilot.grpc.limits import Limits
from pannier.sidecars.pilot.grpc.wire import framed

from tests.sidecars.pilot.grpc.rig import PATIENCE_SECONDS, Client, Endless, Memory, Waiting, echo, in_memory

MANY = min(int(os.environ.get("PANNIER_FUZZ", "60")), 4000)
CALM = int(ErrorCodes.ENHANCE_YOUR_CALM)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ECHO = {"/a.B/Echo": echo}


async def still_serves(memory: Memory) -> None:
    other = await (await memory.connect()).begin()
    stream = other.call("/a.B/Echo", b"still here")
    await other.flush()
    await other.answer(stream)
    assert other.data(stream) == framed(b"still here")


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"content_type": "application/json"}, {":status": "415", "content-length": "0"}),
        ({"content_type": "application/grpc-web"}, {":status": "415", "content-length": "0"}),
        ({"__method": "GET"}, {":status": "405", "content-length": "0"}),
        ({"__path": "/a.B/None"}, {"grpc-status": "12", "grpc-message": "there is no /a.B/None here"}),
        ({"__path": "/"}, {"grpc-status": "12"}),
        ({"grpc_timeout": "soon"}, {"grpc-status": "3"}),
        ({"grpc_timeout": "0n"}, {"grpc-status": "4"}),
    ],
)
async def test_what_is_no_call_is_answered_at_once(
    headers: dict[str, str], answer: dict[str, str], autojump_clock: trio.testing.MockClock
) -> None:
    waiting = Waiting()
    async with in_memory({"/a.B/Wait": waiting.handle, **ECHO}) as memory:
        client = await (await memory.connect()).begin()
        stream = client.call("/a.B/Wait", end=False, **headers)
        await client.flush()
        got = await client.answer(stream)
        assert {name: got.get(name) for name in answer} == answer
        assert not client.data(stream)
        await still_serves(memory)
    assert not waiting.begun.is_set() or headers.get("grpc_timeout") == "0n"


async def test_a_message_that_stays_half_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(ECHO) as memory:
        client = await (await memory.connect()).begin()
        stream = client.call("/a.B/Echo", end=False)
        client.h2.send_data(stream, framed(b"whole")[:-1], end_stream=True)
        await client.flush()
        assert (await client.answer(stream))["grpc-status"] == "13"


def garbage(client: Client) -> bytes:
    return b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


def wrong_settings(client: Client) -> bytes:
    return PREFACE + b"\0\0\5\4\0\0\0\0\0hello"


def overlong_frame(client: Client) -> bytes:
    return PREFACE + b"\xff\xff\xff\0\0\0\0\0\1"


def large_headers(client: Client) -> bytes:
    client.h2.initiate_connection()
    client.call("/a.B/Echo", **{f"x_{number}": "v" * 1000 for number in range(20)})
    return client.h2.data_to_send()


def headers_without_end(client: Client) -> bytes:
    first = HeadersFrame(1, data=b"\0" * 100)
    more = ContinuationFrame(1, data=b"\0" * 100).serialize()
    return PREFACE + SettingsFrame(0).serialize() + first.serialize() + 200 * more


def compression_bomb(client: Client) -> bytes:
    """A field of 4 000 bytes, told once and repeated by its number."""
    block = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 10_000
    frame = HeadersFrame(1, data=block, flags={"END_HEADERS", "END_STREAM"})
    return PREFACE + SettingsFrame(0).serialize() + frame.serialize()


def even_stream(client: Client) -> bytes:
    frame = HeadersFrame(2, data=b"\x82", flags={"END_HEADERS"})
    return PREFACE + SettingsFrame(0).serialize() + frame.serialize()


def window_overflow(client: Client) -> bytes:
    frame = WindowUpdateFrame(0, window_increment=2**31 - 1)
    return PREFACE + SettingsFrame(0).serialize() + frame.serialize()


@pytest.mark.parametrize(
    "bytes_of",
    [
        garbage,
        wrong_settings,
        overlong_frame,
        large_headers,
        headers_without_end,
        compression_bomb,
        even_stream,
        window_overflow,
    ],
)
async def test_what_is_no_http2_ends_the_connection_and_no_other(
    bytes_of: Callable[[Client], bytes], caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with in_memory(ECHO) as memory:
        client = await memory.connect()
        await client.send(bytes_of(client))
        with trio.fail_after(PATIENCE_SECONDS):
            said = b""
            while data := await client.stream.receive_some(65_536):
                said += bytes(data)
        assert len(said) < 1000, "it gets a farewell, not an answer"
        await still_serves(memory)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def pings(number: int) -> bytes:
    return PingFrame(0, opaque_data=b"12345678").serialize()


def settings_again(number: int) -> bytes:
    return SettingsFrame(0, settings={3: number}).serialize()


def made_up_settings(number: int) -> bytes:
    return SettingsFrame(0, settings={100 + number: 1}).serialize()


def priorities(number: int) -> bytes:
    return PriorityFrame(2 * number + 1, depends_on=0, stream_weight=1).serialize()


def windows(number: int) -> bytes:
    return WindowUpdateFrame(0, window_increment=1).serialize()


def nothings(number: int) -> bytes:
    return DataFrame(1).serialize()


def inventions(number: int) -> bytes:
    return ExtensionFrame(type=0xBB, stream_id=0, flag_byte=0, body=b"").serialize()


def rapid_resets(number: int) -> bytes:
    """The head of a call, as it is compressed by numbers alone, and its end."""
    head = HeadersFrame(2 * number + 3, data=b"\x83\x86\x84\x01\x01x", flags={"END_HEADERS"}).serialize()
    return head + RstStreamFrame(2 * number + 3, error_code=8).serialize()


def resets_of_ours(number: int) -> bytes:
    """A window that overflows is a stream that the server has to reset."""
    head = HeadersFrame(2 * number + 3, data=b"\x83\x86\x84\x01\x01x", flags={"END_HEADERS"}).serialize()
    return head + WindowUpdateFrame(2 * number + 3, window_increment=2**31 - 1).serialize()


@pytest.mark.parametrize(
    ("frame", "most"),
    [
        (pings, 1100),
        (settings_again, 1100),
        (made_up_settings, 40),
        (priorities, 1100),
        (windows, 1100),
        (nothings, 1100),
        (inventions, 1100),
        (rapid_resets, 101),
        (resets_of_ours, 101),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_flood_is_asked_to_calm_down(
    frame: Callable[[int], bytes], most: int, autojump_clock: trio.testing.MockClock
) -> None:
    waiting = Waiting()
    async with in_memory({"/": waiting.handle, **ECHO}) as memory:
        client = await (await memory.connect()).begin()
        client.call("/", end=False)
        await client.flush()
        await waiting.begun.wait()
        await client.send(b"".join(map(frame, range(most // 2))))
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"".join(map(frame, range(most // 2, most))))
        await client.until_closed()
        assert client.goodbye() == CALM
        await waiting.ended.wait()
        assert waiting.running == 0
        await still_serves(memory)


async def test_what_a_busy_client_sends_is_no_flood(autojump_clock: trio.testing.MockClock) -> None:
    """Housekeeping beside each message, thousands of messages on one call."""
    async with in_memory(ECHO) as memory:
        client = await (await memory.connect()).begin()
        client.reads_on = True
        stream = client.call("/a.B/Echo", end=False)
        for number in range(1, 301):
            for _ in range(10):
                client.h2.send_data(stream, framed(b"x" * 600))
            await client.flush()
            await client.send(10 * (pings(number) + priorities(number) + windows(number)))
            await client.until(lambda number=number: client.received == 605 * 10 * number)
        client.h2.end_stream(stream)
        await client.flush()
        assert (await client.answer(stream))["grpc-status"] == "0"


async def test_more_calls_than_are_granted_are_refused_one_by_one(autojump_clock: trio.testing.MockClock) -> None:
    waiting = Waiting()
    async with in_memory({"/a.B/Wait": waiting.handle}, Limits(streams=3)) as memory:
        client = await memory.connect()
        client.h2.initiate_connection()
        streams = [client.call("/a.B/Wait") for _ in range(5)]  # nothing was heard of the limit yet
        await client.flush()
        await client.until(lambda: len(client.of(events.StreamReset)) == 2)
        assert [event.stream_id for event in client.of(events.StreamReset)] == streams[3:]
        assert {event.error_code for event in client.of(events.StreamReset)} == {ErrorCodes.REFUSED_STREAM}
        assert waiting.running == 3
        client.h2.reset_stream(streams[0])
        again = client.call("/a.B/Wait", grpc_timeout="0n")
        await client.flush()
        assert (await client.answer(again))["grpc-status"] == "4"


async def test_a_call_that_is_not_read_waits_alone_and_ends(autojump_clock: trio.testing.MockClock) -> None:
    endless = Endless()
    async with in_memory({"/a.B/Endless": endless.handle, **ECHO}) as memory:
        client = await (await memory.connect()).begin()
        client.h2.increment_flow_control_window(10_000_000)
        slow = client.call("/a.B/Endless", end=False)
        await client.flush()
        await client.until(lambda: len(client.data(slow)) == 65_535)
        for _ in range(50):
            other = client.call("/a.B/Echo", b"meanwhile")
            await client.flush()
            await client.answer(other)
            assert client.data(other) == framed(b"meanwhile")
        begun = trio.current_time()
        await client.answer(slow)
        assert 25 <= trio.current_time() - begun <= 32
        assert client.of(events.StreamReset, slow)
        await endless.ended.wait()
        last = client.call("/a.B/Echo", b"and after")
        await client.flush()
        assert (await client.answer(last))["grpc-status"] == "0"


async def test_a_connection_whose_window_is_never_opened_ends(autojump_clock: trio.testing.MockClock) -> None:
    endless = Endless()
    async with in_memory({"/a.B/Endless": endless.handle}) as memory:
        client = await (await memory.connect()).begin()
        client.call("/a.B/Endless")
        client.call("/a.B/Endless")
        await client.flush()
        await client.until_closed()
        assert 30 <= trio.current_time() <= 35
        await trio.testing.wait_all_tasks_blocked()
        assert not endless.running


async def test_a_connection_that_reads_no_byte_ends(autojump_clock: trio.testing.MockClock) -> None:
    endless = Endless()
    async with in_memory({"/a.B/Endless": endless.handle}, lockstep=True) as memory:
        client = await memory.connect()
        client.h2.initiate_connection()
        client.h2.increment_flow_control_window(10_000_000)
        client.call("/a.B/Endless")
        with trio.fail_after(60):
            await client.flush()
            await endless.ended.wait()
        assert 29 <= trio.current_time() <= 35


async def test_who_answers_pings_may_be_silent_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(ECHO) as memory:
        client = await (await memory.connect()).begin()
        with trio.move_on_after(600):
            while await client.read():
                pass
        assert not client.closed
        assert 20 <= len(client.of(events.PingReceived)) <= 31
        assert client.goodbye() is None


async def test_who_answers_none_is_left(autojump_clock: trio.testing.MockClock) -> None:
    waiting = Waiting()
    async with in_memory({"/a.B/Wait": waiting.handle}) as memory:
        client = await (await memory.connect()).begin()
        client.call("/a.B/Wait")
        await client.flush()
        with trio.fail_after(60):
            await waiting.ended.wait()
        assert 29 <= trio.current_time() <= 33


@pytest.mark.parametrize("wire", [b"", PREFACE[:10], PREFACE])
async def test_who_says_nothing_is_left(wire: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(ECHO) as memory:
        client = await memory.connect()
        await client.send(wire)
        while await client.stream.receive_some(65_536):
            pass
        assert 9 <= trio.current_time() <= 12


async def test_when_all_connections_are_taken_the_one_that_idles_longest_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    waiting = Waiting()
    async with in_memory({"/a.B/Wait": waiting.handle, **ECHO}, Limits(connections=3)) as memory:
        busy = await (await memory.connect()).begin()
        busy.call("/a.B/Wait")
        await busy.flush()
        await waiting.begun.wait()
        idle = await (await memory.connect()).begin()
        await still_serves(memory)
        await still_serves(memory)
        await idle.until_closed()
        assert idle.goodbye() == ErrorCodes.NO_ERROR
        await still_serves(memory)
    assert not busy.closed


async def test_when_all_are_busy_the_first_that_is_not_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(ECHO, Limits(connections=2)) as memory:
        busy = [await (await memory.connect()).begin() for _ in range(2)]
        calls = [client.call("/a.B/Echo", b"first", end=False) for client in busy]
        for client, stream in zip(busy, calls, strict=True):
            await client.flush()
            await client.until(lambda c=client, s=stream: bool(c.data(s)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(still_serves, memory)
            await trio.testing.wait_all_tasks_blocked()
            busy[1].h2.end_stream(calls[1])
            await busy[1].flush()
            await busy[1].answer(calls[1])
            await busy[1].until_closed()
        assert busy[1].goodbye() == ErrorCodes.NO_ERROR
        busy[0].h2.end_stream(calls[0])
        await busy[0].flush()
        assert (await busy[0].answer(calls[0]))["grpc-status"] == "0"


async def test_what_nobody_takes_is_bounded_by_the_window_of_its_stream(autojump_clock: trio.testing.MockClock) -> None:
    waiting = Waiting()
    async with in_memory({"/a.B/Wait": waiting.handle, **ECHO}) as memory:
        client = await (await memory.connect()).begin()
        stream = client.call("/a.B/Wait", end=False)
        await client.flush()
        for _ in range(6):
            client.h2.send_data(stream, framed(bytes(10_000)))
        await client.flush()
        await trio.testing.wait_all_tasks_blocked()
        await client.until(lambda: client.h2.outbound_flow_control_window > 30_000)
        other = client.call("/a.B/Echo", bytes(16_000), end=False)
        await client.flush()
        await client.until(lambda: len(client.data(other)) == 16_005)
        assert client.h2.local_flow_control_window(stream) < 10_000


async def test_what_all_have_sent_and_nobody_takes_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(ECHO, Limits(buffered_bytes=300_000)) as memory:
        hoarders = [await (await memory.connect()).begin() for _ in range(3)]
        calls = []
        for client in hoarders:
            stream = client.call("/a.B/Echo", end=False)
            calls.append(stream)
            wire = framed(bytes(1_000_000))[:140_000]
            await client.flush()
            for at in range(0, len(wire), 10_000):
                await client.until(
                    lambda c=client, s=stream: c.h2.local_flow_control_window(s) >= 10_000 or s_over(c, s)
                )
                if s_over(client, stream):
                    break
                client.h2.send_data(stream, wire[at : at + 10_000])
                await client.flush()
                await trio.testing.wait_all_tasks_blocked()
                if client.h2.local_flow_control_window(stream) < 10_000:
                    await client.read()
        assert (await hoarders[2].answer(calls[2]))["grpc-status"] == "8"
        await still_serves(memory)


async def test_the_bound_holds_for_many_calls_that_hold_little_each(autojump_clock: trio.testing.MockClock) -> None:
    """A quarter of what the windows of their streams allow for, and three times what is granted."""
    bound, waiting = 1_000_000, Waiting()
    wire = framed(bytes(1_000_000))[:15_000]
    async with in_memory({"/a.B/Wait": waiting.handle}, Limits(buffered_bytes=bound)) as memory:
        for _ in range(2):
            client = await (await memory.connect()).begin()
            streams = [client.call("/a.B/Wait", end=False) for _ in range(100)]
            await client.flush()
            for stream in streams:
                await client.until(
                    lambda c=client, s=stream: s_over(c, s) or c.h2.local_flow_control_window(s) >= len(wire)
                )
                if not s_over(client, stream):
                    client.h2.send_data(stream, wire)
                    await client.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert bound // 2 < waiting.running * len(wire) <= bound


async def test_who_says_goodbye_is_still_answered(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(call: Call) -> None:
        message = await call.receive()
        await trio.sleep(5)
        await call.send(message or b"")

    async with in_memory({"/a.B/Slow": slow}) as memory:
        client = await (await memory.connect()).begin()
        stream = client.call("/a.B/Slow", b"patience")
        await client.flush()
        await client.send(GoAwayFrame(0, last_stream_id=0, error_code=ErrorCodes.NO_ERROR).serialize())
        said = b""
        while data := await client.stream.receive_some(65_536):
            said += bytes(data)
        assert kinds(said)[-3:] == ["HEADERS", "DATA", "HEADERS"]
        assert "GOAWAY" in kinds(said)
        assert framed(b"patience") in said
        assert (stream, 5 <= trio.current_time() <= 8) == (1, True)


def s_over(client: Client, stream: int) -> bool:
    return bool(client.of(events.StreamEnded, stream))


async def test_messages_of_one_call_that_are_sent_at_once_do_not_mix(autojump_clock: trio.testing.MockClock) -> None:
    async def two(call: Call) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.send, b"a" * 200_000)
            nursery.start_soon(call.send, b"b" * 200_000)

    async with in_memory({"/a.B/Two": two}) as memory:
        client = await (await memory.connect()).begin()
        client.h2.increment_flow_control_window(1_000_000)
        stream = client.call("/a.B/Two")
        client.h2.increment_flow_control_window(1_000_000, stream)
        await client.flush()
        assert (await client.answer(stream))["grpc-status"] == "0"
    found = client.data(stream)
    assert sorted([found[5:200_005], found[200_010:]]) == [b"a" * 200_000, b"b" * 200_000]


async def test_a_send_that_is_given_up_half_way_ends_the_call(autojump_clock: trio.testing.MockClock) -> None:
    """Or what is sent next would be read as the rest of it."""
    after: list[type[Exception]] = []

    async def gives_up(call: Call) -> None:
        with trio.move_on_after(0.01):
            await call.send(bytes(200_000))
        try:
            await call.send(b"next")
        except CallOver as error:
            after.append(type(error))

    async with in_memory({"/a.B/GivesUp": gives_up}) as memory:
        client = await (await memory.connect()).begin()
        stream = client.call("/a.B/GivesUp")
        await client.flush()
        await client.answer(stream)
        assert client.of(events.StreamReset, stream)
    assert after == [CallOver]


async def test_who_leaves_says_so_first(autojump_clock: trio.testing.MockClock) -> None:
    """By hand, since h2 as a client reads nothing after a GOAWAY."""
    waiting = Waiting()
    said = b""
    async with in_memory({"/a.B/Wait": waiting.handle}) as memory:
        client = await (await memory.connect()).begin()
        client.call("/a.B/Wait")
        await client.flush()
        await waiting.begun.wait()
    while data := await client.stream.receive_some(65_536):
        said += bytes(data)
    assert kinds(said) == ["SETTINGS", "SETTINGS", "GOAWAY", "HEADERS"]
    assert trio.current_time() <= 5


def kinds(wire: bytes) -> list[str]:
    names = {0: "DATA", 1: "HEADERS", 3: "RST_STREAM", 4: "SETTINGS", 6: "PING", 7: "GOAWAY", 8: "WINDOW_UPDATE"}
    found: list[str] = []
    while wire:
        found.append(names[wire[3]])
        wire = wire[9 + int.from_bytes(wire[:3]) :]
    return found


FRAMES = st.builds(
    lambda kind, flags, stream, body: len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream + body,
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\3", b"\0\0\0\2", b"\x80\0\0\1"]),
    st.binary(max_size=40),
)
CALL = HeadersFrame(1, data=b"\x83\x86\x04\x09/a.B/Echo\x0f\x10\x10application/grpc", flags={"END_HEADERS"}).serialize()


@settings(deadline=None, max_examples=MANY)
@given(st.lists(st.one_of(FRAMES, st.binary(max_size=30), st.just(CALL)), max_size=20))
def test_no_bytes_are_an_error_of_ours(pieces: list[bytes]) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("pannier.pilot").addHandler(handler)

    async def run() -> None:
        async with in_memory(ECHO) as memory:
            client = await memory.connect()
            await client.send(PREFACE + SettingsFrame(0).serialize() + b"".join(pieces))
            await trio.testing.wait_all_tasks_blocked()
            await still_serves(memory)
            await trio.aclose_forcefully(client.stream)
            await trio.testing.wait_all_tasks_blocked()

    try:
        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0.01))
    finally:
        logging.getLogger("pannier.pilot").removeHandler(handler)
    assert not records, records[0].getMessage()
