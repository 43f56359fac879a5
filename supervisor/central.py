"""The Central Mesh as the supervisor has a hand in it: what it shows, what it forces, what it tells the bus.

It decides nothing: the proxy does, and says four times a second where it stands. That is read twice a second, while
there is a Central Mesh; without one nothing wakes.
"""

from __future__ import annotations

from typing import Final

from pannier.shared.central import (
    CENTRAL_STATE,
    CentralForce,
    CentralState,
    CentralStatus,
    newest,
    states_of,
)
from pannier.shared.errors import UsageError
from pannier.shared.messages import Nothing
from pannier.shared.ticks import next_tick
from pannier.supervisor.central_events import happenings, is_news
from pannier.supervisor.central_table import thresholds
from pannier.supervisor.service import Service

LOOK_SECONDS: Final = 0.5
SOURCE: Final = "central"


class CentralMesh:
    """Of one service. The verbs raise PannierError for what the operator can act on. Where the service is `adopted` the
    first state is no news: who was here before us has told it."""

    def __init__(self, service: Service, *, adopted: bool = False) -> None:
        self._service = service
        self._told: CentralState | None = None
        self._seen: CentralState | None = None if adopted else CentralState()

    async def status(self, _: Nothing) -> CentralStatus:
        """Where every process of the proxy stands, and what the profile says."""
        service = self._service
        table = service.plan.central
        if table is None:
            return CentralStatus(service.plan.service, configured=False)
        gateway = table["gateway"]
        return CentralStatus(
            service.plan.service,
            configured=True,
            states=states_of(service.segments.central_states()),
            central=table["service"],
            addresses=table["addresses"],
            identity="certificates" if table["tls"] else "plain" if table["plain"] else "loopback",
            outbound=table["outbound"],
            inbound=table["inbound"],
            instance=table["instance"],
            passthrough=table["passthrough"],
            gateway=None if gateway is None else gateway["address"],
            thresholds=thresholds(table),
            share=table["controller"]["leave"]["share"],
            forced=None if service.forced is None else service.forced.weight,
        )

    async def force(self, request: CentralForce) -> CentralStatus:
        """A weight from now on, without ramp and dwell, or none; where it stood until then."""
        service = self._service
        if service.plan.central is None:
            raise UsageError(
                f"{service.plan.service} has no Central Mesh",
                hint="add [central] to its profile, or: pannier profile set outbound.unknown=deny "
                "central.addresses='[\"10.77.0.2:15090\"]' central.plain='[\"10.77.0.0/24\"]' (yours)",
            )
        if service.plan.central["gateway"] is not None:
            raise UsageError(
                f"{service.plan.service} is a Central, which keeps its work", hint="name the service that leans on it"
            )
        before = await self.status(Nothing())
        if request.weight is None:
            if service.forced is not None:
                service.tell(SOURCE, "central.released", "the weight is the controller's again", "info")
        else:
            service.tell(SOURCE, "central.forced", f"by hand {request.weight:g} of 100 points leave this host", "info")
        await service.force(request.weight)
        return before

    async def watch(self) -> None:
        """Tells the bus what happens; runs until cancelled."""
        service = self._service
        while True:
            if service.plan.central is None:
                await self._forget()
                await service.wait_central()
            await next_tick(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look at where the proxy stands."""
        service = self._service
        now = newest(states_of(service.segments.central_states()))
        if now is None or service.plan.central is None:
            return
        for told in () if self._seen is None else happenings(self._seen, now, thresholds(service.plan.central)):
            service.tell(SOURCE, told.kind, told.text, told.severity)
        self._seen = now
        if is_news(self._told, now):
            self._told = now
            await service.broker.publish(CENTRAL_STATE, now, retain=True)

    async def _forget(self) -> None:
        """There is no Central Mesh any more; what is retained says so."""
        if self._told is not None:
            await self._service.broker.publish(CENTRAL_STATE, CentralState(), retain=True)
        self._told, self._seen = None, CentralState()
