"""The connection to a pilot: follows services, registers the own instance and what else this host vouches for, and
renews it, for as long as this runs.

Rules:
- Nothing waits for it. What was heard stays in force while nobody answers, for however long that is.
- Who has lost a pilot comes back within `SPREAD_SECONDS`, at a moment that chance chooses: a thousand who lose the same
  one come back at seventy a second, at a hundred in the densest. A lease that a pilot has not heard of since it began
  gets that time, too. Who speaks for a Central comes back within `HURRY_SECONDS`: what it says ends before that, and
  Centrals are few.
- Several pilots are equal: whichever answers is the one, and the next is tried when it does not, or when it says that
  another one may be able to do what it cannot.
- An instance is registered with the epoch that it has on this host. If a pilot knows a greater one before this life was
  ever accepted, the counter was lost, and the next is taken; afterwards, a newer life is somewhere, and this one is
  silent for good.
- What is to be said is said in batches, one after the other: of an instance that changes while the pilot answers, what
  it is then is said next, and nothing in between.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import h11
import trio
from pannier.shared.detours import is_announced
from pannier.shared.instances import EVERY, Key
from pannier.shared.leases import Registration
from pannier.shared.pilot_stream import (
    MAX_NAMES,
    MAX_TOLD,
    PATH,
    PING_SECONDS,
    SILENCE_SECONDS,
    UPGRADE,
    About,
    Answer,
    Asked,
    Changed,
    Current,
    Follow,
    Found,
    Frames,
    Leave,
    Ping,
    Pong,
    Register,
    StreamError,
    Told,
    frame,
    said,
)
from pannier.shared.pilot_stream import Configuration as Configured
from pannier.sidecars.discovery.configuration import Configuration
from pannier.sidecars.discovery.mirror import Heard, Mirror
from pannier.sidecars.discovery.voice import Voice

SPREAD_SECONDS: Final = 14.0
HURRY_SECONDS: Final = 1.0
REFUSALS: Final = 2
"""In a row, and `AGAIN_SECONDS` from one to the next, after which another pilot is tried."""
CONNECT_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 5.0
"""After which a pilot that was behind is asked again, and so is one that could not carry out a registration."""
ANSWER_SECONDS: Final = 10.0
FAREWELL_SECONDS: Final = 1.0
BATCH: Final = 256
"""Registrations that are under way at the same time."""
LOOK_SECONDS: Final = 0.25
"""Between looks for whom to renew."""
KNOWN_SECONDS: Final = 1.0
"""That one who asks for a service waits for a pilot to tell of it."""
MAX_FOLLOWED: Final = 1000
"""Services that are followed by name."""
_CHUNK: Final = 65_536
_SWITCHED: Final = 101
_LOST: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.ProtocolError,
    ValueError,  # StreamError, and names or tokens that are no text
)


class PilotLink:
    """One sidecar's connection to whichever of the pilots answers.

    `heard` is called when endpoints may differ; `renumber` takes the least epoch that an instance of ours may have.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        mirror: Mirror,
        *,
        follow: Sequence[str],
        token: Path | None,
        heard: Callable[[], None],
        renumber: Callable[[Key, int], None],
        configuration: Configuration,
        voice: Voice,
    ) -> None:
        self._addresses = random.sample(addresses, len(addresses))
        self._mirror = mirror
        self._followed = dict.fromkeys(follow)
        self._told: set[str] = set()
        self._token = token
        self._heard = heard
        self._renumber = renumber
        self._configuration = configuration
        self._voice = voice
        self._scope = trio.CancelScope(shield=True)
        self._stream: trio.abc.Stream | None = None
        self._sending = trio.Lock()
        self._standing: dict[Key, _Standing] = {}
        self._due: dict[Key, None] = {}
        self._leaving: dict[Key, Registration] = {}
        self._look_at = 0.0
        self._to_say = trio.Event()
        self._number = 0
        self._answers: dict[int, _Awaited] = {}
        self._news = trio.Event()
        self._refusals = 0
        self._refused_at = 0.0
        self._again: set[str] = set()
        self._lost = False

    @property
    def connected(self) -> bool:
        """Whether a pilot answers now."""
        return self._stream is not None

    def announce(self, ours: Registration) -> None:
        """What an instance of ours is, from now on. `ours.ttl` in seconds."""
        held = self._standing.get(ours.key)
        if held is None:
            held = self._standing[ours.key] = _Standing(ours)
        elif held.registration == ours:
            return
        elif held.registration.epoch < ours.epoch:
            held.replaced = False  # it is another life
        held.registration = ours
        self._leaving.pop(ours.key, None)
        self._say_soon(ours.key)

    def withdraw(self, key: Key) -> None:
        """An instance of ours has ended. Nobody is told if no pilot answers: then its lease ends."""
        held = self._standing.pop(key, None)
        if held is not None and self._stream is not None:
            self._leaving[key] = held.registration
            self._say_soon(key)

    def _say_soon(self, key: Key) -> None:
        self._due[key] = None
        self._to_say.set()

    async def follow(self, service: str) -> None:
        """Follows one more service from now on; returns when it is known, or cannot be soon."""
        if service in self._followed or EVERY in self._followed or len(self._followed) >= MAX_FOLLOWED:
            return
        self._followed[service] = None
        told = self._news
        with suppress(*_LOST):
            await self._send(Follow(self._mirror.known([service])))
            with trio.move_on_after(KNOWN_SECONDS):
                while self._stream is not None and service not in self._told:
                    await told.wait()
                    told = self._news

    async def run(self) -> None:
        """Connects, again and again, until `end`; a cancellation from outside leaves it, for what is said last."""
        with self._scope:
            await self._run()

    def end(self) -> None:
        """Ends `run`."""
        self._scope.cancel()

    async def _run(self) -> None:
        while True:
            address = self._addresses[0]
            try:
                await self._converse(address)
                reason = "it closed the connection"
            except* _LOST as group:
                reason = str(_first(group)) or "the connection is lost"
            self._stream = None
            self._addresses.append(self._addresses.pop(0))
            if not self._lost:
                self._lost = True
                said = f"the pilot at {address} does not answer: {reason}"
                self._voice.tell("pilot", f"{said}; the endpoints that are known stay in force")
            hurries = any(is_announced(held.registration.metadata) for held in self._standing.values())
            await trio.sleep(random.uniform(0, HURRY_SECONDS if hurries else SPREAD_SECONDS))

    async def leave(self) -> None:
        """Says that our instances end; waits at most `FAREWELL_SECONDS` for the answers, also if cancelled."""
        ending = [*self._leaving.values(), *(held.registration for held in self._standing.values())]
        self._standing.clear()
        self._leaving.clear()
        if self._stream is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_SECONDS), suppress(*_LOST):
                await self._ask([partial(_leave, one) for one in ending])

    async def _converse(self, address: str) -> None:
        with trio.fail_after(CONNECT_SECONDS):
            stream, early = await _connect(address, None if self._token is None else _secret(self._token))
        async with stream, trio.open_nursery() as nursery:
            self._stream = stream
            self._refusals = 0
            self._again.clear()
            self._leaving.clear()
            self._due = dict.fromkeys(self._standing)
            self._mirror.connected()
            if self._lost:
                self._lost = False
                self._voice.tell("pilot", f"the pilot at {address} answers", severity="info")
            if EVERY not in self._followed:  # what was followed before a restart, because somebody had asked for it
                self._followed |= dict.fromkeys(sorted(self._mirror.services))
            for names in _parts(tuple(self._followed)):
                await self._send(Follow(self._mirror.known(names)))
            if (configuration := self._configuration.asked()) is not None:
                await self._send(configuration)
            nursery.start_soon(self._ping)
            nursery.start_soon(self._stand)
            await self._listen(stream, early, nursery)
            nursery.cancel_scope.cancel()

    async def _listen(self, stream: trio.abc.Stream, data: bytes, nursery: trio.Nursery) -> None:
        frames = Frames(MAX_TOLD)
        while True:
            for body in frames.feed(data):
                match message := said(body):
                    case Told():
                        self._take(self._mirror.told(message, trio.current_time()), message.service, nursery)
                        if message.service in self._followed:
                            self._told.add(message.service)
                    case Changed():
                        self._take(self._mirror.changed(message, trio.current_time()), message.service, nursery)
                    case Found():
                        self._take(self._mirror.found(message, trio.current_time()), message.service, nursery)
                    case Current():
                        self._take(self._mirror.current(message), "", nursery)
                    case Configured():
                        self._configuration.take(message)
                    case Answer():
                        self._heard_answer(message)
                    case Pong():
                        pass
            data = b""
            with trio.move_on_after(SILENCE_SECONDS):
                data = bytes(await stream.receive_some(_CHUNK))
                if not data:
                    return
            if not data:
                raise StreamError(f"nothing was heard for {SILENCE_SECONDS:g} s")

    def _heard_answer(self, answer: Answer) -> None:
        if answer.n == 0:
            raise StreamError(f"it says: {answer.error}")
        if (awaited := self._answers.get(answer.n)) is not None:
            awaited.answer = answer
            awaited.there.set()
        now = trio.current_time()
        if not answer.elsewhere:
            self._refusals = 0
        elif not self._refusals or now >= self._refused_at + AGAIN_SECONDS:  # what is said at once is refused at once
            self._refusals, self._refused_at = self._refusals + 1, now
        if self._refusals >= REFUSALS and len(self._addresses) > 1:
            raise StreamError(answer.error)

    def _take(self, heard: Heard, service: str, nursery: trio.Nursery) -> None:
        if heard.alarm:
            self._voice.tell("pilot.endpoints", heard.alarm)
        if heard.missing:
            nursery.start_soon(self._ask_about, heard.missing)
        if heard.old and service not in self._again:
            self._again.add(service)
            nursery.start_soon(self._follow_again, service)
        self._news.set()
        self._news = trio.Event()
        if heard.changed:
            self._heard()

    async def _ask_about(self, missing: Sequence[Key]) -> None:
        services: dict[str, list[str]] = {}
        for service, name in missing:
            services.setdefault(service, []).append(name)
        for service, names in services.items():
            for part in _parts(names):
                await self._send(About(service, part))

    async def _follow_again(self, service: str) -> None:
        await trio.sleep(AGAIN_SECONDS)
        self._again.discard(service)
        await self._send(Follow({service: 0}))

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            await self._send(Ping())

    async def _stand(self) -> None:
        """Registers what is ours, whenever it changes and before its lease ends."""
        while True:
            self._to_say = trio.Event()
            while batch := self._batch():
                await self._say(batch)
            with trio.move_on_at(self._look_at):
                await self._to_say.wait()

    def _batch(self) -> Sequence[Key]:
        """Whom to speak of now."""
        now = trio.current_time()
        if now >= self._look_at:
            self._due |= dict.fromkeys(key for key, held in self._standing.items() if held.due <= now)
            due = min((held.due for held in self._standing.values() if held.due > now), default=math.inf)
            self._look_at = max(due, now + LOOK_SECONDS)
        batch = list(islice(self._due, BATCH))
        for key in batch:
            del self._due[key]
        return batch

    async def _say(self, batch: Sequence[Key]) -> None:
        leaving = [one for key in batch if (one := self._leaving.pop(key, None)) is not None]
        standing = [held for key in batch if (held := self._standing.get(key)) is not None and not held.replaced]
        said = [(held, held.registration) for held in standing]
        messages: list[Callable[[int], Asked]] = [partial(_leave, one) for one in leaving]
        messages += [partial(_register, ours) for _, ours in said]
        answers = await self._ask(messages)
        refused = ""
        for (held, ours), answer in zip(said, answers[len(leaving) :], strict=True):
            refused = self._answered(held, ours, answer) or refused
            self._look_at = min(self._look_at, held.due)
        if refused:
            self._voice.say("pilot.own", refused)
        elif said:
            self._voice.settled("pilot.own", "the pilot takes what is ours again")

    def _answered(self, held: _Standing, ours: Registration, answer: Answer) -> str:
        """What follows from an answer to `ours`; what is wrong, if anything is."""
        now = trio.current_time()
        held.due = now + AGAIN_SECONDS
        name = f"{ours.service}/{ours.id}"
        if not answer.verdict:
            hint = f" ({answer.hint})" if answer.hint else ""
            return f"the pilot does not take {name}: {answer.error}{hint}"
        if answer.verdict != "stale":
            held.accepted = ours.epoch
            held.due = now + ours.ttl / 3
        elif held.accepted != ours.epoch:
            self._renumber(ours.key, answer.epoch)
        elif held.registration is ours:
            held.replaced = True
            held.due = math.inf
            return f"{name} with epoch {ours.epoch} is silent from now on: {answer.error}"
        return ""

    async def _ask(self, messages: Sequence[Callable[[int], Asked]]) -> Sequence[Answer]:
        """The answer to each. Raises TooSlowError if they do not all come: then the pilot is not well."""
        awaited = [_Awaited() for _ in messages]
        first = self._number + 1
        self._number += len(messages)
        numbered = dict(enumerate(awaited, first))
        self._answers |= numbered
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._send(*(message(number) for number, message in enumerate(messages, first)))
                for one in awaited:
                    await one.there.wait()
            return [one.answer for one in awaited if one.answer is not None]
        finally:
            for number in numbered:
                del self._answers[number]

    async def _send(self, *messages: Asked) -> None:
        async with self._sending:
            if self._stream is not None and messages:
                await self._stream.send_all(b"".join(map(frame, messages)))


async def _connect(address: str, token: str | None) -> tuple[trio.abc.Stream, bytes]:
    """A connection that speaks our protocol, and what has come over it already. Raises OSError and what else `_LOST`
    names."""
    stream: trio.SocketStream
    if address.startswith("unix:"):
        stream = await trio.open_unix_socket(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
    try:
        host = "localhost" if address.startswith("unix:") else address
        headers = [("host", host), ("connection", "upgrade"), ("upgrade", UPGRADE)]
        if token is not None:
            headers.append(("authorization", f"Bearer {token}"))
        http = h11.Connection(h11.CLIENT)
        await stream.send_all(http.send(h11.Request(method="GET", target=PATH, headers=headers)) or b"")
        await stream.send_all(http.send(h11.EndOfMessage()) or b"")
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_CHUNK))
        if not isinstance(event, h11.InformationalResponse) or event.status_code != _SWITCHED:
            raise StreamError(f"this is no pilot of ours: it answers {getattr(event, 'status_code', 'nothing')}")
        return stream, http.trailing_data[0]
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


class _Standing:
    """An instance of ours, the epoch with which a pilot has accepted it (0: none), and when to say it again."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self.accepted = 0
        self.replaced = False
        self.due = math.inf


def _register(ours: Registration, number: int) -> Register:
    ttl_ms, metadata = round(ours.ttl * 1000), dict(ours.metadata)
    return Register(number, ours.service, ours.id, ours.address, ttl_ms, ours.epoch, ours.state, metadata)


def _leave(ours: Registration, number: int) -> Leave:
    return Leave(number, ours.service, ours.id, ours.epoch)


class _Awaited:
    """An answer that has not come yet."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.there = trio.Event()


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    """What fits into a message each."""
    for begin in range(0, len(names), MAX_NAMES):
        yield list(names[begin : begin + MAX_NAMES])


def _secret(path: Path) -> str:
    """Read each time, since it may be replaced."""
    return path.read_text().strip()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
