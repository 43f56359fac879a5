"""A thousand subscribers of one real pilot over xDS: how long a change takes to all who follow it, and at what cost.

    python -m tests.sidecars.pilot.xds.crowd [--streams 1000] [--services 200] [--instances 50] [--follow 20]

Each stream is incremental and follows the endpoints of some services by name. First single changes, one after the
other; then many a second, which the pilot conflates. A change is an instance's new weight, which says when it was made:
so whoever is told of it knows how old it is. Prints JSON. The subscribers are Python, too, and on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc.aio
from pannier.sidecars.pilot.grpc.schema import MESSAGES as REGISTRY
from pannier.sidecars.pilot.xds.resources import Type
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.service import SERVICE

from tests.sidecars.pilot.xds.churn import free_port

A_CONNECTION: Final = 100
"""Streams of one connection."""
PERIOD_MS: Final = 900_000
"""A weight is at most a million: moments are told apart within that."""
AT_ONCE: Final = 64
"""Changes that the store has not taken yet."""
PATIENCE_S: Final = 120.0
_REQUEST: Final = MESSAGES["envoy.service.discovery.v3.DeltaDiscoveryRequest"]
_RESPONSE: Final = MESSAGES["envoy.service.discovery.v3.DeltaDiscoveryResponse"]
_ASSIGNMENT: Final = MESSAGES[Type.ENDPOINTS.value]


class Stream:
    """One subscriber. `ages` are how old each thing was of which it was told, `told` counts responses."""

    def __init__(self, services: Sequence[str]) -> None:
        self.services = services
        self.begun = asyncio.Event()
        self.ages: list[float] = []
        self.told = 0
        self.bytes = 0

    async def follow(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(f"{SERVICE}DeltaAggregatedResources")()
        first = _REQUEST(type_url=Type.ENDPOINTS.url, resource_names_subscribe=self.services)
        await call.write(first.SerializeToString())
        wanted = set(self.services)
        async for wire in call:
            response, now = _RESPONSE.FromString(wire), time.time() * 1000
            self.told += 1
            self.bytes += len(wire)
            for one in response.resources:
                if wanted:
                    wanted.discard(one.name)
                elif (moment := _newest(one.resource.value)) > 1:
                    self.ages.append((now - moment) % PERIOD_MS)
            if not wanted:
                self.begun.set()
            answer = _REQUEST(type_url=Type.ENDPOINTS.url, response_nonce=response.nonce)
            await call.write(answer.SerializeToString())


def _newest(assignment: bytes) -> int:
    """When the last change was made that an assignment tells of. All weights are such moments, or 1."""
    made = _ASSIGNMENT.FromString(assignment)
    return max(one.load_balancing_weight.value for zone in made.endpoints for one in zone.lb_endpoints)


class Registrar:
    """Puts instances, and changes them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._register = channel.unary_unary("/pannier.registry.v1.Registry/Register")

    async def put(self, service: str, number: int, weight: int) -> None:
        asked = REGISTRY["pannier.registry.v1.RegisterRequest"](
            service=service,
            id=f"i{number}",
            address=f"10.0.{number // 250}.{number % 250 + 1}:80",
            ttl_ms=300_000,
            metadata={"weight": str(weight)},
        )
        await self._register(asked.SerializeToString())


async def crowd(pilot: subprocess.Popen[bytes], socket: Path, port: int, said: argparse.Namespace) -> dict[str, Any]:
    services = [f"s{number}" for number in range(said.services)]
    async with grpc.aio.insecure_channel(f"unix:{socket}") as own:
        registrar = Registrar(own)
        for service in services:
            await asyncio.gather(*(registrar.put(service, number, 1) for number in range(said.instances)))
        streams = [Stream(random.sample(services, said.follow)) for _ in range(said.streams)]
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
            for _ in range(-(-said.streams // A_CONNECTION))
        ]
        begun, cpu = time.time(), _cpu(pilot)
        tasks = [
            asyncio.create_task(stream.follow(channels[number // A_CONNECTION]))
            for number, stream in enumerate(streams)
        ]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(stream.begun.wait() for stream in streams))
        summary = {"beginning": _figures(streams, pilot, begun, cpu)}
        for name, rate, lasting in (("single", 2.0, 15.0), ("many", said.rate, 15.0)):
            for stream in streams:
                stream.ages, stream.told, stream.bytes = [], 0, 0
            begun, cpu = time.time(), _cpu(pilot)
            made = await _change(registrar, services, said.instances, rate, lasting)
            await asyncio.sleep(2)
            summary[name] = {"changes": made, **_figures(streams, pilot, begun, cpu)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
    return summary


async def _change(registrar: Registrar, services: Sequence[str], instances: int, rate: float, lasting: float) -> int:
    """So many a second, at random, if the store takes as many; how many were made."""
    begun, made = time.time(), 0
    under_way: set[asyncio.Task[None]] = set()
    while (now := time.time()) < begun + lasting:
        for _ in range(min(round((now - begun) * rate) - made, AT_ONCE - len(under_way))):
            made += 1
            moment = int(time.time() * 1000) % PERIOD_MS
            change = registrar.put(random.choice(services), random.randrange(instances), moment)
            task = asyncio.create_task(change)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.01)
    await asyncio.gather(*under_way)
    return made


def _figures(streams: Sequence[Stream], pilot: subprocess.Popen[bytes], begun: float, cpu: float) -> dict[str, Any]:
    """Ages in milliseconds; CPU of the pilot in per cent of one core."""
    lasted = time.time() - begun
    ages = sorted(age for stream in streams for age in stream.ages)
    found: dict[str, Any] = {
        "seconds": round(lasted, 1),
        "responses": sum(stream.told for stream in streams),
        "megabytes": round(sum(stream.bytes for stream in streams) / 1e6, 1),
        "cpu": round(100 * (_cpu(pilot) - cpu) / lasted),
    }
    if ages:
        found |= {f"p{part}": round(ages[int(len(ages) * part / 100)]) for part in (50, 99)} | {"max": round(ages[-1])}
    return found


def _cpu(process: subprocess.Popen[bytes]) -> float:
    """Seconds so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Starts a pilot and the crowd, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("streams", 1000), ("services", 200), ("instances", 50), ("follow", 20), ("rate", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pannier-") as folder:
        socket, port = Path(folder) / "pilot.sock", free_port()
        command = [str(Path(sys.executable).with_name("pannier")), "pilot", "--socket", str(socket)]
        command += ["--grpc", f"127.0.0.1:{port}", "--store", str(Path(folder) / "store.sqlite")]
        environment = {**os.environ, "PANNIER_STATE_DIR": folder, "PANNIER_RUNTIME_DIR": folder}
        pilot = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert pilot.stdout is not None
            while b"is ready" not in pilot.stdout.readline():
                assert pilot.poll() is None, "the pilot has ended"
            print(json.dumps(asyncio.run(crowd(pilot, Path(folder) / "pilot-grpc.sock", port, said)), indent=1))
        finally:
            pilot.terminate()
            pilot.wait()


if __name__ == "__main__":
    main()
