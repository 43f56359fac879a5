from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgpack
import msgspec
import pytest
import trio
from pannier.shared import envelope, framing
from pannier.shared.bus import open_bus
from pannier.shared.envelope import (
    Beat,
    Event,
    Failure,
    Hello,
    Publish,
    Ready,
    Reject,
    Reply,
    Request,
    Subscribe,
    Welcome,
)
from pannier.shared.errors import TimedOut, Unreachable, UsageError
from pannier.shared.framing import frame
from pannier.shared.link import Link
from pannier.shared.messages import CONFIGURE, Cluster, Configure, Configured, Nothing, Services
from pannier.shared.unix import connect_unix, listen_unix
from pannier.supervisor.broker import Broker, Grants, server
from pannier.supervisor.broker.calls import MAX_OPEN


class Number(msgspec.Struct, frozen=True):
    value: int


class Wire:
    """A peer that says exactly what it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._link = Link(stream)
        self._waiting: list[envelope.Envelope] = []

    async def say(self, *messages: envelope.Envelope) -> None:
        await self.stream.send_all(b"".join(map(frame, messages)))

    async def hear(self) -> envelope.Envelope | None:
        """The next message; None at the end."""
        with trio.fail_after(10):
            if not self._waiting:
                try:
                    self._waiting = await self._link.receive()
                except Unreachable:
                    return None
        return self._waiting.pop(0) if self._waiting else None

    async def hear_verdict(self) -> str | None:
        """The code of the Reject that ends the connection; None if it ends without one."""
        code = None
        while (message := await self.hear()) is not None:
            code = message.code if isinstance(message, Reject) else code
        return code


@asynccontextmanager
async def wire(broker, role: str = "cli", topics: list[str] | None = None) -> AsyncIterator[Wire]:
    token = "" if role == "cli" else broker.grants.issue(role, topics=topics or [])
    async with await connect_unix(broker.path) as stream:
        peer = Wire(stream)
        await peer.say(Hello(envelope.VERSION, token, 1, role))
        assert isinstance(await peer.hear(), Welcome)
        yield peer


@pytest.fixture
async def bystander(broker):
    """A peer that must not notice what another one does; it proves so at the end of the test."""
    async with broker.join("discovery", topics=["services"]) as bus:
        yield bus
        broker.broker.serve_verb("still.here", Nothing, _nothing)
        assert await bus.request("supervisor", "still.here", None, Nothing) == Nothing()
        assert bus.statistics().connects == 1


async def _nothing(_: Nothing) -> None:
    pass


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(2, "", 1, "cli"), "version"),
        (Hello(1, "", 1, "discovery"), "role"),
        (Hello(1, "ff" * 32, 1, "discovery"), "token"),
        (Hello(1, "ff" * 32, 1, "cli"), "token"),
        (Ready(), "protocol"),
        (Request(1, "supervisor", "status", b"\x80"), "protocol"),
        (Welcome(1, "cli", [], b"", "orders"), "protocol"),
    ],
    ids=str,
)
async def test_who_is_not_let_in_is_told_why(broker, bystander, hello, code):
    async with await connect_unix(broker.path) as stream:
        peer = Wire(stream)
        await peer.say(hello)
        assert await peer.hear_verdict() == code


async def test_a_token_is_for_one_role(broker, bystander):
    token = broker.grants.issue("traffic")
    async with await connect_unix(broker.path) as stream:
        await Wire(stream).say(Hello(1, token, 1, "discovery"))
        assert await Wire(stream).hear_verdict() == "role"


async def test_a_revoked_token_opens_nothing(broker):
    token = broker.grants.issue("traffic")
    broker.grants.issue("traffic")
    async with await connect_unix(broker.path) as stream:
        await Wire(stream).say(Hello(1, token, 1, "traffic"))
        assert await Wire(stream).hear_verdict() == "token"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_a_foreign_uid_gets_nothing(broker, bystander):
    broker.path.parent.chmod(0o755)
    broker.path.chmod(0o666)
    program = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect({str(broker.path)!r})
try: s.sendall({frame(Hello(1, broker.grants.issue("traffic"), 1, "traffic"))!r})
except BrokenPipeError: pass
data = b""
try:
    while chunk := s.recv(4096): data += chunk
except ConnectionResetError: pass
print(b"uid" in data and b"welcome" not in data)
"""
    result = await trio.run_process([sys.executable, "-I", "-S", "-c", program], capture_stdout=True)
    assert result.stdout == b"True\n"


async def test_a_peer_that_says_nothing_is_cut_after_two_seconds(broker, bystander, monkeypatch):
    assert server.HELLO_SECONDS == 2.0
    monkeypatch.setattr(server, "HELLO_SECONDS", 0.05)
    async with await connect_unix(broker.path) as silent, await connect_unix(broker.path) as slow:
        await slow.send_all(frame(Hello(1, "", 1, "cli"))[:-1])
        assert await Wire(silent).hear_verdict() == "late"
        assert await Wire(slow).hear_verdict() == "late"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Publish("services", b"\x80", True), "rights"),
        (Publish("events", b"\x80", False), "rights"),
        (Ready(), "rights"),
        (Beat(), "rights"),
        (Reply(1, b"\x80"), "rights"),
        (Hello(1, "", 1, "cli"), "protocol"),
        (Event("lifecycle", "supervisor", 1, True, b"\x80"), "protocol"),
        (Subscribe([f"t{n}" for n in range(65)]), "rights"),
        (Subscribe(["t" * 129]), "rights"),
    ],
    ids=lambda v: type(v).__name__,
)
async def test_the_command_line_may_ask_and_listen_only(broker, bystander, message, code):
    async with wire(broker) as peer:
        await peer.say(message)
        assert await peer.hear_verdict() == code
    assert all(role != "cli" for _, role in broker.seen)


async def test_the_supervisor_asks_as_any_peer_does(broker):
    async def double(number: Number) -> Number:
        if number.value < 0:
            raise UsageError("negative", hint="give another")
        if number.value == 0:
            await trio.sleep_forever()
        return Number(2 * number.value)

    async def ask(value: int, *, to: str = "traffic", timeout: float = 5) -> Number:
        return await broker.broker.request(to, "double", Number(value), Number, timeout=timeout)

    async with broker.join("traffic") as bus:
        bus.serve("double", Number, double)
        assert await ask(4) == Number(8)
        with pytest.raises(UsageError, match="negative"):
            await ask(-1)
        with pytest.raises(TimedOut):
            await ask(0, timeout=0.01)
        assert await ask(5) == Number(10)
        with pytest.raises(Unreachable, match="not connected"):
            await ask(1, to="resilience")
    async with wire(broker, "traffic") as peer, trio.open_nursery() as nursery:

        async def leave() -> None:
            assert isinstance(await peer.hear(), Request)
            await peer.stream.aclose()

        nursery.start_soon(leave)
        with pytest.raises(Unreachable, match="went away"):
            await ask(0)
    assert broker.broker.statistics().open_calls == 0


async def test_only_the_supervisor_configures_a_sidecar(broker, bystander):
    async def take(_: Configure) -> Configured:
        return Configured(live=True)

    async with broker.join("traffic") as bus, broker.join() as cli:
        bus.serve(CONFIGURE, Configure, take)
        for asker in (cli, bystander):
            with pytest.raises(UsageError, match="supervisor's alone"):
                await asker.request("traffic", CONFIGURE, Configure(b""), Configured)
        assert await broker.broker.request("traffic", CONFIGURE, Configure(b""), Configured) == Configured(live=True)


async def test_a_third_party_hears_what_it_may_and_is_asked_for_what_it_serves(broker):
    token = broker.grants.issue("third", hears=["lifecycle"], verbs=["go"])
    async with open_bus(broker.path, role="third", token=token) as third, broker.join("cli") as cli:

        async def answer(number: Number) -> Number:
            return number

        for verb in ("go", "hidden"):
            third.serve(verb, Number, answer)
        async with third.subscribe("lifecycle", Number) as heard:
            await broker.broker.publish("lifecycle", Number(1), retain=True)
            assert (await anext(heard)).value == 1
        assert await cli.request("third", "go", Number(7), Number) == Number(7)
        with pytest.raises(UsageError, match="serves no verb `hidden`") as refused:
            await cli.request("third", "hidden", Number(7), Number)
        assert refused.value.hint == "it serves: go"
        with pytest.raises(Unreachable):
            async with third.subscribe("services", Number) as heard:
                await anext(heard)


async def test_a_role_publishes_its_own_topics_only(broker, bystander):
    async with (
        bystander.subscribe("lifecycle", Number) as numbers,
        wire(broker, "traffic", ["canary.progress"]) as peer,
    ):
        await peer.say(Publish("canary.progress", b"\x80", True), Publish("lifecycle", b"\x81\xa5value\x01", True))
        assert await peer.hear_verdict() == "rights"
        await broker.broker.publish("lifecycle", Number(2), retain=True)
        assert await anext(numbers) == Number(2)


HOSTILE = {
    "declared length 2**32-1": b"\xff\xff\xff\xff",
    "16 MiB": (16 * 2**20).to_bytes(4, "big") + b"x" * 65536,
    "empty frame": b"\x00\x00\x00\x00",
    "ext": b"\x00\x00\x00\x03\xd4\x05x",
    "timestamp": b"\x00\x00\x00\x06\xd6\xff\x00\x00\x00\x01",
    "bad UTF-8": b"\x00\x00\x00\x05\x81\xa1t\xa1\xff",
    "depth": b"\x00\x00\x03\xe9" + b"\x91" * 1000 + b"\x90",
    "a map of 10**6": b"\x00\x00\x00\x05\xdf\x00\x0f\x42\x40",
    "unknown message": frame(Beat()).replace(b"beat", b"eval"),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("when", ["at once", "after Welcome"])
async def test_bytes_that_are_no_message_end_that_connection_alone(broker, bystander, data, when):
    async with wire(broker) if when == "after Welcome" else bare(broker) as peer:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.stream.send_all(data)
        assert await peer.hear_verdict() in ("protocol", None)


@asynccontextmanager
async def bare(broker) -> AsyncIterator[Wire]:
    async with await connect_unix(broker.path) as stream:
        yield Wire(stream)


async def test_a_frame_that_arrives_drop_by_drop_is_cut(broker, bystander, monkeypatch):
    assert server.PATIENCE_SECONDS == 5.0
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.05)
    async with wire(broker) as peer:
        await peer.stream.send_all(frame(Subscribe(["services"]))[:-1])
        assert await peer.hear_verdict() == "protocol"


async def test_descriptors_from_a_client_are_closed(broker, bystander):
    before = len(os.listdir("/proc/self/fd"))
    mine, other = socket.socketpair()
    with mine, other:
        async with wire(broker) as peer:
            data = frame(Subscribe(["services"]))
            await peer.stream.socket.sendmsg(
                [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, other.fileno().to_bytes(4, sys.byteorder))]
            )
            await peer.say(Request(1, "nobody", "x", b"\x80"))
            assert isinstance(await peer.hear(), Failure)
            assert len(os.listdir("/proc/self/fd")) == before + 4


async def test_a_second_connection_takes_the_role(broker):
    token = broker.grants.issue("traffic")
    async with bare(broker) as older, bare(broker) as newer:
        await older.say(Hello(1, token, 1, "traffic"))
        assert isinstance(await older.hear(), Welcome)
        await newer.say(Hello(1, token, 1, "traffic"))
        assert isinstance(await newer.hear(), Welcome)
        assert await older.hear_verdict() == "replaced"
        await newer.say(Ready())
        await broker.wait_seen("ready", "traffic")
        assert ("gone", "traffic") not in broker.seen
    await broker.wait_seen("gone", "traffic")


async def test_many_commands_at_a_time(broker):
    async with wire(broker), wire(broker), wire(broker):
        assert len(broker.broker.statistics().peers) == 3


async def test_a_late_joiner_gets_the_last_value_only(broker, bystander):
    for value in range(3):
        await broker.broker.publish("lifecycle", Number(value), retain=True)
    await broker.broker.publish("gossip", Number(0))
    async with wire(broker) as peer:
        await peer.say(Subscribe(["gossip", "lifecycle"]))
        message = await peer.hear()
        assert isinstance(message, Event)
        assert (message.topic, message.sequence, message.sender) == ("lifecycle", 3, "supervisor")


async def test_the_state_of_a_role_that_was_removed_is_cleared(broker, bystander):
    async with bystander.subscribe("services", Services) as services:
        async with wire(broker, "traffic", ["services"]) as peer:
            told = Services([Cluster("stock", [])])
            await peer.say(Publish("services", framing.encode(told), True))
            assert await anext(services) == told
            await broker.broker.publish("lifecycle", Number(1), retain=True)
            broker.grants.revoke("traffic")
            broker.broker.clear("traffic")
            assert await peer.hear_verdict() == "token"
        assert await anext(services) == Services([])
    async with wire(broker) as late:
        await late.say(Subscribe(["services", "lifecycle"]))
        message = await late.hear()
        assert isinstance(message, Event)
        assert message.topic == "lifecycle"


async def test_state_outlives_its_publisher(broker):
    async with wire(broker, "discovery", ["services"]) as peer:
        await peer.say(Publish("services", b"\x81\xa5value\x07", True))
        await broker.wait_until(lambda: broker.broker.statistics().peers[0].received == 1)
    await broker.wait_seen("gone", "discovery")
    async with broker.join() as late, late.subscribe("services", Number) as numbers:
        assert await anext(numbers) == Number(7)


def balanced(broker) -> bool:
    s = broker.broker.statistics().fan_out
    return s.published == s.delivered + s.conflated + s.dropped + s.queued


async def test_a_subscriber_that_never_reads_is_cut_and_the_books_balance(broker, bystander, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 2.0)
    async with wire(broker) as peer, bystander.subscribe("numbers", Number) as numbers:
        await peer.say(Subscribe(["numbers", "big"]))
        await broker.broker.publish("ping", Nothing(), retain=True)
        async with bystander.subscribe("ping", Nothing) as ping:
            await anext(ping)
        await broker.wait_until(lambda: any(p.role == "cli" and p.received for p in broker.broker.statistics().peers))
        big = Blob(b"x" * 100_000)
        for _ in range(5):
            await broker.broker.publish("big", big, retain=True)
            await trio.lowlevel.checkpoint()
        for value in range(400):
            await broker.broker.publish("numbers", Number(value))
            await broker.broker.publish("big", big, retain=True)
            if value < 100:
                assert await anext(numbers) == Number(value)
            assert balanced(broker)
        stuck = next(p for p in broker.broker.statistics().peers if p.role == "cli").outbox
        assert stuck.queued <= 258
        assert stuck.dropped > 0
        assert stuck.conflated > 0
        await broker.wait_until(lambda: all(p.role != "cli" for p in broker.broker.statistics().peers))
        assert balanced(broker)


class Blob(msgspec.Struct, frozen=True):
    data: bytes


async def test_a_flood_is_not_read_faster_than_allowed_and_then_cut(broker, bystander, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 1.0)
    async with wire(broker, "traffic") as peer:
        began = trio.current_time()

        async def flood() -> None:
            chunk = frame(Beat()) * 1000
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await peer.stream.send_all(chunk)

        broker.nursery.start_soon(flood)
        await broker.wait_until(lambda: broker.seen.count(("beat", "traffic")) > 500)
        with pytest.raises(Unreachable), trio.fail_after(0.5):
            await bystander.request("nobody", "x", None, Nothing)
        await broker.wait_seen("gone", "traffic")
        seconds = trio.current_time() - began
        assert seconds >= 1.0
        assert broker.seen.count(("beat", "traffic")) <= server.BURST + server.MESSAGES_PER_SECOND * seconds + 1


async def test_a_flood_of_questions_is_told_that_it_is_one(broker, bystander, monkeypatch):
    """Answers wait for it to read them when it is cut; the reason is said all the same."""
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.2)
    async with wire(broker) as peer:

        async def flood() -> None:
            chunk = b"".join(frame(Request(n, "nobody", "x", b"\x80")) for n in range(200))
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await peer.stream.send_all(chunk)

        broker.nursery.start_soon(flood)
        assert await peer.hear_verdict() == "flood"


async def test_requests_of_two_askers_do_not_mix(broker):
    async with wire(broker, "discovery") as handler, wire(broker) as a, wire(broker) as b:
        await a.say(Request(1, "discovery", "x", b"a"))
        first = await handler.hear()
        await b.say(Request(1, "discovery", "x", b"b"))
        second = await handler.hear()
        assert (first.body, second.body) == (b"a", b"b")
        assert first.id != second.id
        await handler.say(Reply(second.id, b"B"), Failure(first.id, "usage", "no", ""))
        assert await a.hear() == Failure(1, "usage", "no", "")
        assert await b.hear() == Reply(1, b"B")


async def test_answers_that_nobody_waits_for_are_ignored(broker, bystander):
    async with wire(broker, "traffic") as liar:
        await liar.say(Reply(1, b"\x80"), Failure(99, "usage", "", ""), Ready())
        await broker.wait_seen("ready", "traffic")


async def test_a_peer_cannot_answer_for_another(broker):
    async with wire(broker, "discovery") as handler, wire(broker, "traffic") as liar, wire(broker) as asker:
        await asker.say(Request(5, "discovery", "x", b"\x80"))
        request = await handler.hear()
        await liar.say(Reply(request.id, b"lie"), Ready())
        await broker.wait_seen("ready", "traffic")
        await handler.say(Reply(request.id, b"truth"))
        assert await asker.hear() == Reply(5, b"truth")


async def test_an_asker_that_gave_up_makes_room_itself(broker):
    async with wire(broker, "discovery") as handler, wire(broker) as asker:
        await asker.say(*(Request(n, "discovery", "x", b"\x80") for n in range(MAX_OPEN + 1)))
        answer = await asker.hear()
        assert isinstance(answer, Failure)
        assert (answer.id, answer.code) == (0, "unreachable")
        assert broker.broker.statistics().open_calls == MAX_OPEN
        assert isinstance(await handler.hear(), Request)
    await broker.wait_until(lambda: broker.broker.statistics().open_calls == 0)


async def test_the_supervisor_answers_a_bounded_number_at_a_time(broker):
    release = trio.Event()

    async def wait(_: Nothing) -> None:
        await release.wait()

    broker.broker.serve_verb("wait", Nothing, wait)
    most = server.MAX_OWN_CALLS_A_PEER
    async with AsyncExitStack() as stack:
        askers = [await stack.enter_async_context(wire(broker)) for _ in range(server.MAX_OWN_CALLS // most)]
        for asker in askers:
            await asker.say(*(Request(n, "supervisor", "wait", b"\x80") for n in range(most + 1)))
            busy = await asker.hear()
            assert isinstance(busy, Failure)
            assert busy.id == most, "a peer that asks too much has its own share only"
        late = await stack.enter_async_context(wire(broker))
        await late.say(Request(1, "supervisor", "wait", b"\x80"))
        assert isinstance(await late.hear(), Failure), "nor is there any share left"
        release.set()
        for asker in askers:
            assert {(await asker.hear()).id for _ in range(most)} == set(range(most))
        await late.say(Request(2, "supervisor", "wait", b"\x80"))
        assert await late.hear() == Reply(2, b"\x80")


async def test_an_asker_that_does_not_read_its_answers_is_cut(broker, bystander, monkeypatch):
    monkeypatch.setattr(server, "MAX_BACKLOG", 100_000)

    async def big(_: Nothing) -> Blob:
        return Blob(b"x" * 100_000)

    broker.broker.serve_verb("big", Nothing, big)
    async with wire(broker) as asker:
        await asker.say(*(Request(n, "supervisor", "big", b"\x80") for n in range(60)))
        await broker.wait_until(lambda: all(p.role != "cli" for p in broker.broker.statistics().peers))


async def test_ready_names_the_process(short_path: Path, nursery: trio.Nursery):
    seen: list[tuple[str, int]] = []
    told = trio.Event()

    async def on_ready(role: str, pid: int) -> None:
        seen.append((role, pid))
        told.set()

    grants = Grants()
    broker = Broker(service="orders", grants=grants, on_ready=on_ready)
    nursery.start_soon(broker.serve, listen_unix(short_path / "bus.sock"))
    async with open_bus(short_path / "bus.sock", role="traffic", token=grants.issue("traffic")) as bus:
        await bus.ready()
        await told.wait()
    assert seen == [("traffic", os.getpid())]


@pytest.mark.parametrize("role", ["cli", "supervisor"])
async def test_reserved_roles_are_not_granted(broker, role):
    with pytest.raises(ValueError, match="not a role"):
        broker.grants.issue(role)
    with pytest.raises(ValueError, match="empty"):
        broker.grants.issue("traffic", token="")


async def test_a_verb_has_one_handler(broker):
    broker.broker.serve_verb("x", Nothing, _nothing)
    with pytest.raises(ValueError, match="has a handler"):
        broker.broker.serve_verb("x", Nothing, _nothing)


def full(make: Callable[[str], envelope.Envelope]) -> envelope.Envelope:
    """The longest message of its kind that is still a frame."""
    return make("x" * (framing.MAX_FRAME - len(frame(make("x" * 70_000))) + 70_004))


OVERSIZED = [
    full(lambda text: Hello(1, "", 1, text)),
    full(lambda text: Hello(1, text, 1, "cli")),
    full(lambda text: Subscribe([text])),
    full(lambda text: Request(1, text, "x", b"\x80")),
    full(lambda text: Request(1, "supervisor", text, b"\x80")),
    full(lambda text: Request(1, "discovery", "x", text.encode())),
    full(lambda text: Publish(text, b"\x80", True)),
    full(lambda text: Publish("mine", text.encode(), True)),
    full(lambda text: Publish("events", text.encode(), False)),
    full(lambda text: Reply(1, text.encode())),
    full(lambda text: Failure(1, text, "", "")),
    full(lambda text: Reject(text, "", "")),
    full(lambda text: Event(text, "", 1, True, b"")),
    full(lambda text: Welcome(1, text, [], b"", "")),
]


@pytest.mark.parametrize("message", OVERSIZED, ids=lambda m: type(m).__name__)
async def test_text_of_any_length_harms_its_sender_at_most(broker, bystander, message):
    async with bare(broker) as stranger:
        await stranger.say(message)
        assert await stranger.hear_verdict() is not None
    async with wire(broker, "traffic", ["mine"]) as peer:
        await peer.say(message, Beat())
        with trio.move_on_after(0.05):
            await peer.hear()
    async with bystander.subscribe("mine", Number) as numbers:
        await broker.broker.publish("mine", Number(3), retain=True)
        assert await anext(numbers) == Number(3)


async def test_a_field_with_an_endless_name_is_refused_in_few_words(broker, bystander):
    body = msgpack.packb({"t": "beat", "x" * (framing.MAX_FRAME - 20): 1})
    async with bare(broker) as peer:
        await peer.stream.send_all(len(body).to_bytes(4, "big") + body)
        assert await peer.hear_verdict() == "protocol"
