"""Every app of a project in one foreground command: one `pannier run` each, its output behind its name.

Rules:
- All start at once, and each is a service of its own: one that fails takes no other with it.
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
    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_forward, signals, processes)
                nursery.start_soon(out.run)
                nursery.start_soon(err.run)
                async with trio.open_nursery() as apps:
                    for name, options in commands.items():
                        process = await _start(options, lifeline)
                        processes.append(process)
                        apps.start_soon(_attend, name.ljust(width), process, out, err, codes)
                await out.wait_written()
                await err.wait_written()
                nursery.cancel_scope.cancel()
    finally:
        os.close(lifeline)
        os.close(held)
    return next((code for code in codes if code != 0), 0)


async def _start(options: Sequence[str], lifeline: int) -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-c", START, "run", "--lifeline", str(lifeline), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[lifeline],
        process_group=0,
    )


async def _forward(signals: AsyncIterator[int], processes: Sequence[trio.Process]) -> None:
    async for number in signals:
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
