from __future__ import annotations

import fcntl
import os

import msgspec
import pytest
import trio
from pannier.shared import bus as bus_module
from pannier.shared import envelope, framing
from pannier.shared.bus import Rejected, open_bus
from pannier.shared.envelope import Welcome
from pannier.shared.errors import NoSuchSidecar, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.link import Link
from pannier.shared.messages import Happening, Nothing, SidecarName
from pannier.shared.unix import listen_unix
from pannier.supervisor.broker import server


class Number(msgspec.Struct, frozen=True):
    value: int


class Word(msgspec.Struct, frozen=True):
    word: str


async def test_welcome_names_service_role_and_configuration(broker):
    async with broker.join("discovery", config=b"\x80") as bus:
        assert (bus.service, bus.peer, bus.config) == ("orders", "discovery", b"\x80")


async def test_nobody_listens(short_path):
    with pytest.raises(Unreachable) as caught:
        async with open_bus(short_path / "bus.sock"):
            pass
    assert caught.value.exit_code == 69


async def test_an_error_in_the_body_comes_out_as_it_is(broker):
    with pytest.raises(UsageError, match="mine"):
        async with broker.join():
            raise UsageError("mine")


async def test_state_reaches_a_late_joiner_and_conflates(broker):
    async with broker.join("discovery", topics=["services"]) as discovery, broker.join() as late:
        for value in range(10):
            await discovery.publish("services", Number(value), retain=True)
        await broker.wait_until(lambda: sum(p.received for p in broker.broker.statistics().peers) > 0)
        async with late.subscribe("services", Number) as numbers:
            with trio.fail_after(5):
                async for number in numbers:
                    if number.value == 9:
                        break
        async with late.subscribe("services", Number) as again:
            assert await anext(again) == Number(9)


async def test_events_come_in_order_from_any_role(broker):
    async with (
        broker.join("observability") as reader,
        broker.join("discovery") as writer,
        reader.subscribe("events", Happening) as happenings,
    ):
        await broker.broker.publish("here", Nothing(), retain=True)
        async with reader.subscribe("here", Nothing) as here:
            await anext(here)
        for at in range(3):
            await writer.publish("events", Happening("discovery", "test", "x", "info", at))
        assert [(await anext(happenings)).at_ms for _ in range(3)] == [0, 1, 2]


async def test_a_slow_reader_loses_the_oldest_events_and_counts_them(broker):
    async with broker.join() as reader, reader.subscribe("numbers", Number) as numbers:
        await broker.broker.publish("sync", Nothing(), retain=True)
        async with reader.subscribe("sync", Nothing) as sync:
            await anext(sync)
        for value in range(300):
            await broker.broker.publish("numbers", Number(value))
            if value % 50 == 0:
                await broker.wait_until(lambda: broker.broker.statistics().fan_out.queued == 0)
        await broker.broker.publish("done", Nothing(), retain=True)
        async with reader.subscribe("done", Nothing) as done:
            await anext(done)
        assert await anext(numbers) == Number(44)
        assert numbers.dropped == 44 == reader.statistics().dropped


async def test_a_body_of_another_type_is_counted_and_skipped(broker):
    async with broker.join() as reader, reader.subscribe("numbers", Number) as numbers:
        await broker.broker.publish("numbers", Word("no number"), retain=True)
        with trio.move_on_after(0.5):
            async with reader.subscribe("numbers", Word) as words:
                await anext(words)
        await broker.broker.publish("numbers", Number(1))
        assert await anext(numbers) == Number(1)
        assert numbers.undecodable == 1


async def test_request_and_reply_between_peers(broker):
    async def double(number: Number) -> Number:
        return Number(number.value * 2)

    async with broker.join("observability") as server, broker.join() as client:
        server.serve("double", Number, double)
        assert await client.request("observability", "double", Number(21), Number) == Number(42)


async def test_errors_of_a_handler_keep_their_kind(broker):
    async def refuse(name: SidecarName) -> None:
        raise NoSuchSidecar(f"no sidecar `{name.name}`", hint="`pannier sidecar list`", code="PAN0104")

    broker.broker.serve_verb("sidecar.add", SidecarName, refuse)
    async with broker.join() as client:
        with pytest.raises(NoSuchSidecar) as caught:
            await client.request("supervisor", "sidecar.add", SidecarName("tap"), Nothing)
    error = caught.value
    assert (error.message, error.hint, error.code, error.exit_code) == (
        "no sidecar `tap`",
        "`pannier sidecar list`",
        "PAN0104",
        4,
    )


async def test_a_bug_in_a_handler_is_a_failure_and_the_bus_goes_on(broker, caplog):
    async def divide(_: Nothing) -> None:
        raise ZeroDivisionError

    async with broker.join("discovery") as server, broker.join() as client:
        server.serve("divide", Nothing, divide)
        for _ in range(2):
            with pytest.raises(PannierError, match="ZeroDivisionError"):
                await client.request("discovery", "divide", None, Nothing)
    assert "the handler of `divide` failed" in caplog.text


@pytest.mark.parametrize(
    ("to", "verb", "body", "hint"),
    [
        ("nobody", "x", None, "connected now: discovery, supervisor"),
        ("discovery", "x", None, "it knows: services"),
        ("supervisor", "x", None, "it knows: none"),
    ],
)
async def test_unknown_peers_and_verbs_say_what_there_is(broker, to, verb, body, hint):
    async def services(_: Nothing) -> Nothing:
        return Nothing()

    async with broker.join("discovery") as server, broker.join() as client:
        server.serve("services", Nothing, services)
        with pytest.raises(PannierError) as caught:
            await client.request(to, verb, body, Nothing)
    assert hint in caught.value.hint


async def test_an_argument_of_the_wrong_type_is_a_failure(broker):
    async def take(_: Number) -> None:
        raise AssertionError("not reached")

    broker.broker.serve_verb("take", Number, take)
    async with broker.join() as client:
        with pytest.raises(PannierError, match="not the expected message"):
            await client.request("supervisor", "take", Word("x"), Nothing)


async def test_a_request_times_out(broker):
    async def wait(_: Nothing) -> None:
        await trio.sleep_forever()

    broker.broker.serve_verb("wait", Nothing, wait)
    async with broker.join() as client:
        with pytest.raises(TimedOut):
            await client.request("supervisor", "wait", None, Nothing, timeout=0.05)


async def test_a_handler_that_leaves_fails_its_requests(broker):
    async with broker.join() as client:
        async with broker.join("discovery") as server:
            asked, told = trio.Event(), trio.Event()

            async def wait(_: Nothing) -> None:
                asked.set()
                await trio.sleep_forever()

            server.serve("wait", Nothing, wait)

            async def ask() -> None:
                with pytest.raises(Unreachable, match="went away"):
                    await client.request("discovery", "wait", None, Nothing)
                told.set()

            broker.nursery.start_soon(ask)
            await asked.wait()
        await told.wait()


async def test_descriptors_arrive_close_on_exec_and_map(broker):
    source = os.memfd_create("table")
    os.write(source, b"policy")
    try:
        async with broker.join("discovery", fds={"table.base": source}) as bus:
            fd = bus.fds["table.base"]
            assert os.pread(fd, 6, 0) == b"policy"
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            assert os.fstat(fd).st_ino == os.fstat(source).st_ino
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        os.close(source)


async def test_after_a_restart_everything_is_there_again(broker):
    old, new = os.memfd_create("old"), os.memfd_create("new")
    token = broker.grants.issue("discovery", topics=["services"], fds={"hot": old})

    async def double(number: Number) -> Number:
        return Number(number.value * 2)

    async with open_bus(broker.path, role="discovery", token=token, reconnect=True) as bus:
        bus.serve("double", Number, double)
        await bus.ready()
        await bus.publish("services", Number(7), retain=True)
        await broker.wait_seen("ready", "discovery")
        number = bus.fds["hot"]
        async with bus.subscribe("lifecycle", Word) as words:
            await broker.broker.publish("lifecycle", Word("starting"), retain=True)
            assert await anext(words) == Word("starting")

            await broker.stop()
            await broker.wait_until(lambda: not bus.statistics().connected)
            with pytest.raises(Unreachable):
                await bus.request("supervisor", "status", None, Nothing)
            await bus.publish("services", Number(8), retain=True)
            await bus.publish("events", Number(0))
            broker.grants.issue("discovery", topics=["services"], fds={"hot": new}, token=token)
            broker.start()
            await broker.broker.publish("lifecycle", Word("serving"), retain=True)

            with trio.fail_after(10):
                assert await anext(words) == Word("serving")
            await broker.wait_seen("ready", "discovery", times=2)
        async with broker.join() as client:
            assert await client.request("discovery", "double", Number(4), Number) == Number(8)
            async with client.subscribe("services", Number) as services:
                assert await anext(services) == Number(8)
        assert bus.fds == {"hot": number}
        assert os.fstat(number).st_ino == os.fstat(new).st_ino
        assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert bus.statistics().connects == 2
        assert bus.statistics().dropped == 1
    os.close(old)
    os.close(new)


async def test_without_reconnect_a_loss_is_told_to_everybody(broker):
    async with broker.join() as bus, bus.subscribe("lifecycle", Word) as words:
        await broker.stop()
        with trio.fail_after(5):
            await bus.wait_closed()
            with pytest.raises(Unreachable):
                await anext(words)
            with pytest.raises(Unreachable):
                await bus.request("supervisor", "status", None, Nothing)
            with pytest.raises(Unreachable):
                await bus.publish("x", Nothing())


async def test_a_request_in_flight_fails_when_the_supervisor_dies(broker):
    asked = trio.Event()

    async def wait(_: Nothing) -> None:
        asked.set()
        await trio.sleep_forever()

    broker.broker.serve_verb("wait", Nothing, wait)
    async with broker.join("discovery", reconnect=True) as bus:

        async def ask() -> None:
            with pytest.raises(Unreachable):
                await bus.request("supervisor", "wait", None, Nothing)

        broker.nursery.start_soon(ask)
        await asked.wait()
        await broker.stop()


async def test_a_replaced_role_does_not_come_back(broker):
    token = broker.grants.issue("discovery")
    async with (
        open_bus(broker.path, role="discovery", token=token, reconnect=True) as older,
        open_bus(broker.path, role="discovery", token=token) as newer,
    ):
        with trio.fail_after(5):
            await older.wait_closed()
        await newer.ready()
        await broker.wait_seen("ready", "discovery")
    await broker.wait_seen("gone", "discovery")
    assert broker.seen.count(("gone", "discovery")) == 1


async def test_beats_come_from_sidecars_alone(broker):
    async with broker.join("discovery"), broker.join():
        await broker.wait_seen("beat", "discovery", times=2)
    assert {role for _, role in broker.seen} == {"discovery"}


async def test_what_was_posted_last_is_still_written(broker):
    async with broker.join() as reader, reader.subscribe("services", Number) as numbers:
        async with broker.join("discovery", topics=["services"]) as writer:
            await writer.publish("services", Number(1), retain=True)
        assert await anext(numbers) == Number(1)


async def test_a_body_that_does_not_fit_is_refused_at_home(broker):
    async with broker.join("discovery", topics=["services"]) as bus:
        with pytest.raises(framing.FramingError, match="at most"):
            await bus.publish("services", Word("x" * framing.MAX_FRAME), retain=True)
        await bus.publish("services", Word("x" * (framing.MAX_BODY - 64)), retain=True)
        async with bus.subscribe("services", Word) as words:
            assert len((await anext(words)).word) == framing.MAX_BODY - 64


async def test_a_supervisor_that_does_not_answer(short_path, autojump_clock):
    listener = listen_unix(short_path / "bus.sock")
    async with listener:
        with pytest.raises(Unreachable, match="does not answer"):
            async with open_bus(short_path / "bus.sock"):
                pass


@pytest.mark.parametrize("names", [[], ["a", "b"]])
async def test_descriptors_and_names_must_agree(short_path, nursery, names):
    listener = listen_unix(short_path / "bus.sock")

    async def welcome_with_one() -> None:
        async with listener, await listener.accept() as stream:
            link = Link(stream)
            await link.receive()
            await link.send_with_descriptors(Welcome(envelope.VERSION, "cli", names, b"", "x"), [0])

    nursery.start_soon(welcome_with_one)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(framing.FramingError):
        async with open_bus(short_path / "bus.sock"):
            pass
    assert len(os.listdir("/proc/self/fd")) <= len(before)


async def test_rejections_carry_their_reason(broker):
    with pytest.raises(Rejected, match="not known") as caught:
        async with open_bus(broker.path, role="discovery", token="00"):
            pass
    assert caught.value.reason == "token"


async def test_a_peer_that_is_refused_again_and_again_slows_down(broker, monkeypatch):
    waits: list[int] = []
    monkeypatch.setattr(bus_module, "full_jitter", lambda attempt, **_: waits.append(attempt) or 0)
    token = broker.grants.issue("discovery")
    async with open_bus(broker.path, role="discovery", token=token, reconnect=True) as stubborn:
        await stubborn.publish("lifecycle", Number(1), retain=True)
        await broker.wait_until(lambda: len(waits) >= 5)
    assert waits[:5] == [0, 1, 2, 3, 4]


async def test_a_bus_that_is_full_says_so(broker, monkeypatch):
    monkeypatch.setattr(server, "MAX_PEERS", 1)
    async with broker.join():
        with pytest.raises(Rejected) as caught:
            async with broker.join():
                pass
    assert caught.value.reason == "busy"


async def test_thousands_of_changes_arrive_as_the_newest(broker):
    async with broker.join("discovery", topics=["services"]) as writer, broker.join() as reader:
        async with reader.subscribe("services", Number) as numbers:
            for value in range(3000):
                await writer.publish("services", Number(value), retain=True)
            with trio.fail_after(10):
                async for number in numbers:
                    if number.value == 2999:
                        break
        assert writer.statistics().conflated + reader.statistics().conflated > 0
