"""Who is let in to the bus, and with what: descriptors, configuration, topics, verbs.

What the keeper hands to a process that it starts, a sidecar without one gets with its welcome: its listener. That is
lent from the keeper then, for as long as the sidecar is part of what runs.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pannier.supervisor.broker import Grants
from pannier.supervisor.keeper import Keeper, KeeperError, KeeperGone
from pannier.supervisor.plan import ProcessPlan
from pannier.supervisor.tables import Segments


class Admission:
    """Puts the grants of plans in force."""

    def __init__(self, keeper: Keeper, segments: Segments, grants: Grants) -> None:
        self._keeper = keeper
        self._segments = segments
        self._grants = grants
        self._lent: dict[str, int] = {}

    async def admit(self, plan: ProcessPlan) -> None:
        """Lets a sidecar in. Who is in already stays so."""
        grant = plan.grant
        assert grant is not None, "every sidecar is planned with a grant"
        fds = {held: self._segments.descriptors[held] for held in grant.descriptors}
        for held in plan.held if plan.fused else ():
            fds |= await self._listener(f"{held}.0")
        self._grants.issue(
            grant.role,
            fds=fds,
            config=grant.config,
            topics=grant.topics,
            hears=grant.hears,
            verbs=grant.verbs,
            token=grant.token,
        )

    def revoke(self, plan: ProcessPlan) -> None:
        """Lets a sidecar in no more."""
        self._grants.revoke(plan.name)

    async def release(self, plan: ProcessPlan) -> None:
        """Closes a listener that only this sidecar had."""
        for held in plan.held:
            if (lent := self._lent.pop(f"{held}.0", None)) is not None:
                os.close(lent)
            with suppress(KeeperError, KeeperGone):
                await self._keeper.release(held)

    async def _listener(self, name: str) -> dict[str, int]:
        """A descriptor of the keeper's, by that name; none if there is none, or nobody to ask."""
        if name not in self._lent:
            with suppress(KeeperError, KeeperGone):
                self._lent[name] = await self._keeper.fetch(name)
        return {name: self._lent[name]} if name in self._lent else {}
