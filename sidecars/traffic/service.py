"""The traffic sidecar: puts routes, splits and faults in force, and moves the weight of canaries.

| what | rhythm |
| --- | --- |
| configuration → table `routes` | at the start, and when a new one comes |
| counters → step of a canary | every `LOOK_SECONDS` while one is under way, else never |
| heartbeat of the table, `canary.progress` | every `BEAT_SECONDS`, and a step at once |

A weight is in force before it is written down: when this process dies between the two, its successor goes on with the
step before, and comes to the same. The table is not withdrawn at the end: routes outlive a restart. When the sidecar is
removed for good, the supervisor publishes the absence.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec
import trio
from pannier import _native
from pannier.shared.errors import Blame, PannierError
from pannier.shared.messages import CANARY, EVENTS, Canaries, Happening, Nothing, TrafficStatus
from pannier.shared.runtime import state_dir
from pannier.shared.sidecar import KNOWN, Context
from pannier.shared.tables import Fenced, Publication
from pannier.shared.ticks import BEAT_SECONDS, next_tick
from pannier.sidecars.traffic.canary import FINAL, State
from pannier.sidecars.traffic.config import Config
from pannier.sidecars.traffic.data_path import TABLE, Surroundings
from pannier.sidecars.traffic.status import progress, status
from pannier.sidecars.traffic.store import Store
from pannier.sidecars.traffic.table import KIND, routes_table
from pannier.sidecars.traffic.watch import Kept, Watch, watched

LOOK_SECONDS = 0.05
FOLDER = "canary"

_log = logging.getLogger("pannier.traffic")


async def serve(context: Context[Config]) -> None:
    """Runs until cancelled. Raises PannierError if the table was not granted or is refused, or a newer writer took
    over."""
    traffic = Traffic(context, _routes(context.fds), _surroundings(context.fds))
    await traffic.run()


class Traffic:
    """The collaborators of one running sidecar, wired together."""

    def __init__(self, context: Context[Config], routes: Publication, surroundings: Surroundings) -> None:
        self._context = context
        self._config = context.config
        self._routes = routes
        self._surroundings = surroundings
        self._store = Store(state_dir() / FOLDER, context.service)
        self._watches: dict[str, Watch] = {}
        self._splits: dict[str, dict[str, int]] = {}
        self._tables: deque[tuple[Config, dict[str, dict[str, int]], bytes]] = deque(maxlen=KNOWN)
        self._work = trio.Event()
        self._told: Canaries | None = None
        self._unkept = False
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """First table, ready, then everything else until cancelled."""
        bus = self._context.bus
        await self._begin(self._config, await self._kept())
        bus.serve("canaries", Nothing, self._answer_canaries)
        bus.serve("status", Nothing, self._answer_status)
        self._context.on_config(self._take)
        await bus.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            nursery.start_soon(self._work_forever)

    async def _take(self, config: Config) -> None:
        """Puts a configuration in force. Raises PannierError if it is refused; then what held goes on to hold."""
        await self._begin(config, {})

    async def _begin(self, config: Config, kept: Mapping[str, Kept]) -> None:
        before, clusters = self._watches, self._surroundings.clusters()
        watches = watched(config.services, before, kept, time.time())
        for name, watch in watches.items():
            watch.meet(clusters.get(name, []))
        splits = _splits(watches)
        self._routes.publish(self._table(config, splits))
        self._config, self._watches, self._splits = config, watches, splits
        known = {(name, watch.canary.shift) for name, watch in before.items()}
        known |= {(name, old.canary.shift) for name, old in kept.items()}
        await self._tell_steps(watch for name, watch in watches.items() if (name, watch.canary.shift) not in known)
        await self._step()
        await self._keep()
        self._work.set()

    def _table(self, config: Config, splits: dict[str, dict[str, int]]) -> bytes:
        """The payload of the table; that of a configuration which held lately is at hand, for who wants it back."""
        for kept, weights, payload in self._tables:
            if kept is config and weights == splits:
                return payload
        payload = routes_table(config, splits)
        self._tables.append((config, splits, payload))
        return payload

    async def _work_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while await self._step():  # noqa: ASYNC110 - counters in shared memory have no event to wait for
                await trio.sleep(LOOK_SECONDS)

    async def _step(self) -> bool:
        """Looks at all canaries and does what follows; whether another look is due."""
        clusters, now = self._surroundings.clusters(), time.time()
        moved = []
        for name, watch in self._watches.items():
            endpoints = clusters.get(name, [])
            if watch.look(endpoints, self._surroundings.counted(watch.places(endpoints)), now):
                moved.append(watch)
        if (splits := _splits(self._watches)) != self._splits:
            try:
                self._routes.publish(self._table(self._config, splits))
            except Fenced:
                raise
            except PannierError as error:
                await self._complain("table", error)
            else:
                self._splits = splits
                self._said.pop("table", None)
        if moved:
            await self._keep()
            await self._tell_steps(moved)
        return splits != self._splits or any(w.canary.state not in FINAL for w in self._watches.values())

    async def _beat(self) -> None:
        while True:
            self._routes.heartbeat()
            if self._unkept:
                await self._keep()
            await self._tell_progress()
            await next_tick(BEAT_SECONDS)

    async def _kept(self) -> dict[str, Kept]:
        try:
            return self._store.load()
        except PannierError as error:
            await self._complain("store", error)
            return {}

    async def _keep(self) -> None:
        try:
            self._store.save({name: watch.kept() for name, watch in self._watches.items()})
        except PannierError as error:
            self._unkept = True
            await self._complain("store", error)
        else:
            self._unkept = False
            self._said.pop("store", None)

    async def _tell_steps(self, watches: Iterable[Watch]) -> None:
        for watch in watches:
            shown = watch.progress(time.time())
            what = f"{shown.service}/{shown.subset}: {shown.state} at {shown.weight:g} % of the calls"
            severity = "warning" if watch.canary.state is State.ABORTED else "info"
            await self._tell(f"canary.{shown.state}", f"{what}: {shown.reason}" if shown.reason else what, severity)
        await self._tell_progress()

    async def _tell_progress(self) -> None:
        told = Canaries(progress(self._watches, time.time()))
        if told != self._told:
            self._told = told
            await self._say(CANARY, told, retain=True)

    async def _complain(self, subject: str, error: PannierError) -> None:
        """Says a trouble that lasts once, until it is another one or over."""
        text = f"{error.message} ({error.hint})"
        if self._said.get(subject) != text:
            self._said[subject] = text
            await self._tell(subject, text, "error")

    async def _tell(self, kind: str, message: str, severity: str) -> None:
        _log.log(logging.INFO if severity == "info" else logging.WARNING, "%s", message)
        await self._say(EVENTS, Happening("traffic", kind, message, severity, round(time.time() * 1000)))

    async def _say(self, topic: str, body: msgspec.Struct, *, retain: bool = False) -> None:
        try:
            await self._context.bus.publish(topic, body, retain=retain)
        except PannierError as error:
            _log.warning("%s cannot be told: %s", topic, error)

    async def _answer_canaries(self, _: Nothing) -> Canaries:
        await trio.lowlevel.checkpoint()
        return Canaries(progress(self._watches, time.time()))

    async def _answer_status(self, _: Nothing) -> TrafficStatus:
        await trio.lowlevel.checkpoint()
        return status(self._config, self._watches, self._surroundings.clusters(), time.time())


def _splits(watches: Mapping[str, Watch]) -> dict[str, dict[str, int]]:
    return {name: watch.split() for name, watch in watches.items()}


def _routes(fds: Mapping[str, int]) -> Publication:
    if TABLE not in fds:
        raise PannierError(
            f"the supervisor granted no {TABLE}", hint="restart the service with `pannier run`", blame=Blame.INTERNAL
        )
    return Publication(_native.TableWriter(KIND, fds[TABLE]), sidecar="traffic", kind=KIND)


def _surroundings(fds: Mapping[str, int]) -> Surroundings:
    def table(kind: str) -> _native.TableReader | None:
        return _native.TableReader(kind, fds[f"table.{kind}"]) if f"table.{kind}" in fds else None

    counters = _native.Counters(fds["counters"]) if "counters" in fds else None
    return Surroundings(table("endpoints"), table("base"), counters)
