"""The connection to a pilot: follows services, registers the own instance and renews it, for as long as this runs.

Rules:
- Nothing waits for it. What was heard stays in force while nobody answers, for however long that is.
- Who has lost a pilot comes back within `SPREAD_SECONDS`, at a moment that chance chooses: a thousand who lose the same
  one come back at seventy a second, at a hundred in the densest. A lease that a pilot has not heard of since it began
  gets that time, too.
- Several pilots are equal: whichever answers is the one, and the next is tried when it does not, or when it says that
  another one may be able to do what it cannot.
- The own instance is registered with the epoch that it has on this host. If a pilot knows a greater one before this
  life was ever accepted, the counter was lost, and the next is taken; afterwards, a newer life is somewhere, and this
  one is silent for good.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import h11
import trio
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
REFUSALS: Final = 2
"""In a row, after which another pilot is tried."""
CONNECT_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 5.0
"""After which a pilot that was behind is asked again, and so is one that could not carry out a registration."""
ANSWER_SECONDS: Final = 10.0
FAREWELL_SECONDS: Final = 1.0
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

    `heard` is called when endpoints may differ; `renumber` takes the least epoch that the own instance may have.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        mirror: Mirror,
        *,
        follow: Sequence[str],
        token: Path | None,
        heard: Callable[[], None],
        renumber: Callable[[int], None],
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
        self._own: Registration | None = None
        self._own_changed = trio.Event()
        self._accepted = self._replaced = False
        self._number = 0
        self._answers: dict[int, _Awaited] = {}
        self._news = trio.Event()
        self._refusals = 0
        self._again: set[str] = set()
        self._lost = False

    @property
    def connected(self) -> bool:
        """Whether a pilot answers now."""
        return self._stream is not None

    def announce(self, own: Registration) -> None:
        """What the own instance is, from now on. `own.ttl` in seconds."""
        if own != self._own:
            self._own = own
            self._own_changed.set()

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
            await trio.sleep(random.uniform(0, SPREAD_SECONDS))

    async def leave(self) -> None:
        """Says that the own instance ends; waits at most `FAREWELL_SECONDS` for the answer, also if cancelled."""
        own, self._own = self._own, None
        if own is not None and self._stream is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_SECONDS), suppress(*_LOST):
                await self._ask(lambda n: Leave(n, own.service, own.id, own.epoch))

    async def _converse(self, address: str) -> None:
        with trio.fail_after(CONNECT_SECONDS):
            stream, early = await _connect(address, None if self._token is None else _secret(self._token))
        async with stream, trio.open_nursery() as nursery:
            self._stream = stream
            self._refusals = 0
            self._again.clear()
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
        self._refusals = self._refusals + 1 if answer.elsewhere else 0
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
        """Registers the own instance, whenever it changes and before its lease ends."""
        while True:
            pause = PING_SECONDS
            self._own_changed = trio.Event()
            if (own := self._own) is not None and not self._replaced:
                pause = own.ttl / 3 if await self._register(own) else AGAIN_SECONDS
            with trio.move_on_after(pause):
                await self._own_changed.wait()

    async def _register(self, own: Registration) -> bool:
        answer = await self._ask(
            lambda n: Register(
                n,
                own.service,
                own.id,
                own.address,
                round(own.ttl * 1000),
                own.epoch,
                own.state,
                dict(own.metadata),
            )
        )
        if not answer.verdict:
            hint = f" ({answer.hint})" if answer.hint else ""
            self._voice.say("pilot.own", f"the pilot does not take this instance: {answer.error}{hint}")
        elif answer.verdict != "stale":
            self._accepted = True
            self._voice.settled("pilot.own", "the pilot takes this instance again")
            return True
        elif not self._accepted:
            self._renumber(answer.epoch)
        elif self._own is own:
            self._replaced = True
            said = f"{own.service}/{own.id} with epoch {own.epoch} is silent from now on: {answer.error}"
            self._voice.say("pilot.own", said, severity="error")
        return False

    async def _ask(self, message: Callable[[int], Asked]) -> Answer:
        """Raises TooSlowError if no answer comes: then the pilot is not well."""
        self._number += 1
        number = self._number
        awaited = self._answers[number] = _Awaited()
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._send(message(number))
                await awaited.there.wait()
            assert awaited.answer is not None, "it is there"
            return awaited.answer
        finally:
            del self._answers[number]

    async def _send(self, message: Asked) -> None:
        async with self._sending:
            if self._stream is not None:
                await self._stream.send_all(frame(message))


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
