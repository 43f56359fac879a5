"""What this sidecar has of the data path: the table that it writes, and what it reads about endpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from pannier.shared.errors import Blame, PannierError
from pannier.sidecars.traffic.canary import Counts
from pannier.sidecars.traffic.endpoints import Clusters, clusters
from pannier.sidecars.traffic.native import Counters, TableReader, TableWriter
from pannier.sidecars.traffic.table import KIND
from pannier.sidecars.traffic.tally import Place

TABLE = f"table.{KIND}"
_log = logging.getLogger("pannier.traffic")


class Routes:
    """The one writer of the table `routes`."""

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self._published = b""
        self._fenced: Fenced | None = None

    def publish(self, payload: bytes) -> None:
        """Puts the table in force; one that is in force already is not published again.

        Raises PannierError if it is refused; then the last one stays. Raises Fenced if a newer writer took over.
        """
        if payload == self._published:
            return
        try:
            self._writer.publish(payload)
        except ValueError as error:
            raise PannierError(
                f"the table of routes is refused: {error}",
                hint="what was in force stays; correct sidecars.traffic: pannier profile validate FILE",
                blame=Blame.CONFIG,
            ) from error
        except OSError as error:
            raise PannierError(
                f"the table of routes cannot be published: {error}",
                hint="what was in force stays; see how much memory is left: pannier check",
                blame=Blame.PLATFORM,
            ) from error
        except RuntimeError as error:
            self._fenced = Fenced(
                f"another traffic writes the table of routes: {error}",
                hint="only one may run beside a service; `pannier ps` lists it",
                blame=Blame.PLATFORM,
            )
            raise self._fenced from error
        self._published = payload

    def heartbeat(self) -> None:
        """Says in the table that its writer lives. Raises Fenced if `publish` once did, whoever was told then."""
        if self._fenced is not None:
            raise self._fenced
        self._writer.heartbeat()


class Fenced(PannierError):
    """A newer process writes the table: this one has nothing to do any more."""


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
