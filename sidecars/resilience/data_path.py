"""What this sidecar has of the data path: the table that it writes, and what it reads of endpoints and limits in
use."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from pannier import _native
from pannier.shared.errors import Blame, PannierError
from pannier.shared.tables import Publication, TableWriter
from pannier.sidecars.resilience.circuit_slots import read_back
from pannier.sidecars.resilience.inventory import Inventory, Place, inventory
from pannier.sidecars.resilience.native import Counters, Gauge, HotWords, TableReader
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.table import KIND

TABLE = f"table.{KIND}"
_log = logging.getLogger("pannier.resilience")


class Limits(Publication):
    """The one writer of the table `limits`. `before` are the places of service breakers in the table that it found."""

    def __init__(self, reader: TableReader, writer: TableWriter) -> None:
        super().__init__(writer, sidecar="resilience", kind=KIND)
        try:
            self.before = read_back(reader.read())
        except RuntimeError as error:
            _log.warning("the last table of limits cannot be read: %s", error)
            self.before = {}


class Surroundings:
    """Who can be called, how the calls went, and who is out. A table that is not granted is an absent one."""

    def __init__(
        self, endpoints: TableReader | None, base: TableReader | None, counters: Counters, hot: HotWords
    ) -> None:
        self._tables = (endpoints, base)
        self._counters = counters
        self._generations: tuple[int, ...] | None = None
        self._members: Inventory = {}
        self._begun = 0
        self.hot = hot

    def members(self) -> Inventory:
        """The endpoints of each service, the same object while nothing has changed; those last known while a table
        cannot be read."""
        generations = tuple(table.generation() if table else 0 for table in self._tables)
        if generations != self._generations:
            try:
                self._members = inventory(*(table.read() if table else None for table in self._tables))
            except (RuntimeError, ValueError) as error:
                _log.warning("the endpoints are those last known: %s", error)
            self._generations = generations
        return self._members

    def counted(self, places: Sequence[Place]) -> dict[Place, Counts]:
        """What was counted of each place."""
        found = self._counters.endpoints(list(places))
        return {
            place: Counts(one.calls, one.failures, one.refused, one.slow)
            for place, one in zip(places, found, strict=True)
        }

    def called(self) -> bool:
        """Whether calls have begun since this was asked last, counted by endpoint or not."""
        totals = self._counters.totals()
        before, self._begun = self._begun, totals["pool_reused"] + totals["connects"]
        return self._begun != before

    def gauges(self) -> Iterable[Gauge]:
        """What is in use of the limits."""
        return self._counters.gauges()


def open_data_path(fds: Mapping[str, int]) -> tuple[Limits, Surroundings]:
    """Opens what the supervisor granted; raises PannierError if that is not enough."""
    missing = [name for name in (TABLE, "hot", "counters") if name not in fds]
    if missing:
        raise PannierError(
            f"the supervisor granted no {', '.join(missing)}",
            hint="restart the service with `pannier run`",
            blame=Blame.INTERNAL,
        )
    limits = Limits(_native.TableReader(KIND, fds[TABLE]), _native.TableWriter(KIND, fds[TABLE]))
    endpoints, base = (
        _native.TableReader(kind, fds[f"table.{kind}"]) if f"table.{kind}" in fds else None
        for kind in ("endpoints", "base")
    )
    return limits, Surroundings(endpoints, base, _native.Counters(fds["counters"]), _native.HotWords(fds["hot"]))
