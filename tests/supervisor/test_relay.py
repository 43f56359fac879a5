from __future__ import annotations

import os

import pytest
import trio
from pannier.shared.framing import encode
from pannier.supervisor.relay import KEPT, LONGEST, Line, Sink, Splitter, Tail, batches, latest, newest, relay
from pannier.supervisor.service import log_lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_do_not_depend_on_how_the_bytes_arrive(size: int) -> None:
    data = "eins\r\nzwei ü\n\ndrei\x00\x1b[0m\nlast".encode()
    splitter = Splitter()
    lines = [line for i in range(0, len(data), size) for line in splitter.feed(data[i : i + size])]
    assert lines + splitter.end() == ["eins", "zwei ü", "", "drei\x1b[0m", "last"]
    assert splitter.end() == []


def test_a_line_without_end_does_not_grow_without_end() -> None:
    splitter = Splitter()
    lines = [line for _ in range(10) for line in splitter.feed(b"x" * LONGEST)]
    assert {len(line) for line in lines} == {LONGEST}
    assert len(lines) == 9


async def test_the_tail_keeps_the_last_lines_and_tells_of_each() -> None:
    heard: list[Line] = []

    async def listen(lines: list[Line]) -> None:
        heard.extend(lines)

    tail = Tail(lambda: 7, listen)
    await tail.add("app", "stdout", [str(n) for n in range(KEPT + 10)])
    await tail.add("app", "stdout", [])
    assert len(heard) == KEPT + 10
    assert tail.last(2) == [Line(7, "app", "stdout", str(KEPT + 8)), Line(7, "app", "stdout", str(KEPT + 9))]
    assert len(tail.last(10_000)) == KEPT
    assert tail.last(0) == []


async def copied(data: bytes, prefix: bytes | None) -> bytes:
    async def ignore(_: list[Line]) -> None:
        return

    source, feed = os.pipe()
    drain, out = os.pipe()
    os.write(feed, data)
    os.close(feed)
    sink = Sink(out)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        await relay(source, "app", "stdout", sink=sink, tail=Tail(lambda: 0, ignore), prefix=prefix)
        await sink.wait_written()
        nursery.cancel_scope.cancel()
    os.close(out)
    async with await trio.open_file(drain, "rb") as file:
        return await file.read()


async def test_the_apps_bytes_are_copied_raw() -> None:
    data = bytes(range(256)) * 10
    assert await copied(data, None) == data


async def test_governance_prints_lines_behind_its_name() -> None:
    assert await copied(b"one\ntwo", b"proxy | ") == b"proxy | one\nproxy | two\n"


async def test_a_reader_that_is_gone_silences_the_sink_and_ends_nothing() -> None:
    drain, out = os.pipe()
    os.close(drain)
    sink = Sink(out)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        await sink.write(b"x")
        await sink.wait_written()
        assert sink.broken
        await sink.write(b"y")
        await sink.wait_written()
        nursery.cancel_scope.cancel()
    os.close(out)


async def test_a_slow_reader_gets_everything_and_nobody_waits_for_it() -> None:
    drain, out = os.pipe()
    sink = Sink(out)
    data = os.urandom(1_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        with trio.fail_after(5):
            for _ in range(10):
                await sink.write(data)
        got = b""
        while len(got) < 10_000_000:
            got += await trio.to_thread.run_sync(os.read, drain, 65536)
        await sink.wait_written()
        nursery.cancel_scope.cancel()
    assert got == data * 10
    os.close(drain)
    os.close(out)


async def test_there_is_an_end_to_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.supervisor.relay.HELD_BACK", 1000)
    drain, out = os.pipe()
    sink = Sink(out)
    await sink.write(b"x" * 1001)
    with trio.move_on_after(0.01) as scope:
        await sink.write(b"y")
    assert scope.cancelled_caught
    os.close(drain)
    os.close(out)


def test_of_a_flood_only_the_last_lines_are_looked_at() -> None:
    data = b"".join(b"%d\n" % number for number in range(2 * KEPT))
    assert latest(data).split(b"\n")[0] == str(KEPT).encode()
    assert Splitter().feed(latest(data)) == [str(number) for number in range(KEPT, 2 * KEPT)]
    assert latest(b"short\nand") == b"short\nand"


@pytest.mark.parametrize("text", ["", "x", "\N{REPLACEMENT CHARACTER}" * LONGEST])
def test_lines_travel_in_few_messages_that_fit_the_bus(text: str) -> None:
    lines = [Line(number, "app", "stdout", text) for number in range(KEPT + 1)]
    found = list(batches(lines))
    assert [line for batch in found for line in batch] == lines
    for batch in found:
        assert encode(log_lines(batch))
    assert len(found) == (2 if len(text) < 2 else -(-len(lines) // 4))
    assert encode(log_lines(newest(lines[:KEPT])))
    assert newest(lines)[-1] == lines[-1]
