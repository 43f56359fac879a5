"""The server, as a real client of gRPC finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
import pytest
import trio
import trio.testing
from pannier.sidecars.pilot.grpc.call import Call, Code, GrpcError
from pannier.sidecars.pilot.grpc.limits import Limits
from pannier.sidecars.pilot.grpc.server import serve_grpc
from pannier.sidecars.pilot.grpc.tally import GrpcStatus, Tally

from tests.sidecars.pilot.grpc.rig import PATIENCE_SECONDS, Waiting, echo, serving

T = TypeVar("T")


async def client(address: str, ask: Callable[[grpc.Channel], T]) -> T:
    """What is asked, in a thread with a channel of its own."""

    def run() -> T:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            return ask(channel)

    with trio.fail_after(PATIENCE_SECONDS):
        return await trio.to_thread.run_sync(run)


def refused(act: Callable[[], object]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        act()
    error: Any = caught.value
    return error.code(), error.details()


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 65_531, 70_000, 4 * 1024 * 1024])
async def test_a_message_of_any_size_goes_there_and_back(size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    async with serving({"/a.B/Echo": echo}) as address:
        assert await client(address, lambda channel: channel.unary_unary("/a.B/Echo")(message[:size])) == message[:size]


async def test_a_message_that_is_too_large_is_refused_and_the_connection_lives() -> None:
    async with serving({"/a.B/Echo": echo}, Limits(message_bytes=1000)) as address:

        def ask(channel: grpc.Channel) -> None:
            call = channel.unary_unary("/a.B/Echo")
            code, details = refused(lambda: call(bytes(1001)))
            assert (code, details) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "a message of 1001 bytes was sent; up to 1000 are taken",
            )
            assert call(bytes(1000)) == bytes(1000)

        await client(address, ask)


async def raises(call: Call) -> None:
    await call.receive()
    raise ValueError("a secret")


async def says(call: Call) -> None:
    message = await call.receive()
    assert message is not None
    raise GrpcError(Code(message[0]), "50 % of nöthing\n")


async def begins_and_says(call: Call) -> None:
    await call.send(b"first")
    raise GrpcError(Code.DATA_LOSS, "then nothing")


async def test_statuses_reach_the_client(caplog: pytest.LogCaptureFixture) -> None:
    handlers = {"/a.B/Raises": raises, "/a.B/Says": says, "/a.B/Begins": begins_and_says}
    async with serving(handlers) as address:

        def ask(channel: grpc.Channel) -> None:
            for code in list(Code)[1:]:
                status, details = refused(lambda code=code: channel.unary_unary("/a.B/Says")(bytes([code])))
                assert (status.value[0], details) == (code, "50 % of nöthing\n")
            status, details = refused(lambda: channel.unary_unary("/a.B/Raises")(b""))
            assert (status, "secret" in str(details)) == (grpc.StatusCode.INTERNAL, False)
            assert refused(lambda: channel.unary_unary("/a.B/None")(b""))[0] is grpc.StatusCode.UNIMPLEMENTED
            answers = channel.unary_stream("/a.B/Begins")(b"")
            assert next(answers) == b"first"
            assert refused(lambda: next(answers)) == (grpc.StatusCode.DATA_LOSS, "then nothing")

        await client(address, ask)
    assert [record.message for record in caplog.records] == ["/a.B/Raises failed"]


async def test_compression_is_not_spoken_and_said_so() -> None:
    async with serving({"/a.B/Echo": echo}) as address:

        def ask(channel: grpc.Channel) -> None:
            call = channel.unary_unary("/a.B/Echo")
            code, _ = refused(lambda: call(bytes(1000), compression=grpc.Compression.Gzip))
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert call(b"plain") == b"plain"

        await client(address, ask)


async def test_what_comes_with_a_call_is_told() -> None:
    async def told(call: Call) -> None:
        said = "|".join([call.metadata["x-name"], call.metadata[":authority"], call.peer.rpartition(":")[0]])
        await call.send(said.encode())

    async with serving({"/a.B/Told": told}) as address:
        asked = [("x-name", "one"), ("x-name", "two")]
        said = await client(address, lambda channel: channel.unary_unary("/a.B/Told")(b"", metadata=asked))
    assert said == f"one,two|{address}|127.0.0.1".encode()


async def test_both_sides_talk_at_once() -> None:
    async with serving({"/a.B/Echo": echo}) as address:

        def ask(channel: grpc.Channel) -> list[bytes]:
            def messages() -> Iterator[bytes]:
                for number in range(300):
                    yield b"%d" % number * 500

            return list(channel.stream_stream("/a.B/Echo")(messages()))

        assert await client(address, ask) == [b"%d" % number * 500 for number in range(300)]


async def test_two_hundred_calls_at_once_are_served_a_hundred_at_a_time() -> None:
    here = most = 0
    full = trio.Event()

    async def wait(call: Call) -> None:
        nonlocal here, most
        here += 1
        most = max(most, here)
        if here == 100:
            full.set()
        await full.wait()
        await echo(call)
        here -= 1

    async with serving({"/a.B/Wait": wait}) as address:

        def ask(channel: grpc.Channel) -> list[bytes]:
            call = channel.unary_unary("/a.B/Wait")
            return [future.result() for future in [call.future(b"%d" % number) for number in range(200)]]

        assert await client(address, ask) == [b"%d" % number for number in range(200)]
    assert most == 100


async def test_a_deadline_ends_the_handler() -> None:
    waiting = Waiting()
    async with serving({"/a.B/Wait": waiting.handle}) as address:
        code, _ = await client(
            address, lambda channel: refused(lambda: channel.unary_unary("/a.B/Wait")(b"", timeout=0.2))
        )
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        with trio.fail_after(PATIENCE_SECONDS):
            await waiting.ended.wait()


async def test_a_client_that_cancels_ends_the_handler_and_nothing_else() -> None:
    waiting = Waiting()
    async with serving({"/a.B/Wait": waiting.handle, "/a.B/Echo": echo}) as address:

        def ask(channel: grpc.Channel) -> None:
            future = channel.unary_unary("/a.B/Wait").future(b"")
            trio.from_thread.run(waiting.begun.wait)
            future.cancel()
            trio.from_thread.run(waiting.ended.wait)
            assert channel.unary_unary("/a.B/Echo")(b"still here") == b"still here"

        await client(address, ask)


async def test_a_client_that_is_gone_ends_its_handlers() -> None:
    waiting = Waiting()
    async with serving({"/a.B/Wait": waiting.handle}) as address:

        def ask(channel: grpc.Channel) -> None:
            future = channel.unary_unary("/a.B/Wait").future(b"")
            trio.from_thread.run(waiting.begun.wait)
            assert not future.done()

        await client(address, ask)
        with trio.fail_after(PATIENCE_SECONDS):
            await waiting.ended.wait()


async def test_who_leaves_finishes_what_is_short_and_ends_what_is_not() -> None:
    begun, going = Waiting(), trio.Event()

    async def short(call: Call) -> None:
        begun.begun.set()
        await going.wait()
        await echo(call)

    endless = Waiting()
    codes: list[object] = []
    handlers = {"/a.B/Short": short, "/a.B/Long": endless.handle}
    async with trio.open_nursery() as nursery, serving(handlers) as address:

        def ask(channel: grpc.Channel) -> None:
            long = channel.unary_unary("/a.B/Long").future(b"")
            codes.append(channel.unary_unary("/a.B/Short")(b"done"))
            codes.append(long.exception().code())

        nursery.start_soon(client, address, ask)
        await begun.begun.wait()
        await endless.begun.wait()
        nursery.start_soon(_after_a_moment, going)
    assert codes == [b"done", grpc.StatusCode.UNAVAILABLE]


async def test_what_happens_is_counted() -> None:
    tally, waiting = Tally(), Waiting()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    handlers = {"/a.B/Echo": echo, "/a.B/Says": says, "/a.B/Wait": waiting.handle}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_grpc, listener, handlers, tally=tally))

        def ask(channel: grpc.Channel) -> None:
            for _ in range(3):
                channel.unary_unary("/a.B/Echo")(b"")
            refused(lambda: channel.unary_unary("/a.B/Says")(b"\5"))
            future = channel.unary_unary("/a.B/Wait").future(b"")
            trio.from_thread.run(waiting.begun.wait)
            assert (tally.statistics().connections, tally.statistics().calls) == (1, 1)
            future.cancel()
            trio.from_thread.run(waiting.ended.wait)

        await client(address, ask)
        nursery.cancel_scope.cancel()
    assert tally.statistics() == GrpcStatus(0, 0, {"OK": 3, "CANCELLED": 1, "NOT_FOUND": 1}, 0, 0)


async def _after_a_moment(event: trio.Event) -> None:
    """Once whoever is cancelled now has had the time to be so."""
    await trio.testing.wait_all_tasks_blocked()
    event.set()
