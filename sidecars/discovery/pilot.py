"""The part of discovery that is there only with a pilot: what it says, kept on the disk, and what is said to it.

What a host knows when it starts, best first: the table that is in force (this sidecar was restarted alone), the file of
what was said last (the host was), nothing. Either holds until a pilot answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio
from pannier.shared.instances import Key
from pannier.shared.leases import Lease, Registration
from pannier.shared.registration import TTL_SECONDS
from pannier.sidecars.discovery import remembered
from pannier.sidecars.discovery.config import Pilot as Settings
from pannier.sidecars.discovery.configuration import Configuration
from pannier.sidecars.discovery.health import Condition, Health, Thresholds
from pannier.sidecars.discovery.mirror import Mirror
from pannier.sidecars.discovery.pilot_link import PilotLink
from pannier.sidecars.discovery.probes import Probes, Target
from pannier.sidecars.discovery.voice import Voice

SAVE_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 86_400.0
"""After which what has not changed is saved again: what is old is not believed."""
DETOURS_SECONDS: Final = 60.0
"""That shares by way of Centrals stay in force while no pilot answers: a few tries to come back."""
SUSPECT_INTERVAL_SECONDS: Final = 1.0
SUSPECT_THRESHOLDS: Final = Thresholds(failures=3)
_LOCAL = ("127.", "localhost", "[::1]", "unix:")


class Pilot:
    """All of it; `changed` is called when endpoints may differ, `renumber` as in `PilotLink`."""

    def __init__(
        self,
        settings: Settings,
        mirror: Mirror,
        configuration: Configuration,
        file: Path,
        *,
        changed: Callable[[], None],
        renumber: Callable[[Key, int], None],
        voice: Voice,
        nursery: trio.Nursery,
        timeout: float,
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._configuration = configuration
        self._file = file
        self._changed = changed
        self._voice = voice
        self._nursery = nursery
        self._dirty = trio.Event()
        self._answered_at = trio.current_time()
        self._health: dict[Key, Health] = {}
        self._probes: Probes[Key] = Probes(nursery, self._checked, interval=SUSPECT_INTERVAL_SECONDS, timeout=timeout)
        self._link = PilotLink(
            settings.addresses,
            mirror,
            follow=settings.follow,
            token=None if settings.token_file is None else Path(settings.token_file),
            heard=self._heard,
            renumber=renumber,
            configuration=configuration,
            voice=voice,
        )

    def recall(self, now: float) -> None:
        """Reads what was said last, of instances unless the table in force has said it already."""
        self._configuration.recall()
        if len(self._mirror.leases):
            return
        try:
            found = remembered.read(self._file, time.time())
        except (OSError, ValueError) as error:
            self._voice.say("pilot.file", f"{self._file} is ignored: {error}")
            return
        self._mirror.restore(found, now)

    def start(self) -> None:
        """Begins to follow, and to save what is heard."""
        self._nursery.start_soon(self._link.run)
        self._nursery.start_soon(self._save_forever)

    def announce(self, own: Registration) -> None:
        """What the own instance is, as this host knows it."""
        address = self._advertised(own.address)
        if address is None:
            said = f"this instance is not registered: other hosts cannot reach {own.address}"
            self._voice.say("pilot.advertise", f"{said}; set sidecars.discovery.pilot.advertise")
            return
        ttl = min(max(own.ttl, TTL_SECONDS[0]), TTL_SECONDS[1])
        self._link.announce(
            Registration(own.service, own.id, address, own.epoch, ttl, own.state, own.metadata, "pilot")
        )

    def vouch(self, registration: Registration) -> None:
        """What else is announced here, at an address that others reach; `registration.ttl` in seconds."""
        address = registration.address
        if address.startswith(_LOCAL):
            address = self._advertised(address) or address
        if address.startswith(_LOCAL):
            said = f"{registration.service}/{registration.id} is not registered: other hosts cannot reach {address}"
            self._voice.say("pilot.vouched", f"{said}; set sidecars.discovery.pilot.advertise")
            return
        self._link.announce(replace(registration, address=address, source="pilot"))

    def withdraw(self, key: Key) -> None:
        """It is announced no more."""
        self._link.withdraw(key)

    async def follow(self, service: str) -> None:
        """Follows one more service from now on."""
        await self._link.follow(service)

    async def leave(self) -> None:
        """Says that what was announced has ended."""
        await self._link.leave()

    def end(self) -> None:
        """Leaves the connection."""
        self._link.end()

    def look(self) -> None:
        """Probes whom the mirror doubts, and ends what only a pilot could keep up; call it each tick."""
        now = trio.current_time()
        if self._link.connected:
            self._answered_at = now
        elif now - self._answered_at >= DETOURS_SECONDS and self._mirror.drop_detours():
            self._changed()
        suspects: dict[Key, Lease] = {lease.registration.key: lease for lease in self._mirror.leases.suspects()}
        self._health = {key: self._health.get(key, Health(Condition.UP)) for key in suspects}
        self._probes.ask({key: Target(lease.registration.address) for key, lease in suspects.items()})

    def _checked(self, key: Key, reason: str) -> None:
        health = self._health.get(key)
        if health is None:
            return
        self._health[key] = health = health.after(not reason, SUSPECT_THRESHOLDS)
        if health.condition is Condition.DOWN and self._mirror.confirm_gone(key):
            self._voice.tell("pilot.gone", f"{'/'.join(key)} is gone: the pilot lost it, and {reason}")
            self._heard()

    def _heard(self) -> None:
        self._dirty.set()
        self._changed()

    async def _save_forever(self) -> None:
        while True:
            with trio.move_on_after(FRESH_SECONDS):
                await self._dirty.wait()
            if not (self._dirty.is_set() or self._link.connected):
                continue
            self._dirty = trio.Event()
            await self._save()
            await trio.sleep(SAVE_SECONDS)

    async def _save(self) -> None:
        instances = [one for lease in self._mirror.leases if not (one := lease.registration).is_detour]
        data = remembered.encode(instances, time.time())
        try:
            await trio.to_thread.run_sync(remembered.write, self._file, data)
        except OSError as error:
            self._voice.say("pilot.file", f"what the pilot says cannot be kept on the disk: {error}")
        else:
            self._voice.settled("pilot.file", "what the pilot says is kept on the disk again")

    def _advertised(self, address: str) -> str | None:
        """The address under which others reach `address`, None if they cannot."""
        host = self._settings.advertise
        if host is not None and not address.startswith("unix:"):
            port = address.rpartition(":")[2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return None if address.startswith(_LOCAL) else address
