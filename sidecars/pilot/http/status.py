"""What a pilot says of itself: `GET /v1/status`, and what `/metrics` is made of.

A part of the pilot (streams, xDS, bridges ...) is shown by its name and what its `statistics()` say, whatever that is:
it only has to be put into `Account.parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.peers import Peer, Peers
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.registry.tally import ASKED, Action

Statistics: TypeAlias = Callable[[], object]


class Status(msgspec.Struct, frozen=True):
    """`preserving`: nobody is given up, because too many renewals are missed at once. `trouble` is what the store said
    last, empty if it is well. `detours` are instances by way of a Central, which count in nothing else. `lag_s`:
    seconds for which an own write waits to be told to others. `requests` are by what was asked and what came of it.
    `parts` are the statistics of the parts, by name.
    """

    revision: int
    services: int
    instances: int
    preserving: bool
    trouble: str
    store: str = ""
    states: Mapping[State, int] = {}
    suspects: int = 0
    detours: int = 0
    requests: Mapping[str, Mapping[str, int]] = {}
    evicted: int = 0
    taken_over: int = 0
    restored: int = 0
    lag_s: float = 0.0
    watches: int = 0
    blind: bool = False
    peers: Sequence[Peer] = ()
    parts: Mapping[str, Any] = {}


class Account:
    """Where a status is put together from. `store` is the name that people know the store by, `watches` how many wait
    at `/v1/watch` now."""

    def __init__(self, registry: Registry, *, store: str = "", peers: Peers | None = None) -> None:
        self.registry = registry
        self.store = store
        self.peers = peers
        self.watches = 0
        self.parts: dict[str, Statistics] = {}

    def status(self) -> Status:
        """All of it, as of now."""
        registry, view, tally = self.registry, self.registry.view, self.registry.tally
        requests: dict[str, dict[str, int]] = {}
        for (action, came), count in sorted(tally.decisions.items()):
            if action in ASKED:
                requests.setdefault(action, {})[came] = count
        return Status(
            view.revision,
            len(view.services()),
            len(view) - view.detours,
            registry.preserving,
            registry.trouble,
            store=self.store,
            states=view.states(),
            suspects=registry.suspects,
            detours=view.detours,
            requests=requests,
            evicted=tally.accepted(Action.GIVE_UP),
            taken_over=tally.accepted(Action.TAKE_OVER),
            restored=tally.accepted(Action.RESTORE),
            lag_s=registry.lag,
            watches=self.watches,
            blind=self.peers is not None and self.peers.blind,
            peers=[] if self.peers is None else self.peers.statistics(),
            parts={name: statistics() for name, statistics in self.parts.items()},
        )
