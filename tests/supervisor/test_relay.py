from __future__ import annotations

import os

import pytest
import trio
from pannier.supervisor.relay import KEPT, LONGEST, Line, Sink, Splitter, Tail, relay


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
    await relay(source, "app", "stdout", sink=Sink(out), tail=Tail(lambda: 0, ignore), prefix=prefix)
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
    await sink.write(b"x")
    await sink.write(b"y")
    assert sink.broken
    os.close(out)


async def test_a_reader_that_does_not_read_does_not_stop_the_loop() -> None:
    drain, out = os.pipe()
    with trio.move_on_after(0.05) as scope:
        await Sink(out).write(b"x" * 10_000_000)
    assert scope.cancelled_caught
    os.close(drain)
    os.close(out)
