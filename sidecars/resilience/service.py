"""The resilience sidecar: puts limits in force, takes endpoints and services out by what was counted, says who is out.

| what | rhythm |
| --- | --- |
| configuration → table `limits` | at the start, when a new one comes, when services with a breaker come or go |
| counters, hot words → out, back | each 50 ms while calls end, up to 1 s apart while none do (`pace.py`) |
| topic `ejections`, events | when somebody goes out or comes back |
| heartbeat of the table | every `BEAT_SECONDS` |

The table is not withdrawn at the end, and nobody is taken back in: limits and ejections outlive a restart, and what is
out ends by its `until` if there is none. When the sidecar is removed for good, the supervisor publishes the absence.
"""

from __future__ import annotations

import logging
import random
import time

import msgspec
import trio
from pannier import _native
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.messages import (
    EJECTIONS,
    EVENTS,
    BreakerStates,
    Ejections,
    Happening,
    LimitStates,
    Nothing,
    Reset,
    ResetDone,
    TakeOut,
)
from pannier.shared.sidecar import Context
from pannier.shared.ticks import BEAT_SECONDS, next_tick
from pannier.sidecars.resilience.analysis import LONGEST_MS
from pannier.sidecars.resilience.by_hand import meant
from pannier.sidecars.resilience.circuit_slots import assign
from pannier.sidecars.resilience.config import Config
from pannier.sidecars.resilience.data_path import Limits, Surroundings, open_data_path
from pannier.sidecars.resilience.inventory import Inventory
from pannier.sidecars.resilience.limits import limit_states
from pannier.sidecars.resilience.listing import breaker_states, ejections
from pannier.sidecars.resilience.lookout import Lookout, News
from pannier.sidecars.resilience.pace import BUSY_SECONDS, IDLE_SECONDS, next_pause
from pannier.sidecars.resilience.rules import Look, Rules
from pannier.sidecars.resilience.table import limits_table

_log = logging.getLogger("pannier.resilience")


async def serve(context: Context[Config]) -> None:
    """Runs until cancelled. Raises PannierError if the data path was not granted, the configuration is refused, or a
    newer writer took over."""
    await Resilience(context, *open_data_path(context.fds)).run()


class Resilience:
    """The collaborators of one running sidecar, wired together."""

    def __init__(self, context: Context[Config], limits: Limits, surroundings: Surroundings) -> None:
        self._context = context
        self._config = context.config
        self._limits = limits
        self._surroundings = surroundings
        self._members: Inventory = surroundings.members()
        self._circuits, self._placed = limits.before, self._members
        self._lookout = Lookout(surroundings, Rules(context.config, random.random))
        self._told = Ejections()
        self._trouble = ""

    async def run(self) -> None:
        """First table, ready, then everything else until cancelled."""
        bus = self._context.bus
        self._put(self._config)
        bus.serve("breakers", Nothing, self._answer_breakers)
        bus.serve("limits", Nothing, self._answer_limits)
        bus.serve("reset", Reset, self._reset)
        bus.serve("open", TakeOut, self._take_out)
        self._context.on_config(self._take)
        self._look()
        await self._publish(EJECTIONS, self._told, retain=True)
        await self._tell()
        await bus.ready()
        await self._look_forever()

    async def _take(self, config: Config) -> None:
        """Puts a configuration in force. Raises PannierError if it is refused; then what held goes on to hold."""
        self._put(config)
        self._config = config
        self._lookout.rules.use(config)
        self._look()
        await self._tell()

    async def _look_forever(self) -> None:
        pause, beat = BUSY_SECONDS, trio.current_time()
        while True:
            moved = bool(self._look().moved) or self._surroundings.called()
            pause = next_pause(pause, moved=moved, out=self._lookout.standings)
            await self._tell()
            if trio.current_time() >= beat:
                beat = trio.current_time() + BEAT_SECONDS
                self._limits.heartbeat()
            if pause == IDLE_SECONDS:
                await next_tick(pause)
            else:
                await trio.sleep(pause)

    def _look(self) -> Look:
        members = self._surroundings.members()
        if members is not self._members:
            self._members = members
            self._lookout.rules.forget(members)
        if members is not self._placed:
            try:
                self._put(self._config)
            except PannierError as error:
                self._say("table", f"{error.message} ({error.hint})")
        return self._lookout.look(self._config, self._members, self._circuits)

    def _put(self, config: Config) -> None:
        given = assign(
            (name for name in self._members if config.service(name).service_breaker is not None), self._circuits
        )
        for name in given.fresh:
            self._surroundings.hot.close(*given.places[name])
        self._limits.publish(limits_table(config, given.places))
        self._circuits, self._placed = given.places, self._members
        self._say("places", f"no room for the service breakers of {', '.join(given.without)}" if given.without else "")

    def _say(self, about: str, trouble: str) -> None:
        """Has a trouble told once, until it changes."""
        if trouble and trouble != self._trouble:
            self._lookout.news.append(News(about, trouble, "error"))
        self._trouble = trouble

    async def _tell(self) -> None:
        news, self._lookout.news = self._lookout.news, []
        for one in news:
            _log.log(logging.INFO if one.severity == "info" else logging.WARNING, "%s", one.message)
            at_ms = round(time.time() * 1000)
            await self._publish(
                EVENTS, Happening(self._context.name, one.kind, one.message, one.severity, at_ms), retain=False
            )
        if (out := ejections(self._lookout.standings)) != self._told:
            self._told = out
            await self._publish(EJECTIONS, out, retain=True)

    async def _publish(self, topic: str, body: msgspec.Struct, *, retain: bool) -> None:
        try:
            await self._context.bus.publish(topic, body, retain=retain)
        except PannierError as error:
            _log.warning("%s cannot be published: %s", topic, error.message)

    async def _answer_breakers(self, _: Nothing) -> BreakerStates:
        look = self._look()
        await self._tell()
        return breaker_states(self._lookout.standings, look, self._config)

    async def _answer_limits(self, _: Nothing) -> LimitStates:
        await trio.lowlevel.checkpoint()
        return LimitStates(limit_states(self._surroundings.gauges(), self._config))

    async def _reset(self, request: Reset) -> ResetDone:
        found = meant(self._members, self._circuits, request.service, request.endpoint)
        done = [member.address for member in found if self._lookout.take_in(member, "taken in by hand")]
        self._look()
        await self._tell()
        return ResetDone(done)

    async def _take_out(self, request: TakeOut) -> None:
        [member] = meant(self._members, self._circuits, request.service, request.endpoint)[:1]
        if self._config.service(member.service).failure_policy == "none":
            raise UsageError(
                f"nobody of {member.service} can be taken out: its failure_policy is none",
                hint=f"set sidecars.resilience.services.{member.service}.failure_policy to breaker or outlier",
            )
        if not 0 < request.for_ms < LONGEST_MS:
            raise UsageError("an endpoint can be taken out for less than an hour", hint="--for 30m")
        if not self._lookout.take_out(member, _native.monotonic_ms() + request.for_ms, "taken out by hand"):
            raise PannierError(
                f"{member} is out already", hint=f"pannier resilience reset {member.service} {member.address}"
            )
        self._look()
        await self._tell()
