"""A table of the data path as the sidecar sees it that writes it: published when it differs, kept when it is refused.

Refused: publishing on a timer, since a reader would have to compile what it has; withdrawing at the end, since a
restart must not switch the capability off and on (when a sidecar is removed for good, the supervisor publishes the
absence).
"""

from __future__ import annotations

from typing import Protocol

from pannier.shared.errors import Blame, PannierError


class TableWriter(Protocol):
    """As `pannier._native.TableWriter`."""

    def publish(self, payload: bytes) -> int: ...

    def heartbeat(self) -> None: ...


class Fenced(PannierError):
    """A newer process writes the table: this one has nothing to do any more."""


class Publication:
    """What `sidecar` has in force in the table `kind`, of which it is the one writer.

    `fenced` is set once a newer writer has taken over.
    """

    def __init__(self, writer: TableWriter, *, sidecar: str, kind: str) -> None:
        self.fenced: Fenced | None = None
        self._writer = writer
        self._sidecar = sidecar
        self._kind = kind
        self._published = b""

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
                f"the table of {self._kind} is refused: {error}",
                hint=f"what was in force stays; correct sidecars.{self._sidecar}: pannier profile validate FILE",
                blame=Blame.CONFIG,
            ) from error
        except OSError as error:
            raise PannierError(
                f"the table of {self._kind} cannot be published: {error}",
                hint="what was in force stays; see how much memory is left: pannier check",
                blame=Blame.PLATFORM,
            ) from error
        except RuntimeError as error:
            self.fenced = Fenced(
                f"another {self._sidecar} writes the table of {self._kind}: {error}",
                hint="only one may run beside a service; `pannier ps` lists it",
                blame=Blame.PLATFORM,
            )
            raise self.fenced from error
        self._published = payload

    def heartbeat(self) -> None:
        """Says in the table that its writer lives. Raises Fenced if `publish` once did, whoever was told then."""
        if self.fenced is not None:
            raise self.fenced
        self._writer.heartbeat()
