"""A session with a ZooKeeper, for whoever is in trio: the client has threads of its own, and is asked in threads.

- What is asked is a plain function, which runs in a worker thread and waits there for no longer than `CALL_SECONDS`.
- Who is not connected is told so at once: nothing is queued until somebody comes back, and done then.
- News comes the other way, through the loop's token (`Bell`). It only says that something may have changed: a
  connection that was lost rings every bell, since its watches are lost with it.
- A session that has expired is followed by another one, whose reads may be older: `steady` finds out.
- A server that was set back refuses whoever has seen more than it has. So who is refused for as long as his session
  could have lasted begins anew, as one who has seen nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from pannier.shared.errors import Unreachable

T = TypeVar("T")

CALL_SECONDS: Final = 5.0
SESSION_SECONDS: Final = 10.0
"""After which ZooKeeper believes that we are gone, and deletes what is ours."""
THREADS: Final = 8
_RETRY: Final = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 2.0}
_CLOSE_SECONDS: Final = 5.0

_log = logging.getLogger("pannier.pilot.zookeeper")
_log.setLevel(logging.CRITICAL)  # who asks says what is wrong, once


class Bell:
    """Rung from any thread, heard in the loop."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token = anyio.lowlevel.current_token()

    def ring(self, _: object = None) -> None:
        with suppress(RuntimeError):  # nobody listens any more
            anyio.from_thread.run_sync(self._set, token=self._token)

    async def heard(self, seconds: float) -> bool:
        """Waits until it is rung, or has been since the last time; False if it was not within that time."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        rung, self._event = self._event.is_set(), trio.Event()
        return rung

    def _set(self) -> None:
        self._event.set()


class Session:
    """Made by `open_session`. `client` is for functions that `call` runs."""

    def __init__(self, client: KazooClient) -> None:
        self.client = client
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._bells: set[Bell] = set()

    @property
    def connected(self) -> bool:
        return bool(self.client.connected)

    @property
    def id(self) -> int:
        """Of the session, 0 if there is none."""
        found = self.client.client_id
        return int(found[0]) if found else 0

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns. Raises Unreachable."""
        if not self.connected:
            await trio.lowlevel.checkpoint()
            raise Unreachable(f"no ZooKeeper answers at {self._shown()}", hint="see `zkServer.sh status` there")
        with _translated():
            return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=self._limiter)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Raises Unreachable if the session in the end is another one than in the beginning."""
        before = self.id
        yield
        if self.id != before:
            raise Unreachable("the session with ZooKeeper has ended")

    @contextmanager
    def bell(self) -> Iterator[Bell]:
        """One that also rings when the connection is lost, or is there again."""
        bell = Bell()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    def moved(self, _: object) -> None:
        """The client says, in a thread of its own, that its connection is another one."""
        for bell in tuple(self._bells):
            bell.ring()

    def _shown(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.client.hosts)


@asynccontextmanager
async def open_session(hosts: Sequence[tuple[str, int]], *, lingers: float = 0.0) -> AsyncIterator[Session]:
    """A session with any of these (host, port), which is looked for as long as it takes. One that `lingers` is not
    ended here, but by ZooKeeper, so many seconds after the process, or as many as it allows (by default 20 of its
    ticks, of 2 s): who comes back in time finds its nodes there."""
    seconds = lingers or SESSION_SECONDS
    client = KazooClient(
        hosts=",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts),
        timeout=seconds,
        connection_retry=_RETRY,
        logger=_log,
    )
    session = Session(client)
    client.add_listener(session.moved)
    connected = client.start_async()
    try:
        with trio.move_on_after(CALL_SECONDS):
            await anyio.to_thread.run_sync(connected.wait, CALL_SECONDS, abandon_on_cancel=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_begin_anew, session, seconds)
            yield session
            nursery.cancel_scope.cancel()
    finally:
        client.remove_listener(session.moved)
        if not lingers:
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await anyio.to_thread.run_sync(_close, client, abandon_on_cancel=True)


async def _begin_anew(session: Session, seconds: float) -> None:
    """Ends sessions that cannot be alive any more, and looks for another one; runs until cancelled."""
    alive_at = trio.current_time()
    while True:
        await trio.sleep(seconds / 4)
        if session.connected:
            alive_at = trio.current_time()
        elif trio.current_time() - alive_at >= 2 * seconds:
            await anyio.to_thread.run_sync(_restart, session.client)
            alive_at = trio.current_time()


def got(result: Any) -> Any:
    """What the client's promise brings, waited for in a thread. Raises as `Session.call` translates."""
    return result.get(timeout=CALL_SECONDS)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KazooException, KazooTimeoutError) as error:
        raise Unreachable(f"ZooKeeper: {error or type(error).__name__}") from error


def _restart(client: KazooClient) -> None:
    with suppress(KazooException, KazooTimeoutError):
        client.stop()
        client.start_async()


def _close(client: KazooClient) -> None:
    with suppress(KazooException, KazooTimeoutError):
        client.stop()
        client.close()
