"""Probes over real sockets, repetition over a virtual clock."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trio
from pannier.sidecars.discovery.probes import Probes, Target, probe


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A server that reads a request and sends `answer`; None: it never answers."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "answered 404"),
        (b"", "no usable answer"),
        (b"SSH-2.0-OpenSSH\r\n", "no usable answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000, "no usable answer"),
    ],
)
async def test_an_answer_is_good_or_has_a_reason(answer: bytes, reason: str) -> None:
    async with answering(answer) as address:
        found = await probe(Target(address, "/healthz"), 5)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


async def test_without_a_path_connecting_is_enough() -> None:
    async with answering(None) as address:
        assert await probe(Target(address), 5) == ""


@pytest.mark.semantics("discovery", "A check that gets no answer fails after a time", "health.timeout")
async def test_silence_ends_at_the_timeout() -> None:
    async with answering(None) as address:
        assert await probe(Target(address, "/"), 0.05) == "no answer within 0.05 s"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/at/all", "unix:/" + "x" * 200, "127.0.0.1:99999"])
async def test_nobody_there(address: str) -> None:
    assert await probe(Target(address), 5) != ""


async def test_over_a_unix_socket(short_path: Path) -> None:
    path = short_path / "app.sock"
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()
    async with trio.SocketListener(sock):
        assert await probe(Target(f"unix:{path}"), 5) == ""


def middle(low: float, high: float) -> float:
    return (low + high) / 2


@pytest.mark.semantics(
    "discovery", "An endpoint is asked each second until it first answers, then each interval", "health.interval"
)
async def test_eager_until_the_first_success_then_each_interval(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    outcomes: list[tuple[str, str]] = []

    async def scripted(target: Target, timeout: float) -> str:
        await trio.lowlevel.checkpoint()
        asked.append(trio.current_time())
        return "down" if len(asked) < 3 else ""

    monkeypatch.setattr("pannier.sidecars.discovery.probes.probe", scripted)
    outcome: Callable[[str, str], None] = lambda key, reason: outcomes.append((key, reason))  # noqa: E731
    async with trio.open_nursery() as nursery:
        probes: Probes[str] = Probes(nursery, outcome, interval=10, timeout=1, uniform=middle)
        started = trio.current_time()
        probes.ask({"a": Target("h:1")})
        await trio.sleep(35)
        assert [round(at - started) for at in asked] == [0, 1, 2, 12, 22, 32]
        assert outcomes[:3] == [("a", "down"), ("a", "down"), ("a", "")]
        probes.ask({"a": Target("h:1")})
        probes.ask({})
        await trio.sleep(100)
        assert len(asked) == 6
        nursery.cancel_scope.cancel()


@pytest.mark.semantics(
    "discovery", "An app is asked over gRPC's health service, by a connect, or by a command", "health.grpc"
)
@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ("", ""),
        ("orders", ""),
        ("payments", "its status is NOT_SERVING"),
        ("x" * 200, "answered with gRPC status 5"),
    ],
)
async def test_a_real_grpc_server_is_asked_for_a_service(service: str, reason: str) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    statuses = {"": 1, "orders": 1, "payments": 2}

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        name = request[2:].decode() if request else ""
        if name not in statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return bytes([8, statuses[name]])

    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert await probe(Target(f"127.0.0.1:{port}", grpc=service), 10) == reason
    finally:
        server.stop(None)


async def test_what_is_no_grpc_server_is_said() -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, nonsense, listeners)
        host, port = listeners[0].socket.getsockname()[:2]
        reason = await probe(Target(f"{host}:{port}", grpc=""), 10)
        assert reason.startswith(("no usable answer", "left without an answer"))
        assert not await probe(Target(f"{host}:{port}"), 10)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("true",), ""), (("sh", "-c", "exit 3"), "sh ended with 3"), (("/nowhere/at/all",), "cannot run /nowhere")],
)
async def test_a_command_says_how_the_app_is(command: tuple[str, ...], reason: str) -> None:
    found = await probe(Target("127.0.0.1:1", command=command), 10)
    assert found == reason or (reason and reason in found)
