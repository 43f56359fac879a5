"""How long it takes from a Central's word to the tables of other hosts, by a real pilot; and what many words cost.

    python -m tests.bench.detours [--changes 200] [--many 2048] [--rate 1000] [--seconds 10]

A pilot, the discovery of a Central, that of a host which is elsewhere, each a process. First one instance by way of the
Central, whose weight changes: from PUT on the Central's `api.sock` to the table of the other host. Then as many as a
Central may have, and as many changes a second: what each process spends, in per cent of a core, and how long the last
change took. Figures for people, on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio
from pannier.shared.detours import OF, WEIGHT, Share
from pannier.shared.unix import connect_unix

from tests.bench.fleet_processes import TICKS
from tests.sidecars.discovery.neighbours import Neighbour, neighbour
from tests.system.host import Host
from tests.system.test_pilot import start

GATEWAY: Final = "10.77.0.2:15090"
LOOK_SECONDS: Final = 0.001
CONNECTIONS: Final = 8
SETTLE_SECONDS: Final = 0.3
"""Longer than an instance's own changes are held back for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--many", type=int, default=2048, help="instances by way of the Central")
    parser.add_argument("--rate", type=int, default=1000, help="changes a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pannier-detours-") as name:
        trio.run(partial(measure, Path(name), given.changes, many=given.many, rate=given.rate, seconds=given.seconds))


async def measure(folder: Path, changes: int, *, many: int, rate: int, seconds: float) -> None:
    host = Host(folder)
    pilot, _ = start(host)
    try:
        where = host.runtime / "pilot.sock"
        async with neighbour(folder / "a" / "c", where) as central, neighbour(folder / "b" / "e", where) as elsewhere:
            processes = {"pilot": pilot.pid, "central": central.process.pid, "elsewhere": elsewhere.process.pid}
            await latency(central, elsewhere, changes)
            if not many:
                return
            await crowd(central, elsewhere, [f"i{number}" for number in range(many)])
            for pace in (0, rate):
                before = spent(processes)
                await change(central, pace, seconds, many)
                shares = ", ".join(
                    f"{name} {100 * (now - before[name]) / seconds:.0f} %" for name, now in spent(processes).items()
                )
                print(f"  of a core: {shares}")
            await latency(central, elsewhere, changes)
    finally:
        pilot.terminate()
        pilot.communicate(timeout=20)


async def latency(central: Neighbour, elsewhere: Neighbour, changes: int) -> None:
    await elsewhere.register("e", "10.77.0.9:80", ttl="1h")
    took: list[float] = []
    for number in range(changes):
        weight = 1.0 + number % 99
        await trio.sleep(random.uniform(SETTLE_SECONDS, 2 * SETTLE_SECONDS))
        began = time.monotonic()
        await central.shift("e", weight, at=GATEWAY, ttl="1h")
        await until(lambda weight=weight: elsewhere.centrals()["e"] == (Share(GATEWAY, weight),))
        took.append(1000 * (time.monotonic() - began))
    cuts = statistics.quantiles(took, n=100)
    print(f"{changes} changes of a weight: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, slowest {max(took):.0f} ms")


async def crowd(central: Neighbour, elsewhere: Neighbour, names: list[str]) -> None:
    async with await connect_unix(elsewhere.directory / "api.sock") as stream:
        for number, name in enumerate(names):
            await put(stream, name, f"10.{number >> 8}.{number & 255}.1:80", {})
    began = time.monotonic()
    async with await connect_unix(central.directory / "api.sock") as stream:
        for name in names:
            await put(stream, f"{name}.central", GATEWAY, {OF: name, WEIGHT: "1"})
    said = time.monotonic()
    await until(lambda: sum(map(bool, elsewhere.centrals().values())) >= len(names))
    print(
        f"{len(names)} instances: said in {said - began:.1f} s, known elsewhere after {time.monotonic() - began:.1f} s"
    )


async def change(central: Neighbour, rate: int, seconds: float, many: int) -> None:
    began, done = time.monotonic(), 0

    async def say() -> None:
        nonlocal done
        async with await connect_unix(central.directory / "api.sock") as stream:
            while (now := time.monotonic() - began) < seconds:
                if done >= now * rate:
                    await trio.sleep(LOOK_SECONDS)
                    continue
                done += 1
                name = f"i{random.randrange(many)}"
                await put(stream, f"{name}.central", GATEWAY, {OF: name, WEIGHT: f"{random.randint(1, 98)}"})

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(say)
    print(f"  {done / seconds:.0f} a second were said")


async def put(stream: trio.SocketStream, name: str, address: str, metadata: dict[str, str]) -> None:
    data = json.dumps({"address": address, "ttl": "1h", "metadata": metadata}).encode()
    head = f"PUT /v1/instances/orders/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    await stream.send_all(head.encode() + data)
    answer = await stream.receive_some()
    if not answer.startswith(b"HTTP/1.1 20"):
        raise ValueError(bytes(answer))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - shared memory has no event to wait for
        await trio.sleep(LOOK_SECONDS)


def spent(processes: Mapping[str, int]) -> dict[str, float]:
    """Seconds of a core, by process."""
    return {name: ticks(pid) / TICKS for name, pid in processes.items()}


def ticks(pid: int) -> int:
    """Clock ticks that a process has run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    os.umask(0o077)
    main()
