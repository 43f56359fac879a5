"""The shell: read back → first table → ready → watch. Everything that decides is in the pure files.

One tick of `TICK_SECONDS` drives what is timed (registry, file, expiry, heartbeats); lifecycle, the local API and
checks act at once. Nothing waits for a peer: a registry that cannot be written or a file that is broken is said once
and tried again at the next tick.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from pannier import _native
from pannier.shared.duration import seconds
from pannier.shared.endpoints import Endpoints, Sources
from pannier.shared.errors import Blame, PannierError
from pannier.shared.http_server import serve_http
from pannier.shared.instances import Key
from pannier.shared.messages import LIFECYCLE, SERVICES, Lifecycle, Nothing, Services
from pannier.shared.runtime import REGISTRY, state_dir
from pannier.shared.sidecar import Context
from pannier.shared.ticks import BEAT_SECONDS, next_tick
from pannier.shared.unix import listen_unix
from pannier.sidecars.discovery.announcer import Announcer
from pannier.sidecars.discovery.api import Api
from pannier.sidecars.discovery.catalogue import Catalogue
from pannier.sidecars.discovery.config import Config
from pannier.sidecars.discovery.epochs import Epochs
from pannier.sidecars.discovery.health import Condition, Health, Thresholds
from pannier.sidecars.discovery.own import instance_id
from pannier.sidecars.discovery.probes import Probes, Target
from pannier.sidecars.discovery.publisher import Publisher
from pannier.sidecars.discovery.registry import Registry
from pannier.sidecars.discovery.slots import Place
from pannier.sidecars.discovery.sources import sources
from pannier.sidecars.discovery.table import KIND, Table, TableReader, TableWriter, decode, drains
from pannier.sidecars.discovery.voice import Voice
from pannier.sidecars.discovery.vouched_files import VouchedFiles
from pannier.sidecars.discovery.vouching import Vouching

if TYPE_CHECKING:
    from pannier.shared.statics import StaticSource
    from pannier.sidecars.discovery.config import Pilot as PilotSettings
    from pannier.sidecars.discovery.configuration import Configuration
    from pannier.sidecars.discovery.mirror import Mirror
    from pannier.sidecars.discovery.pilot import Pilot

TICK_SECONDS = 0.5
FILE_SECONDS = 1.0
LISTEN_AGAIN_SECONDS = 1.0
NAMES_SHOWN = 20
SUSPECT_INTERVAL_SECONDS = 1.0
SUSPECT_THRESHOLDS = Thresholds(failures=3)
TABLE = f"table.{KIND}"
BASE = "table.base"
API_SOCKET = "api.sock"
CONFIGURATION = "config.json"
BUS_SOCKET = "bus.sock"


async def serve(context: Context[Config]) -> None:
    """Runs until cancelled. Raises PannierError if the table was not granted, or a newer writer took over."""
    reader, writer = _open_table(context.fds)
    async with trio.open_nursery() as nursery:
        discovery = Discovery(context, nursery, reader, writer)
        await discovery.run()


class Discovery:
    """The collaborators of one running sidecar, wired together."""

    def __init__(
        self, context: Context[Config], nursery: trio.Nursery, reader: TableReader, writer: TableWriter
    ) -> None:
        config = context.config
        timeout = seconds(config.health.timeout)
        restored = _read_back(reader)
        self._context = context
        self._nursery = nursery
        self._voice = Voice()
        self._mirror = mirror = self._new_mirror() if config.pilot is not None else None
        self._catalogue = Catalogue(
            config.services,
            Thresholds(config.health.failures, config.health.successes),
            restored,
            trio.current_time(),
            mirror=mirror,
        )
        self._publisher = Publisher(self._catalogue, writer, context.bus, self._voice, validate=_validate)
        self._registry = Registry(context.directory.parent / REGISTRY)
        self._vouched_files = VouchedFiles(context.directory.parent / REGISTRY, context.directory.name)
        self._file = self._static_source(config.file, restored) if config.file else None
        self._configuration: Configuration | None = None
        self._pilot = self._with_pilot(config.pilot, mirror) if config.pilot and mirror else None
        self._announcer = Announcer(
            config,
            context.service,
            instance_id(config.instance, context.service),
            leases=self._catalogue.leases,
            registry=self._registry,
            epochs=Epochs(state_dir() / "epochs"),
            changed=self._publisher.changed,
            voice=self._voice,
            pilot=self._pilot.announce if self._pilot is not None else None,
        )
        self._vouching = Vouching(
            self._catalogue.leases,
            self._vouched_files,
            ttl=seconds(config.lease_ttl),
            voice=self._voice,
            pilot=self._pilot.vouch if self._pilot is not None else None,
            withdraw=self._pilot.withdraw if self._pilot is not None else None,
        )
        self._static_probes: Probes[Place] = Probes(
            nursery, self._static_checked, interval=seconds(config.health.interval), timeout=timeout
        )
        self._suspect_probes: Probes[Key] = Probes(
            nursery, self._suspect_checked, interval=SUSPECT_INTERVAL_SECONDS, timeout=timeout
        )
        self._own_probes: Probes[str] = Probes(
            nursery, self._own_checked, interval=seconds(config.health.interval), timeout=timeout
        )
        self._suspects: dict[Key, Health] = {}
        self._base: TableReader | None = None
        if BASE in context.fds:
            self._base = _native.TableReader("base", context.fds[BASE])
        self._file_due = self._heartbeat_due = 0.0

    async def run(self) -> None:
        """First table, API, ready, then everything else until cancelled."""
        config, bus = self._context.config, self._context.bus
        self._nursery.start_soon(self._voice.run, bus)
        bus.serve(SERVICES, Nothing, self._answer_services)
        self._look_at_file()
        self._look_at_registry(trio.current_time())
        if self._pilot is not None:
            self._pilot.recall(trio.current_time())
        await self._publisher.publish()
        self._nursery.start_soon(self._publisher.run)
        self._nursery.start_soon(self._tick_forever)
        self._nursery.start_soon(self._vouching.run)
        self._nursery.start_soon(self._follow_lifecycle)
        if config.health.is_asked and config.app is not None:
            health = config.health
            self._own_probes.ask({"app": Target(config.app, health.path, health.grpc, tuple(health.command))})
        path = self._context.directory / API_SOCKET
        api = Api(
            self._catalogue.leases,
            self._services,
            endpoints=self._endpoints,
            sources=self._sources,
            changed=self._publisher.changed,
            touched=self._touched,
            clock=trio.current_time,
            ttl=seconds(config.lease_ttl),
            follow=self._pilot.follow if self._pilot is not None else None,
            configuration=self._configuration,
        )
        listener = await self._listen(path)
        inode = path.stat().st_ino
        try:
            if self._pilot is not None:
                self._pilot.start()
            self._nursery.start_soon(serve_http, listener, api.handle)
            await bus.ready()
            await trio.sleep_forever()
        finally:
            _unlink_own(path, inode)
            await self._take_leave()

    async def _take_leave(self) -> None:
        try:
            ending = self._data_path_drains() or self._supervisor_is_dead()
            if self._announcer.is_ending(ending):
                self._vouching.leave()
            await self._announcer.leave(trio.current_time(), ending=ending)
            if self._pilot is not None and self._announcer.is_ending(ending):
                await self._pilot.leave()
            if self._announcer.is_ending(ending):
                await self._vouching.vanish()
        finally:
            if self._pilot is not None:
                self._pilot.end()

    def _new_mirror(self) -> Mirror:
        # Most hosts have no pilot, and nothing of it in their memory.
        from pannier.sidecars.discovery.mirror import Mirror

        return Mirror(trio.current_time())

    def _with_pilot(self, settings: PilotSettings, mirror: Mirror) -> Pilot:
        from pannier.sidecars.discovery.configuration import Configuration
        from pannier.sidecars.discovery.pilot import Pilot

        context = self._context
        self._configuration = Configuration(
            context.config.stage,
            context.service,
            file=context.directory / CONFIGURATION,
            kept=state_dir() / "configuration" / f"{context.service}@{context.config.stage}",
            voice=self._voice,
        )
        return Pilot(
            settings,
            mirror,
            self._configuration,
            state_dir() / "endpoints" / context.service,
            changed=self._publisher.changed,
            renumber=self._renumber,
            voice=self._voice,
            nursery=self._nursery,
            timeout=seconds(context.config.health.timeout),
        )

    def _static_source(self, file: str, restored: Table) -> StaticSource:
        # What explains a broken file is a tenth of this process; most services have no such file.
        from pannier.shared.statics import StaticSource

        return StaticSource(Path(file), self._catalogue.file_rows(restored))

    def _data_path_drains(self) -> bool:
        """Whether the base table says so: SIGTERM may overtake the `lifecycle` that was sent just before it."""
        try:
            return self._base is not None and drains(self._base.read())
        except RuntimeError:
            return False

    def _supervisor_is_dead(self) -> bool:
        """Whether nobody is left who could have ended this sidecar alone: then the keeper ends them all."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                probe.connect(str(self._context.directory / BUS_SOCKET))
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    async def _listen(self, path: Path) -> trio.SocketListener:
        while True:
            try:
                listener = listen_unix(path)
            except PannierError as error:
                self._voice.say("api", f"{error.message}; trying again", severity="error")
                await trio.sleep(LISTEN_AGAIN_SECONDS)
            else:
                self._voice.settled("api")
                return listener

    async def _tick_forever(self) -> None:
        while True:
            now = trio.current_time()
            self._look_at_registry(now)
            if now >= self._file_due:
                self._file_due = now + FILE_SECONDS
                self._look_at_file()
            self._announcer.tick(now)
            self._expire(now)
            if self._pilot is not None:
                self._pilot.look()
            await self._publisher.tell()
            if now >= self._heartbeat_due:
                self._heartbeat_due = now + BEAT_SECONDS
                self._publisher.heartbeat()
            await next_tick(TICK_SECONDS)

    async def _follow_lifecycle(self) -> None:
        async with self._context.bus.subscribe(LIFECYCLE, Lifecycle) as lifecycles:
            async for lifecycle in lifecycles:
                self._announcer.lifecycle(lifecycle, trio.current_time())

    def _is_own(self, key: Key) -> bool:
        return self._announcer.is_own(key) or self._vouching.is_own(key)

    def _touched(self, key: Key) -> None:
        if self._context.config.vouches and not self._announcer.is_own(key):
            self._vouching.touched(key)

    def _renumber(self, key: Key, at_least: int) -> None:
        if self._announcer.is_own(key):
            self._announcer.renumber(at_least, trio.current_time())
        else:
            self._vouching.renumber(key, at_least)

    def _look_at_registry(self, now: float) -> None:
        leases = self._catalogue.leases
        try:
            scan = self._registry.scan(now) + self._vouched_files.scan(now)
        except PannierError as error:
            self._voice.say("registry", f"{error.message} ({error.hint})")
            return
        self._voice.settled("registry", "the registry can be used again")
        verdicts = [leases.register(one, now) for one in scan.beats if not self._is_own(one.key)]
        verdicts += [leases.deregister(key, epoch, final=False) for key, epoch in scan.removed if not self._is_own(key)]
        if any(verdict.changes for verdict in verdicts):
            self._publisher.changed()
        if doubted := leases.suspect(key for key in scan.wiped if not self._is_own(key)):
            self._voice.tell(
                "registry.wiped", f"gone from the registry without a word: {_names(doubted)}; used until probes fail"
            )

    def _look_at_file(self) -> None:
        if self._file is not None:
            look = self._file.look()
            if look.complaint:
                self._voice.settled("file")
                self._voice.say("file", look.complaint, severity="error")
            self._catalogue.use_file(self._file.services)
            if look.changed:
                self._voice.settled("file", "the file of static endpoints is good again")
                self._publisher.changed()
        self._static_probes.ask({place: Target(place[1], path) for place, path in self._catalogue.checks().items()})

    def _expire(self, now: float) -> None:
        leases = self._catalogue.leases
        expiry = leases.expire(now)
        if expiry.evicted:
            self._publisher.changed()
            for key in expiry.evicted:
                self._touched(key)
            self._voice.tell("lease.expired", f"not renewed in time: {_names(expiry.evicted)}", severity="info")
        if leases.preserving:
            self._voice.say("preservation", "too many renewals vanished at once: eviction stops until they are back")
        else:
            self._voice.settled("preservation", "enough renewals are back: eviction goes on")
        suspects = {lease.registration.key: lease.registration for lease in leases.suspects()}
        self._suspects = {key: self._suspects.get(key, Health(Condition.UP)) for key in suspects}
        self._suspect_probes.ask({key: Target(one.address) for key, one in suspects.items()})

    def _suspect_checked(self, key: Key, reason: str) -> None:
        health = self._suspects.get(key)
        if health is None:
            return
        self._suspects[key] = health = health.after(not reason, SUSPECT_THRESHOLDS)
        if health.condition is Condition.DOWN and self._catalogue.leases.confirm_gone(key):
            self._voice.tell("lease.gone", f"{_names([key])} is gone: not renewed, and {reason}")
            if self._mirror is not None:
                self._mirror.doubt(key)  # a pilot may not have noticed yet
            self._touched(key)
            self._publisher.changed()

    def _static_checked(self, place: Place, reason: str) -> None:
        if self._catalogue.checked(place, not reason):
            said = f"{place[0]} at {place[1]} is {'unhealthy: ' + reason if reason else 'healthy'}"
            self._voice.tell(f"health.{place[0]}.{place[1]}", said, severity="warning" if reason else "info")
            self._publisher.changed()

    def _own_checked(self, _: str, reason: str) -> None:
        self._announcer.checked(reason, trio.current_time())

    def _services(self) -> Services:
        return self._catalogue.services(self._catalogue.table())

    def _endpoints(self) -> Endpoints:
        return self._catalogue.endpoints(self._catalogue.table())

    def _sources(self) -> Sources:
        return sources(
            self._context.config,
            self._context.directory / API_SOCKET,
            self._endpoints().endpoints,
            written=0 if self._file is None else sum(map(len, self._file.services.values())),
            trouble=self._voice.trouble,
        )

    async def _answer_services(self, _: Nothing) -> Services:
        await trio.lowlevel.checkpoint()
        return self._services()


def _open_table(fds: Mapping[str, int]) -> tuple[TableReader, TableWriter]:
    if TABLE not in fds:
        raise PannierError(
            f"the supervisor granted no {TABLE}", hint="restart the service with `pannier run`", blame=Blame.INTERNAL
        )
    return _native.TableReader(KIND, fds[TABLE]), _native.TableWriter(KIND, fds[TABLE])


def _unlink_own(path: Path, inode: int) -> None:
    """Removes the socket, unless a successor has already put its own there."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _validate(payload: bytes) -> None:
    _native.validate(KIND, payload)


def _read_back(reader: TableReader) -> Table:
    try:
        return decode(reader.read())
    except RuntimeError:
        return Table()


def _names(keys: Sequence[Key]) -> str:
    more = f" and {len(keys) - NAMES_SHOWN} more" if len(keys) > NAMES_SHOWN else ""
    return ", ".join(f"{service}/{instance}" for service, instance in keys[:NAMES_SHOWN]) + more
