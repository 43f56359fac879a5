"""Brings the catalogue into force: the table for the proxy, the topic `services` for everybody else.

Rules: only what differs is published; changes within `CONFLATE_SECONDS` are one publication, and while they go on, a
publication waits for nine times what the last one took of a core: a thousand endpoints that change all the time cost a
tenth of it, and where others take the core the wait is no longer for that. The topic, which is for people, is told once
each `TELL_SECONDS` at most. A table that is refused is published without the entries at fault, so that one bad address
does not freeze all others. A fenced writer ends its process: somebody newer does this job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import trio
from pannier.shared.bus import Bus
from pannier.shared.errors import Blame, PannierError
from pannier.shared.messages import SERVICES, Services
from pannier.sidecars.discovery.catalogue import Catalogue
from pannier.sidecars.discovery.table import Table, TableWriter, encode, without_refused
from pannier.sidecars.discovery.voice import Voice

CONFLATE_SECONDS = 0.02
PAUSED_PER_SPENT = 9.0
MOST_PAUSED_SECONDS = 1.0
TELL_SECONDS = 1.0
REASONS_SHOWN = 5


class Publisher:
    """The one writer of the table `endpoints`."""

    def __init__(
        self,
        catalogue: Catalogue,
        writer: TableWriter,
        bus: Bus,
        voice: Voice,
        *,
        validate: Callable[[bytes], None],
    ) -> None:
        self._catalogue = catalogue
        self._validate = validate
        self._writer = writer
        self._bus = bus
        self._voice = voice
        self._dirty = trio.Event()
        self._wanted = b""
        self._untold: Table | None = None
        self._told: Services | None = None
        self._tell_at = -math.inf

    def changed(self) -> None:
        """Says that the catalogue may differ from what is in force."""
        self._dirty.set()

    async def run(self) -> None:
        """Publishes changes until cancelled."""
        while True:
            await self._dirty.wait()
            await trio.sleep(CONFLATE_SECONDS)
            self._dirty = trio.Event()
            begun = time.thread_time()
            await self.publish()
            await trio.sleep(min(PAUSED_PER_SPENT * (time.thread_time() - begun), MOST_PAUSED_SECONDS))

    async def publish(self) -> None:
        """Publishes now what differs. Raises PannierError if a newer writer took over."""
        table = self._catalogue.table()
        self._say_refused(self._catalogue.refused)
        payload = encode(table)
        if payload != self._wanted:
            try:
                self._publish_valid(table, payload)
            except (ValueError, OSError) as error:
                self._voice.say("table", f"the table of endpoints cannot be published, the last one stays: {error}")
                return
            except RuntimeError as error:
                raise _fenced(error) from error
            self._wanted = payload
            self._voice.settled("table")
        self._untold = table
        await self.tell()

    async def tell(self) -> None:
        """Tells the topic what it has not been told of the table in force, unless it was told something just now: then
        it is for a later call."""
        if (table := self._untold) is None or trio.current_time() < self._tell_at:
            return
        self._untold = None
        services = self._catalogue.services(table)
        if services != self._told:
            self._tell_at = trio.current_time() + TELL_SECONDS
            if not await self._tell(services):
                self._untold = self._untold or table

    def heartbeat(self) -> None:
        """Says in the table that its writer lives."""
        self._writer.heartbeat()

    def _publish_valid(self, table: Table, payload: bytes) -> None:
        try:
            self._writer.publish(payload)
        except ValueError:
            left, refused = without_refused(table, self._validate)
            self._voice.say("endpoint.refused", f"left out of the table: {_listed(refused)}", severity="error")
            self._writer.publish(encode(left))
        else:
            self._voice.settled("endpoint.refused")

    def _say_refused(self, detours: Sequence[str]) -> None:
        if detours:
            self._voice.say("detours", f"by way of a Central, and ignored: {_listed(detours)}")
        else:
            self._voice.settled("detours")

    async def _tell(self, services: Services) -> bool:
        try:
            await self._bus.publish(SERVICES, services, retain=True)
        except PannierError as error:
            self._voice.say("services", f"the list of services cannot be told to the other sidecars: {error}")
            return False
        self._told = services
        self._voice.settled("services")
        return True


def _listed(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
    return "; ".join(reasons[:REASONS_SHOWN]) + more


def _fenced(error: RuntimeError) -> PannierError:
    return PannierError(
        f"another discovery writes the table of endpoints: {error}",
        hint="only one may run beside a service; `pannier ps` lists it",
        blame=Blame.PLATFORM,
    )
