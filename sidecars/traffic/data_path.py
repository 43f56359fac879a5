"""What this sidecar has of the data path: the table that it writes, and what it reads about endpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from pannier.sidecars.traffic.canary import Counts
from pannier.sidecars.traffic.endpoints import Clusters, clusters
from pannier.sidecars.traffic.native import Counters, TableReader
from pannier.sidecars.traffic.table import KIND
from pannier.sidecars.traffic.tally import Place

TABLE = f"table.{KIND}"
_log = logging.getLogger("pannier.traffic")


class Surroundings:
    """Who can be called, and how the calls went. A table that is not granted is an absent one."""

    def __init__(self, endpoints: TableReader | None, base: TableReader | None, counters: Counters | None) -> None:
        self._tables = (endpoints, base)
        self._counters = counters
        self._generations: tuple[int, ...] | None = None
        self._clusters: Clusters = {}

    def clusters(self) -> Clusters:
        """The endpoints of each service; those last known while a table cannot be read."""
        generations = tuple(table.generation() if table else 0 for table in self._tables)
        if generations != self._generations:
            try:
                self._clusters = clusters(*(table.read() if table else None for table in self._tables))
            except (RuntimeError, ValueError) as error:
                _log.warning("the endpoints are those last known: %s", error)
            self._generations = generations
        return self._clusters

    def counted(self, places: Iterable[Place]) -> Mapping[Place, Counts]:
        """The counters of these places."""
        asked = list(places)
        if self._counters is None or not asked:
            return {}
        found = self._counters.endpoints(asked)
        return {place: Counts(one.calls, one.failures) for place, one in zip(asked, found, strict=True)}
