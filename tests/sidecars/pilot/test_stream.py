"""Our own protocol: the pilot's side against a client that says what it likes, and against the one of discovery."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Never

import pytest
import trio
from pannier.shared import pilot_stream as wire
from pannier.shared.errors import Unreachable
from pannier.shared.http_server import serve_http
from pannier.shared.instances import EVERY, State
from pannier.shared.leases import Registration
from pannier.shared.unix import listen_unix
from pannier.sidecars.discovery import pilot_link
from pannier.sidecars.discovery.configuration import Configuration
from pannier.sidecars.discovery.mirror import Mirror
from pannier.sidecars.discovery.pilot_link import PilotLink
from pannier.sidecars.discovery.voice import Voice
from pannier.sidecars.pilot.documents.documents import CONFIG, Documents, Key
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.registry.entries import Entry, key_of
from pannier.sidecars.pilot.registry.fanout import Change, Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import SqliteStore, open_sqlite
from pannier.sidecars.pilot.stream import outgoing
from pannier.sidecars.pilot.stream.stream import Streams

ASK = b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: pannier-pilot\r\n%s\r\n"
TTL_MS = 10_000


class Pilot:
    """A registry behind a real socket; `token` is asked for if there is one."""

    def __init__(self, registry: Registry, documents: Documents, path: Path, token: str = "") -> None:
        self.registry = registry
        self.documents = documents
        self.path = path
        self.fanout = Fanout(registry)
        self.streams = Streams(registry, self.fanout, documents)
        self.api = Api(registry, self.streams, token=token)

    async def register(self, name: str, *, service: str = "orders", **more: Any) -> None:
        entry = Entry(more.pop("epoch", 0), f"10.0.0.1:{8000 + ord(name[0])}", State.UP, TTL_MS, more)
        outcome = await self.registry.register((service, name), entry)
        assert outcome.verdict.accepted
        await self.registry.catch_up({service: self.registry.view.get(key_of((service, name)))[1]}, within=10.0)


class Client:
    def __init__(self, connection: trio.SocketStream) -> None:
        self.connection = connection
        self._frames = wire.Frames(wire.MAX_TOLD)
        self._bodies: list[bytes] = []

    async def say(self, *messages: wire.Asked) -> None:
        await self.connection.send_all(b"".join(map(wire.frame, messages)))

    async def hear(self) -> wire.Said:
        while not self._bodies:
            data = await self.connection.receive_some(65536)
            if not data:
                raise EOFError
            self._bodies = self._frames.feed(data)
        return wire.said(self._bodies.pop(0))

    async def hear_all(self, count: int) -> list[wire.Said]:
        return [await self.hear() for _ in range(count)]


@asynccontextmanager
async def served(folder: Path, token: str = "") -> AsyncIterator[Pilot]:
    async with open_sqlite(folder / "store") as store, trio.open_nursery() as nursery:
        registry = Registry(store)
        await nursery.start(registry.follow)
        documents = Documents(store)
        await nursery.start(documents.follow)
        pilot = Pilot(registry, documents, folder / "pilot.sock", token)
        nursery.start_soon(pilot.fanout.run)
        nursery.start_soon(serve_http, listen_unix(pilot.path), pilot.api.handle)
        yield pilot
        nursery.cancel_scope.cancel()


@pytest.fixture
async def pilot(tmp_path: Path) -> AsyncIterator[Pilot]:
    with trio.fail_after(30):
        async with served(tmp_path) as found:
            yield found


@asynccontextmanager
async def client(pilot: Pilot, headers: bytes = b"") -> AsyncIterator[Client]:
    async with await trio.open_unix_socket(str(pilot.path)) as connection:
        await connection.send_all(ASK % headers)
        head = b""
        while b"\r\n\r\n" not in head:
            head += await connection.receive_some(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        yield Client(connection)


def ids(message: wire.Said) -> list[str]:
    assert isinstance(message, wire.Told | wire.Changed | wire.Found)
    return [instance.id for instance in message.instances]


async def wait_for(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is behind a socket
        await trio.sleep(0.01)


async def test_who_follows_is_told_all_of_it_once_then_what_changes(pilot: Pilot) -> None:
    await pilot.register("a", version="1")
    async with client(pilot) as follower:
        await follower.say(wire.Follow({"orders": 0, "nobody": 0}))
        orders, nobody, current = await follower.hear_all(3)
        assert (ids(orders), ids(nobody)) == (["a"], [])
        assert isinstance(current, wire.Current) and current.services is None
        await pilot.register("elsewhere", service="payments")
        await pilot.register("b")
        while ids(change := await follower.hear()) != ["b"]:
            assert ids(change) == ["a"], "may be told twice, if it has just changed"
        await pilot.registry.leave(("orders", "a"), None)
        change = await follower.hear()
        assert isinstance(change, wire.Changed)
        assert change.gone == [wire.Gone("a", 1, True)]
        await follower.say(wire.Ping())
        assert isinstance(await follower.hear(), wire.Pong)


async def test_who_follows_everything_hears_of_every_service(pilot: Pilot) -> None:
    await pilot.register("a")
    async with client(pilot) as follower:
        await follower.say(wire.Follow({EVERY: 0}))
        told, current = await follower.hear_all(2)
        assert ids(told) == ["a"]
        assert isinstance(current, wire.Current) and list(current.services or ()) == ["orders"]
        await pilot.register("new", service="payments")
        while ids(change := await follower.hear()) != ["new"]:
            pass
        assert isinstance(change, wire.Changed) and change.service == "payments"


async def test_what_is_known_is_not_told_again(pilot: Pilot) -> None:
    await pilot.register("a")
    async with client(pilot) as follower:
        await follower.say(wire.Follow({"orders": 0}))
        told, _ = await follower.hear_all(2)
        assert isinstance(told, wire.Told)
    await pilot.register("b", service="payments")
    async with client(pilot) as follower:
        await follower.say(wire.Follow({"orders": told.revision}))
        assert isinstance(await follower.hear(), wire.Current)
    await pilot.register("c")
    async with client(pilot) as follower:
        await follower.say(wire.Follow({"orders": told.revision}))
        known: set[str] = set()
        while known != {"a", "c"}:
            message = await follower.hear()
            known |= set() if isinstance(message, wire.Current) else set(ids(message))


async def test_a_change_says_no_revision_that_it_does_not_contain(pilot: Pilot) -> None:
    await pilot.register("a")
    gathered = Change("orders", pilot.registry.view.revision_of("orders"), [("orders", "a")])
    await pilot.register("b")
    (body,) = wire.Frames(wire.MAX_TOLD).feed(pilot.streams.change(gathered))
    message = wire.said(body)
    assert isinstance(message, wire.Changed)
    assert ids(message) == ["a"]
    assert message.revision < pilot.registry.view.revision_of("orders")


async def test_who_follows_a_service_and_then_all_of_them_is_told_once(pilot: Pilot) -> None:
    async with client(pilot) as follower:
        await follower.say(wire.Follow({"orders": 0}), wire.Follow({EVERY: 0}), wire.Follow({"orders": 0}))
        while not isinstance(await follower.hear(), wire.Current):
            pass
        await wait_for(lambda: pilot.streams.statistics().following == 1)
        await pilot.register("a")
        await follower.say(wire.Ping())
        heard = [message async for message in until_pong(follower) if isinstance(message, wire.Changed)]
        assert len(heard) <= 1


async def until_pong(follower: Client) -> AsyncIterator[wire.Said]:
    while not isinstance(message := await follower.hear(), wire.Pong):
        yield message


async def test_a_lease_is_held_over_the_stream_and_outlives_it(pilot: Pilot) -> None:
    async with client(pilot) as one:
        await one.say(
            wire.Register(1, "orders", "a", "10.0.0.1:80", TTL_MS, 5),
            wire.Register(2, "orders", "a", "10.0.0.1:80", TTL_MS, 5),
            wire.Register(3, "orders", "a", "10.0.0.2:80", TTL_MS, 4),
            wire.Register(4, "orders", "a", "10.0.0.1:80", TTL_MS, 5, State.DRAINING),
            wire.Register(5, "orders", "a", "10.0.0.1:99999", TTL_MS, 6),
        )
        answers = await one.hear_all(5)
        assert [(one.verdict, one.epoch) for one in answers if isinstance(one, wire.Answer)] == [
            ("created", 5),
            ("renewed", 5),
            ("stale", 6),
            ("changed", 5),
            ("", 0),
        ]
    async with client(pilot) as two:
        await two.say(
            wire.About("orders", ["a", "never"]), wire.Leave(1, "orders", "a", 4), wire.Leave(2, "orders", "a", 5)
        )
        about, late, left = await two.hear_all(3)
        assert isinstance(about, wire.Found) and ids(about) == ["a"]
        assert about.instances[0].state is State.DRAINING
        assert about.gone == [wire.Gone("never", 0)]
        assert isinstance(late, wire.Answer) and late.verdict == "stale"
        assert isinstance(left, wire.Answer) and left.verdict == "removed"


async def test_without_the_token_one_may_follow_and_not_change(tmp_path: Path) -> None:
    async with served(tmp_path, token="s3cret") as pilot:
        for header, verdict in [(b"", ""), (b"Authorization: Bearer s3cret\r\n", "created")]:
            async with client(pilot, header) as one:
                await one.say(
                    wire.FollowConfiguration("dev", "web"),
                    wire.Follow({"orders": 0}),
                    wire.Register(1, "orders", "a", "10.0.0.1:80", TTL_MS),
                )
                heard = await one.hear_all(4 if verdict else 3)
                assert any(isinstance(one, wire.Told) for one in heard)
                assert any(isinstance(one, wire.Configuration) for one in heard) == bool(verdict)
                (answer,) = [one for one in heard if isinstance(one, wire.Answer)]
                assert answer.verdict == verdict
                assert ("token" in answer.error) == (not verdict)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\0\0\0\0", "a frame of 0 bytes"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"\0\0\0\x01\xc1", "not a message"),
        (b"\0\0\0\x02\x81\xa4", "not a message"),
        (wire.frame(wire.Follow({"orders": 0})).replace(b"orders", b"\xffrders"), "not a message"),
        (wire.frame(wire.Ping()).replace(b"ping", b"pong"), "not a message"),
        (wire.frame(wire.Follow({"orders": 0})).replace(b"orders", b"Orders"), "not a message"),
        (b"\0\0\x04\0" + b"\x91" * 1024, "not a message"),
        (wire.frame(wire.Follow({f"s{n}": 0 for n in range(500)})) * 2, None),
    ],
)
async def test_nonsense_ends_its_own_connection_and_nobody_elses(pilot: Pilot, sent: bytes, reason: str | None) -> None:
    async with client(pilot) as bystander, client(pilot) as hostile:
        await bystander.say(wire.Follow({"orders": 0}))
        await bystander.hear_all(2)
        await hostile.connection.send_all(sent)
        if reason is not None:
            last = await hostile.hear()
            assert isinstance(last, wire.Answer) and reason in last.error
            with pytest.raises(EOFError):
                await hostile.hear()
            assert pilot.streams.statistics().dropped == 1
        await pilot.register("a")
        assert ids(await bystander.hear()) == ["a"]


async def test_more_services_than_one_connection_may_follow(pilot: Pilot) -> None:
    async with client(pilot) as greedy:
        await greedy.say(*(wire.Follow({f"s{n}-{part}": 0 for n in range(500)}) for part in range(21)))
        answers: list[wire.Answer] = []
        with pytest.raises(EOFError):
            while True:
                message = await greedy.hear()
                answers += [message] if isinstance(message, wire.Answer) else []
        assert ["more than 10000 services" in answer.error for answer in answers] == [True]


async def test_who_does_not_read_is_let_go_and_costs_nobody_else(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WAITING_BYTES", 100_000)
    monkeypatch.setattr(outgoing, "WRITE_SECONDS", 0.5)
    async with client(pilot) as deaf, client(pilot) as reader:
        for one in (deaf, reader):
            await one.say(wire.Follow({"orders": 0}))
        await reader.hear_all(2)
        assert pilot.streams.statistics().connected == 2
        for number in count(1):
            await grow(pilot, number)
            if pilot.streams.statistics().connected < 2:
                break
            while max(epochs(await reader.hear()).values(), default=0) < number:
                pass
        assert pilot.streams.statistics().dropped == 1
        assert pilot.streams.statistics().following == 1


async def test_who_reads_again_is_told_everything_anew(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WAITING_BYTES", 20_000)
    async with client(pilot) as slow:
        await slow.say(wire.Follow({"orders": 0}))
        await slow.hear_all(2)
        number = 0
        while not pilot.streams.statistics().behind:
            number += 1
            await grow(pilot, number)
        known: dict[str, int] = {}
        while set(known.values()) != {number}:
            known |= epochs(await slow.hear())
        assert sorted(known) == list("abcdefgh")
        assert pilot.streams.statistics().resynchronised == 1


async def test_answers_are_not_dropped_for_who_reads_slowly(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WAITING_BYTES", 20_000)
    async with client(pilot) as slow:
        await slow.say(wire.Follow({"orders": 0}))
        await slow.hear_all(2)
        number = 0
        while not pilot.streams.statistics().behind:
            number += 1
            await grow(pilot, number)
        await slow.say(*(wire.Register(n, "web", f"w{n}", "10.0.0.9:80", TTL_MS) for n in range(1, 21)))
        await wait_for(lambda: len(pilot.registry.instances("web")) == 20)
        answered: list[int] = []
        while len(answered) < 20:
            message = await slow.hear()
            if isinstance(message, wire.Answer):
                answered.append(message.n)
        assert answered == list(range(1, 21))


async def grow(pilot: Pilot, epoch: int) -> None:
    """A new life of each of eight instances, 32 KiB in all."""
    for name in "abcdefgh":
        await pilot.register(name, epoch=epoch, **{f"key{n}": "x" * 250 for n in range(16)})


def epochs(message: wire.Said) -> dict[str, int]:
    if isinstance(message, wire.Told | wire.Changed):
        return {instance.id: instance.epoch for instance in message.instances}
    return {}


def link(pilot: Pilot, mirror: Mirror, *, epochs: list[int] | None = None, follow: str = "orders") -> PilotLink:
    return PilotLink(
        [f"unix:{pilot.path}"],
        mirror,
        follow=[follow],
        token=None,
        heard=lambda: None,
        renumber=lambda _, epoch: (epochs if epochs is not None else []).append(epoch),
        configuration=Configuration(
            "dev", "web", file=pilot.path.with_name("config.json"), kept=pilot.path.with_name("kept"), voice=Voice()
        ),
        voice=Voice(),
    )


def own(epoch: int, state: State = State.UP) -> Registration:
    return Registration("web", "w", "10.0.0.9:80", epoch, 10.0, state, {}, "pilot")


@asynccontextmanager
async def linked(found: PilotLink) -> AsyncIterator[PilotLink]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await wait_for(lambda: found.connected)
        yield found
        found.end()


async def test_a_sidecar_follows_registers_drains_and_leaves(pilot: Pilot) -> None:
    mirror = Mirror(trio.current_time())
    await pilot.register("a")
    async with linked(link(pilot, mirror)) as sidecar:
        await wait_for(lambda: mirror.leases.get(("orders", "a")))
        sidecar.announce(own(7))
        await wait_for(lambda: pilot.registry.instances("web"))
        sidecar.announce(own(7, State.DRAINING))
        await wait_for(lambda: pilot.registry.instances("web")[0].state is State.DRAINING)
        await sidecar.leave()
        assert not pilot.registry.instances("web")
        await pilot.register("p", service="payments")
        assert mirror.leases.get(("payments", "p")) is None, "nobody uses it"
        await sidecar.follow("payments")
        assert mirror.leases.get(("payments", "p"))


async def test_a_sidecar_speaks_of_many_and_of_each_what_it_said_last(pilot: Pilot) -> None:
    def one(name: str, epoch: int = 7, *, port: int = 80) -> Registration:
        return Registration("web", name, f"10.0.0.9:{port}", epoch, 10.0, State.UP, {}, "pilot")

    def there() -> set[tuple[str, str, int]]:
        return {(told.id, told.address, told.epoch) for told in pilot.registry.instances("web")}

    renumbered: list[int] = []
    names = [f"w{number}" for number in range(2 * pilot_link.BATCH + 5)]
    await pilot.registry.register(("web", "w3"), Entry(40, "10.0.0.1:80", State.UP, TTL_MS))
    async with linked(link(pilot, Mirror(0.0), epochs=renumbered)) as sidecar:
        for name in names:
            sidecar.announce(one(name))
        await wait_for(lambda: len(pilot.registry.instances("web")) == len(names) and renumbered)
        assert renumbered == [41]
        sidecar.announce(one("w3", 41))
        for port in range(81, 90):
            sidecar.announce(one("w4", port, port=port))
        for name in names[5:]:
            sidecar.withdraw(("web", name))
        sidecar.announce(one("w9", 9))
        ours = {(name, "10.0.0.9:80", 7) for name in ("w0", "w1", "w2")}
        ours |= {("w3", "10.0.0.9:80", 41), ("w4", "10.0.0.9:89", 89), ("w9", "10.0.0.9:80", 9)}
        await wait_for(lambda: there() == ours)
        await sidecar.leave()
        await wait_for(lambda: not pilot.registry.instances("web"))


async def test_changes_of_several_are_at_the_same_time_those_of_one_in_order_and_so_are_the_answers(
    pilot: Pilot,
) -> None:
    def register(n: int, name: str, epoch: int) -> wire.Register:
        return wire.Register(n, "orders", name, f"10.0.0.1:{8000 + ord(name)}", TTL_MS, epoch)

    await pilot.register("a")
    async with client(pilot) as one:
        async with slow_disk(pilot):
            await one.say(
                *(register(1, "b", 1), register(2, "c", 1), wire.Leave(3, "orders", "b", 1), register(4, "b", 1)),
                *(register(5, "b", 2), wire.Leave(6, "orders", "a", 1), register(7, "b", 3)),
            )
        answers = [answer for _ in range(7) if isinstance(answer := await one.hear(), wire.Answer)]
    verdicts = ["created", "created", "removed", "stale", "created", "removed", "changed"]
    assert [(answer.n, answer.verdict) for answer in answers] == list(enumerate(verdicts, 1))
    assert [(told.id, told.epoch) for told in pilot.registry.instances("orders")] == [("b", 3), ("c", 1)]


async def test_a_sidecar_follows_over_tcp(pilot: Pilot, nursery: trio.Nursery) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(serve_http, listener, pilot.api.handle)
    mirror = Mirror(0.0)
    sidecar = link(pilot, mirror)
    sidecar._addresses = [f"127.0.0.1:{listener.socket.getsockname()[1]}"]
    await pilot.register("a")
    async with linked(sidecar):
        await wait_for(lambda: mirror.leases.get(("orders", "a")))
    nursery.cancel_scope.cancel()


async def test_a_sidecar_is_told_of_its_configuration(pilot: Pilot, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    key = Key(CONFIG, "dev", "web")
    await pilot.documents.put(Key(CONFIG, "dev", "other"), {"values": {"limit": "9"}})
    async with linked(link(pilot, Mirror(0.0))):
        await pilot.documents.put(key, {"values": {"limit": "5"}})
        await wait_for(file.exists)
        assert json.loads(file.read_text())["values"] == {"limit": "5"}
        await pilot.documents.put(key, None)
        await wait_for(lambda: json.loads(file.read_text())["version"] == 2)
        assert json.loads(file.read_text())["values"] == {}
    await wait_for(lambda: not pilot.streams.configured)
    await pilot.documents.put(key, {"values": {"limit": "6"}})
    async with linked(link(pilot, Mirror(0.0))):
        await wait_for(lambda: json.loads(file.read_text())["values"] == {"limit": "6"})


async def test_a_life_that_has_lost_its_counter_takes_the_next_and_one_that_was_replaced_is_silent(
    pilot: Pilot,
) -> None:
    epochs: list[int] = []
    await pilot.registry.register(("web", "w"), Entry(40, "10.0.0.9:80", State.UP, TTL_MS))
    async with linked(link(pilot, Mirror(0.0), epochs=epochs)) as sidecar:
        sidecar.announce(own(3))
        await wait_for(lambda: epochs)
        assert epochs == [41]
        sidecar.announce(own(41))
        await wait_for(lambda: pilot.registry.instances("web")[0].epoch == 41)
        await pilot.registry.register(("web", "w"), Entry(42, "10.0.0.8:80", State.UP, TTL_MS))
        sidecar.announce(own(41, State.DRAINING))
        sidecar.announce(own(41))
        await sidecar.leave()
        assert [one.epoch for one in pilot.registry.instances("web")] == [42]
        assert epochs == [41]


async def test_a_pilot_that_cannot_is_left_for_one_that_can(
    pilot: Pilot, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_link, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(pilot_link, "SPREAD_SECONDS", 0.1)

    async def refuse(*_: object, **__: object) -> Never:
        raise Unreachable("this pilot does not hear its store", hint="renew with another one")

    async with served(short_path) as blind:
        monkeypatch.setattr(blind.registry, "register", refuse)
        sidecar = link(pilot, Mirror(0.0))
        sidecar._addresses = [f"unix:{blind.path}", f"unix:{pilot.path}"]
        async with linked(sidecar):
            sidecar.announce(own(7))
            await wait_for(lambda: pilot.registry.instances("web"))
        assert not blind.registry.instances("web")


async def test_a_service_that_was_followed_before_a_restart_is_followed_after_it(pilot: Pilot) -> None:
    mirror = Mirror(0.0)
    mirror.restore([Registration("payments", "p", "10.0.0.9:80", 1, 0.0, source="pilot")], 0.0)
    await pilot.register("q", service="payments")
    async with linked(link(pilot, mirror)):
        await wait_for(lambda: mirror.leases.get(("payments", "q")))


async def test_whom_the_pilot_doubts_is_told_and_probed(pilot: Pilot) -> None:
    mirror = Mirror(0.0)
    await pilot.register("a")
    async with linked(link(pilot, mirror)):
        await wait_for(lambda: mirror.leases.get(("orders", "a")))
        pilot.registry._leases.suspect([("orders", "a")])
        pilot.registry._touch([("orders", "a")])
        await wait_for(mirror.leases.suspects)
        await pilot.register("a")
        await wait_for(lambda: not mirror.leases.suspects())


async def test_a_pilot_that_falls_silent_is_left(pilot: Pilot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot_link, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(pilot_link, "SPREAD_SECONDS", 0.1)
    silent = tmp_path / "silent.sock"
    async with trio.open_nursery() as nursery:
        accepted: list[trio.abc.Stream] = []

        async def mute(connection: trio.SocketStream) -> None:
            accepted.append(connection)
            await connection.receive_some(1000)
            await connection.send_all(b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: pannier-pilot\r\n\r\n")
            await trio.sleep_forever()

        nursery.start_soon(trio.serve_listeners, mute, [listen_unix(silent)])
        mirror = Mirror(0.0)
        sidecar = link(pilot, mirror)
        sidecar._addresses = [f"unix:{silent}", f"unix:{pilot.path}"]
        await pilot.register("a")
        nursery.start_soon(sidecar.run)
        await wait_for(lambda: mirror.leases.get(("orders", "a")))
        assert len(accepted) == 1
        sidecar.end()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def slow_disk(pilot: Pilot) -> AsyncIterator[None]:
    """Nothing is written meanwhile."""
    store = pilot.registry._store
    assert isinstance(store, SqliteStore)
    async with store._one:
        yield


async def test_a_renewal_behind_a_write_that_waits_for_the_disk_is_a_sign_of_life(pilot: Pilot) -> None:
    await pilot.register("a")
    a, b = (
        wire.Register(n, "orders", name, f"10.0.0.1:{8000 + ord(name)}", TTL_MS, 1) for n, name in ((2, "a"), (1, "b"))
    )
    before = pilot.registry._leases.get(("orders", "a"))
    assert before is not None
    async with client(pilot) as one:
        async with slow_disk(pilot):
            await one.say(b)
            await one.say(a)
            await wait_for(lambda: pilot.registry._leases.get(("orders", "a")) != before)
        answers = [await one.hear(), await one.hear()]
    assert answers == [wire.Answer(1, "created", 1), wire.Answer(2, "renewed", 1)]


async def test_what_was_asked_is_carried_out_also_for_who_has_hung_up(pilot: Pilot) -> None:
    for name in "abcde":
        await pilot.register(name)
    async with client(pilot) as one, slow_disk(pilot):
        await one.say(*(wire.Leave(n, "orders", name, 1) for n, name in enumerate("abcde")))
        await one.connection.aclose()
    await wait_for(lambda: not pilot.registry.view.alive("orders"))
