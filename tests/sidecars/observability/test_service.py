"""The whole sidecar over real shared memory and a real broker; only the data path is missing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from pannier import _native
from pannier.shared import framing
from pannier.shared.messages import (
    EJECTIONS,
    LIFECYCLE,
    Ejection,
    Ejections,
    Lifecycle,
    Nothing,
    ProcessState,
    Sidecar,
    SidecarList,
    StatReply,
    StatRequest,
)
from pannier.shared.sidecar import Context
from pannier.sidecars.observability.config import AccessLog, Config, Resource
from pannier.sidecars.observability.service import serve

READY = Lifecycle("orders", "dev", "ready", [ProcessState("proxy", "proxy", "ready", True)])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


async def get(listener: socket.socket, target: str, accept: str = "*/*") -> tuple[int, str]:
    host, port = listener.getsockname()
    request = f"GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(request.encode())
        answer = b"".join([bytes(chunk) async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_it_publishes_answers_and_reports(
    broker: Any, worker: Any, listener: socket.socket, short_path: Path
) -> None:
    async def sidecars(_: Nothing) -> SidecarList:
        return SidecarList([Sidecar("discovery", "ready", 1, 3, True)])

    broker.broker.serve_verb("sidecar.list", Nothing, sidecars)
    config = Config(
        access_log=AccessLog(path="/dev/full"),
        routes=["/orders/{id}"],
        resource=Resource(service="orders", stage="dev"),
    )
    with trio.fail_after(10):
        async with broker.join("observability", fds=worker.fds, reconnect=True) as bus, trio.open_nursery() as nursery:
            context = Context(
                "observability", "orders", short_path, config, bus, {**bus.fds, "metrics.0": listener.fileno()}
            )
            nursery.start_soon(serve, context)
            await broker.wait_seen("ready", "observability")

            reader = _native.TableReader("telemetry", worker.fds["table.telemetry"])
            table = reader.read()
            assert table is not None
            assert msgpack.unpackb(table) == {"access_log": True, "sample_ratio": 1.0, "routes": ["/orders/{id}"]}

            assert await get(listener, "/readyz") == (503, "readyz failed: lifecycle not heard yet\n")
            await broker.broker.publish(LIFECYCLE, READY, retain=True)
            async with bus.subscribe(LIFECYCLE, Lifecycle) as heard:
                await anext(heard)
            assert await get(listener, "/readyz") == (200, "ok\n")
            assert (await get(listener, "/livez"))[0] == 200

            out = Ejections([Ejection("payments", "h:1", "open", "7 failures in a row", 0, 1)])
            await broker.broker.publish(EJECTIONS, out, retain=True)
            async with bus.subscribe(EJECTIONS, Ejections) as told:
                assert await anext(told) == out
            status, text = await get(listener, "/metrics")
            assert status == 200
            assert 'pannier_endpoint_ejected{endpoint="h:1",service="payments"} 1.0' in text
            assert 'pannier_sidecar_restarts_total{sidecar="discovery"} 3.0' in text
            [generation] = re.findall(r'^pannier_table_generation{table="telemetry"} (.*)$', text, re.MULTILINE)
            assert float(generation) == reader.generation() > 0
            assert 'deployment_environment_name="dev"' in text
            assert (await get(listener, "/metrics", "application/openmetrics-text"))[1].endswith("# EOF\n")

            async with broker.join() as cli:
                reply = await cli.request("observability", "stat", StatRequest(10), StatReply)
            assert reply.rows == []

            await broker.stop()
            await broker.wait_until(lambda: not bus.statistics().connected)
            status, text = await get(listener, "/readyz?verbose")
            assert (status, text.splitlines()[0]) == (200, "[-]bus away: the last known state holds (informational)")
            assert (await get(listener, "/metrics"))[0] == 200
            nursery.cancel_scope.cancel()


async def test_the_process_starts_serves_and_ends_on_sigterm_with_nothing_lost(
    broker: Any, worker: Any, collector: Any, listener: socket.socket
) -> None:
    token = broker.grants.issue("observability", fds=worker.fds, config=framing.encode(Config()))
    number = listener.fileno()
    environ = {
        **os.environ,
        "PANNIER_BUS": str(broker.path),
        "PANNIER_TOKEN": token,
        "PANNIER_FDS": f"metrics.0={number}",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url,
    }
    with trio.fail_after(20):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pannier.sidecars.observability"], env=environ, pass_fds=[number]
        )
        try:
            await broker.wait_seen("ready", "observability")
            assert (await get(listener, "/livez"))[0] == 200
            for _ in range(5):
                worker.request()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            process.kill()
    lines = [json.loads(line) for line in (broker.path.parent / "access.log").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["r-1"] * 5
    assert [span.name for span in collector.spans()] == ["GET /orders/{id}"] * 5
