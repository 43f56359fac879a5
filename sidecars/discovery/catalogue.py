"""Everything that is known about endpoints, and the table that follows from it. No clock, no I/O.

The shells put in what they learn (files, leases, registry, a pilot, checks); an instance that this host knows itself is
taken at this host's word, whatever a pilot says of it. `table` is what the proxy gets, `services` is what
people and other sidecars get. After a restart the catalogue begins with the table in force: slots stay, leases get
one fresh TTL, and a static endpoint is as healthy as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pannier.shared import messages
from pannier.shared.endpoints import Endpoint, Endpoints
from pannier.shared.instances import Key, State
from pannier.shared.leases import Lease, Leases, Registration
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.sidecars.discovery.health import Condition, Health, Thresholds
from pannier.sidecars.discovery.merge import join_statics, merge
from pannier.sidecars.discovery.slots import Place, Slot, Slots
from pannier.sidecars.discovery.table import Table

if TYPE_CHECKING:
    from pannier.sidecars.discovery.mirror import Mirror

KNOWN_LIMIT = 1024


class Catalogue:
    """`configured` are the static endpoints of the profile; they win over those of the file."""

    def __init__(
        self,
        configured: Mapping[str, tuple[StaticEndpoint, ...]],
        thresholds: Thresholds,
        restored: Table,
        now: float,
        *,
        mirror: Mirror | None = None,
    ) -> None:
        self._configured = join_statics(configured)
        self._thresholds = thresholds
        self._statics = dict(self._configured)
        self._health: dict[Place, Health] = {}
        self._known: dict[str, None] = {}
        self._slots = Slots()
        self.leases = Leases(now)
        self.refused: Sequence[str] = ()
        """What was wrong with detours that the last `table` ignores."""
        self._mirror = mirror
        self._restore(restored, now)

    def _restore(self, table: Table, now: float) -> None:
        rows = [(cluster.name, row) for cluster in table.clusters for row in cluster.endpoints]
        self._slots.restore(
            (((name, row.address), Slot(row.slot, row.incarnation)) for name, row in rows), table.high_water
        )
        for cluster in table.clusters:
            if not cluster.endpoints:
                self._known[cluster.name] = None
        for name, row in rows:
            if row.source == "file":
                condition = Condition.UP if row.healthy else Condition.UNKNOWN
                self._health[(name, row.address)] = Health(condition)
            else:
                state = State.UP if row.healthy else State.DRAINING
                ttl = row.ttl_ms / 1000
                one = Registration(name, row.id, row.address, row.epoch, ttl, state, row.metadata, row.source)
                if row.source != "pilot":
                    self.leases.register(one, now)
                elif self._mirror is not None:
                    self._mirror.restore([one], now)

    def file_rows(self, table: Table) -> dict[str, tuple[StaticEndpoint, ...]]:
        """The static endpoints of `table` that the profile does not have: the file's last word before a restart."""
        rows: dict[str, tuple[StaticEndpoint, ...]] = {}
        for cluster in table.clusters:
            known = {endpoint.address for endpoint in self._configured.get(cluster.name, ())}
            left = tuple(
                StaticEndpoint(row.address, row.weight, metadata=dict(row.metadata))
                for row in cluster.endpoints
                if row.source == "file" and row.address not in known
            )
            if left:
                rows[cluster.name] = left
        return rows

    @property
    def statics(self) -> Mapping[str, tuple[StaticEndpoint, ...]]:
        return self._statics

    def use_file(self, services: Mapping[str, tuple[StaticEndpoint, ...]]) -> None:
        """Takes the content of the file of static endpoints; the health of what is in it no more is forgotten."""
        self._statics = join_statics(self._configured, services)
        places = {(name, endpoint.address) for name, endpoints in self._statics.items() for endpoint in endpoints}
        self._health = {place: health for place, health in self._health.items() if place in places}

    def checks(self) -> dict[Place, str]:
        """The static endpoints that are to be checked, with the path to ask for."""
        return {
            (name, endpoint.address): endpoint.health
            for name, endpoints in self._statics.items()
            for endpoint in endpoints
            if endpoint.health is not None
        }

    def checked(self, place: Place, success: bool) -> bool:
        """Notes the outcome of a check; True if the endpoint's health turned."""
        before = self._health.get(place, Health())
        after = self._health[place] = before.after(success, self._thresholds)
        return after.condition is not before.condition

    def table(self) -> Table:
        """The table to be in force now."""
        registrations = list(self._registrations())
        for registration in registrations:
            if registration.is_detour:
                continue
            self._known[registration.service] = None
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        clusters, self.refused = merge(
            self._statics,
            registrations,
            known=self._known,
            healthy=self._is_healthy,
            assign=self._slots.assign,
        )
        return Table(clusters, self._slots.high_water)

    def services(self, table: Table) -> messages.Services:
        """`table` for people and other sidecars, with the instances that are registered and get no traffic."""
        listed: dict[str, list[messages.ServiceEndpoint]] = {}
        for cluster in table.clusters:
            listed[cluster.name] = [
                messages.ServiceEndpoint(
                    row.id, row.address, self._state(cluster.name, row.id, row.healthy), row.source
                )
                for row in cluster.endpoints
            ]
        for one in self._registrations():
            if one.is_detour:
                continue
            rows = listed.setdefault(one.service, [])
            if one.state in (State.STARTING, State.DOWN):
                rows.append(messages.ServiceEndpoint(one.id, one.address, one.state, one.source))
        return messages.Services([messages.Cluster(name, listed[name]) for name in sorted(listed)])

    def endpoints(self, table: Table) -> Endpoints:
        """What `services` says, and what else is known of each."""
        rows = {(cluster.name, row.id): row for cluster in table.clusters for row in cluster.endpoints}
        found: list[Endpoint] = []
        clusters = self.services(table).clusters
        for cluster in clusters:
            for one in cluster.endpoints:
                key = (cluster.name, one.id)
                row, lease = rows.get(key), self._lease(key)
                known = row or (lease.registration if lease is not None else None)
                found.append(
                    Endpoint(
                        *key,
                        one.address,
                        one.state,
                        one.source,
                        epoch=known.epoch if known is not None else 0,
                        weight=row.weight if row is not None else 1,
                        suspect=lease is not None and lease.suspect,
                        metadata=known.metadata if known is not None else {},
                        centrals=row.centrals if row is not None else (),
                    )
                )
        return Endpoints([cluster.name for cluster in clusters], found)

    def _lease(self, key: Key) -> Lease | None:
        own = self.leases.get(key)
        return own if own is not None or self._mirror is None else self._mirror.leases.get(key)

    def _registrations(self) -> Iterator[Registration]:
        for lease in self.leases:
            yield lease.registration
        for lease in () if self._mirror is None else self._mirror.leases:
            if self.leases.get(lease.registration.key) is None:
                yield lease.registration

    def _state(self, service: str, instance: str, healthy: bool) -> str:
        if lease := self._lease((service, instance)):
            return lease.registration.state
        return State.UP if healthy else State.DOWN

    def _is_healthy(self, service: str, endpoint: StaticEndpoint) -> bool:
        return endpoint.health is None or self._health.get((service, endpoint.address), Health()).healthy
