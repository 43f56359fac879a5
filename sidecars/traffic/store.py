"""What survives of the canaries: one file a service, in the state directory, replaced whole.

A sidecar that is restarted goes on with the step in force, and does not start what was aborted. What a file says holds
only for the shift that it names, so a file of an earlier run changes nothing. One that is torn or somebody else's is
worth no more than none, and said. No fsync: a canary after a crash of the host may begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from pannier.shared.errors import Blame, PannierError
from pannier.sidecars.traffic.watch import Kept

LIMIT = 1 << 22


class _File(msgspec.Struct, frozen=True):
    service: str
    canaries: dict[str, Kept]


class Store:
    """The file of the service `service` in `folder`, which is made when there is something to keep."""

    def __init__(self, folder: Path, service: str) -> None:
        self._path = folder / f"{service}.json"
        self._service = service

    def load(self) -> dict[str, Kept]:
        """What was kept, by the service called. Raises PannierError if there is something that cannot be used."""
        try:
            with self._path.open("rb") as file:
                data = file.read(LIMIT + 1)
            found = msgspec.json.decode(data, type=_File)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise self._unusable(str(error)) from error
        if found.service != self._service:
            raise self._unusable(f"it is of the service {found.service[:80]!r}")
        return found.canaries

    def save(self, canaries: Mapping[str, Kept]) -> None:
        """Keeps these and no others. Raises PannierError if they cannot be written."""
        try:
            if not canaries:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            draft = self._path.with_suffix(".new")
            draft.write_bytes(msgspec.json.encode(_File(self._service, dict(canaries))))
            draft.replace(self._path)
        except OSError as error:
            raise PannierError(
                f"cannot keep the canaries in {self._path}: {error.strerror}",
                hint="a restart of traffic would not know them; check the space and the rights of that folder",
                blame=Blame.PLATFORM,
            ) from error

    def _unusable(self, reason: str) -> PannierError:
        return PannierError(
            f"the canaries in {self._path} cannot be used: {reason}",
            hint="shifts under way begin anew",
            blame=Blame.PLATFORM,
        )
