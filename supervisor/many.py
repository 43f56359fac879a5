"""Every app of a project in one foreground command: one `pannier run` each, its output behind its name.

Rules:
- All start at once. One that cannot start ends them all, since a project of which a part is missing is no project; from
  then on each is a service of its own, and one that fails takes no other with it.
- They hang on a pipe: when this process dies, however it dies, they end in order.
- Each has its own process group, so that Ctrl-C reaches it once, from here, and not from the terminal as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import trio
from pannier.supervisor.relay import Sink, Splitter

START: Final = "from pannier.supervisor.cli.main import main; main()"


async def run_many(commands: Mapping[str, Sequence[str]]) -> int:
    """Runs `pannier run` with these options for each app until all have ended; the first code that is not 0, or 0."""
    lifeline, held = os.pipe()
    codes: list[int] = []
    width = max(len(name) for name in commands)
    out, err = Sink(1), Sink(2)
    processes: list[trio.Process] = []
    ready: set[int] = set()
    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_forward, signals, processes)
                nursery.start_soon(out.run)
                nursery.start_soon(err.run)
                async with trio.open_nursery() as apps:
                    for name, options in commands.items():
                        process, news = await _start(options, lifeline)
                        processes.append(process)
                        nursery.start_soon(_note_ready, news, process.pid, ready)
                        apps.start_soon(_attend, name.ljust(width), process, out, err, codes)
                        apps.start_soon(_end_all_unless_ready, process, ready, processes)
                await out.wait_written()
                await err.wait_written()
                nursery.cancel_scope.cancel()
    finally:
        os.close(lifeline)
        os.close(held)
    return next((code for code in codes if code != 0), 0)


async def _start(options: Sequence[str], lifeline: int) -> tuple[trio.Process, trio.lowlevel.FdStream]:
    """The process, and the stream on which it says that it is ready."""
    heard, said = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-P", "-c", START, "run"),
                *("--lifeline", str(lifeline), "--ready-fd", str(said)),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[lifeline, said],
            process_group=0,
        )
    except BaseException:
        os.close(heard)
        raise
    finally:
        os.close(said)
    return process, trio.lowlevel.FdStream(heard)


async def _note_ready(news: trio.lowlevel.FdStream, pid: int, ready: set[int]) -> None:
    async with news:
        if await news.receive_some(16):
            ready.add(pid)


async def _end_all_unless_ready(process: trio.Process, ready: set[int], processes: Sequence[trio.Process]) -> None:
    if await process.wait() != 0 and process.pid not in ready:
        _signal_all(processes, signal.SIGTERM)


async def _forward(signals: AsyncIterator[int], processes: Sequence[trio.Process]) -> None:
    async for number in signals:
        _signal_all(processes, number)


def _signal_all(processes: Sequence[trio.Process], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


async def _attend(name: str, process: trio.Process, out: Sink, err: Sink, codes: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_copy, name, process.stdout, out)
        nursery.start_soon(_copy, name, process.stderr, err)
        code = await process.wait()
    codes.append(code if code >= 0 else 128 - code)


async def _copy(name: str, stream: trio.abc.ReceiveStream | None, sink: Sink) -> None:
    assert stream is not None, "both streams are pipes"
    splitter = Splitter()
    async with stream:
        async for data in stream:
            await _write(name, splitter.feed(bytes(data)), sink)
        await _write(name, splitter.end(), sink)


async def _write(name: str, lines: Sequence[str], sink: Sink) -> None:
    if lines:
        await sink.write("".join(f"{name} | {line}\n" for line in lines).encode())
