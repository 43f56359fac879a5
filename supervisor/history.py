"""What a service was governed by, revision by revision, in `<state>/history/NAME/`.

Rules:
- The name of a content is the hash of what was said (profile, all layers below the live one, the live one), so the same
  content has the same name whenever it comes back, and a file that does not hash to its name is damaged.
- An entry says when a content was put in force, by what, and what became of it. Entries are small files of their own,
  replaced whole; one that cannot be read is left out and named, and hides no other.
- The newest `MOST` entries are kept, and the contents that they name.
- No fsync, for which the supervisor would stand still: a host that loses power may lose the last entries, and says so.

Refused: one file for all (a torn write would cost the whole history); `<state>/NAME/` (a service may be called `live`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta
from pannier.shared.errors import Blame, PannierError, UsageError
from pannier.shared.explain import near_match, printable
from pannier.shared.messages import Revision
from pannier.shared.runtime import check_name, private_dir, state_dir
from pannier.supervisor.plan import Arguments

MOST: Final = 50
"""Entries of a service."""
_ID: Final = 10  # hex digits of a content's name
_SUMMARY: Final = 240  # characters
_CONTENT: Final = ".content"
_ENTRY: Final = ".entry"

State: TypeAlias = Literal["in force", "pending", "taken back"]
"""What became of an entry; that another one has replaced it is seen from where it stands."""
IN_FORCE: Final = "in force"
PENDING: Final = "pending"
TAKEN_BACK: Final = "taken back"
REPLACED: Final = "replaced"


class Content(msgspec.Struct, frozen=True):
    """What was said: `below` is what all layers under the live one come to."""

    profile: str
    below: dict[str, Any]
    live: dict[str, Any]


class Entry(msgspec.Struct, frozen=True):
    """One time that content `id` was put in force. `source` is the path of a profile that was named by one,
    `assignments` are the `--set` options among its layers."""

    number: Annotated[int, Meta(ge=1)]
    id: Annotated[str, Meta(pattern=f"^[0-9a-f]{{{_ID}}}$")]
    at_ms: int
    by: str
    summary: str
    profile: str
    state: State = IN_FORCE
    source: str | None = None
    assignments: tuple[str, ...] = ()

    def arguments(self, now: Arguments) -> Arguments:
        """Those of the service as it is, with what was said then."""
        return msgspec.structs.replace(now, profile=self.profile, source=self.source, assignments=self.assignments)


def identify(content: Content) -> str:
    """The name of a content; the order in which things were said is no part of it."""
    return hashlib.sha256(_canonical(content)).hexdigest()[:_ID]


def summary(lines: Sequence[str]) -> str:
    """The lines of a change in one line."""
    more = f" (+{len(lines) - 2})" if len(lines) > 2 else ""
    return printable("; ".join(lines[:2]), _SUMMARY - len(more)) + more


class History:
    """The entries of one service, oldest first. One supervisor writes; anybody of the same user may read.

    `problems` says which files were left out and why. Raises PannierError if the folder cannot be used.
    """

    def __init__(self, service: str) -> None:
        self._folder = state_dir() / "history" / check_name(service)
        self.problems: list[str] = []
        paths = sorted(self._folder.glob(f"*{_ENTRY}"))
        self.entries = [entry for path in paths if (entry := self._read(path)) is not None]
        self._last = max((int(path.stem) for path in paths if path.stem.isdecimal()), default=0)

    @property
    def newest(self) -> Entry | None:
        """The entry whose content holds."""
        return next((entry for entry in reversed(self.entries) if entry.state != TAKEN_BACK), None)

    def revisions(self) -> list[Revision]:
        """The entries as they are shown: of all that stood, only the newest is in force."""
        newest = self.newest
        return [
            Revision(
                each.number,
                each.id,
                each.at_ms,
                each.by,
                each.summary,
                each.profile,
                REPLACED if each is not newest and each.state != TAKEN_BACK else each.state,
            )
            for each in self.entries
        ]

    def find(self, text: str) -> Entry:
        """The entry with that number, else the newest whose content has a name that begins so (4 digits and more).
        Raises UsageError."""
        for entry in self.entries:
            if text == str(entry.number):
                return entry
        if len(text) >= 4:
            for entry in reversed(self.entries):
                if entry.id.startswith(text.lower()):
                    return entry
        near = near_match(text, [entry.id for entry in self.entries])
        raise UsageError(
            f"there is no revision {text[:40]!r}",
            hint=f"did you mean {near}?" if near else "pannier config history lists them",
        )

    def content(self, entry: Entry) -> Content:
        """What was said then. Raises PannierError if that is gone or damaged."""
        path = self._content_path(entry.id)
        try:
            content = msgspec.json.decode(path.read_bytes(), type=Content)
        except (OSError, msgspec.MsgspecError) as error:
            raise _damaged(entry, path, str(error)) from error
        if identify(content) != entry.id:
            raise _damaged(entry, path, "its content is not what its name says")
        return content

    def add(
        self,
        content: Content,
        said_at: tuple[str | None, tuple[str, ...]] = (None, ()),
        *,
        at_ms: int,
        by: str,
        lines: Sequence[str],
        state: State = IN_FORCE,
    ) -> Entry:
        """Notes that `content` is in force now; `said_at` are its `source` and `assignments`. Raises PannierError if it
        cannot be written."""
        self._last += 1
        entry = Entry(
            self._last,
            identify(content),
            at_ms,
            printable(by, _SUMMARY),
            summary(lines),
            content.profile,
            state,
            *said_at,
        )
        self.entries = [*self.entries, entry][-MOST:]  # it holds, whether that can be written or not
        path = self._content_path(entry.id)
        try:
            private_dir(self._folder.parent)
            private_dir(self._folder)
            if not self._holds(path, entry.id):
                _replace(path, _canonical(content))
            self._write(entry)
            self._forget_oldest()
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        return entry

    def mark(self, number: int, state: State) -> None:
        """Notes what became of an entry; one that is not kept any more is no loss."""
        for place, entry in enumerate(self.entries):
            if entry.number == number and entry.state != state:
                self.entries[place] = msgspec.structs.replace(entry, state=state)
                try:
                    self._write(self.entries[place])
                except OSError as error:
                    raise _unwritable(self._folder, error) from error

    def pending(self) -> Entry | None:
        """The entry that waits to be confirmed."""
        newest = self.newest
        return newest if newest is not None and newest.state == PENDING else None

    def _read(self, path: Path) -> Entry | None:
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            if path.name != _entry_name(entry.number):
                raise ValueError(f"it is about revision {entry.number}")
        except (OSError, ValueError) as error:
            self.problems.append(f"{path} is left out: {error}")
            return None
        return entry

    def _holds(self, path: Path, name: str) -> bool:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:_ID] == name
        except OSError:
            return False

    def _write(self, entry: Entry) -> None:
        _replace(self._folder / _entry_name(entry.number), msgspec.json.format(msgspec.json.encode(entry), indent=1))

    def _content_path(self, name: str) -> Path:
        return self._folder / f"{name}{_CONTENT}"

    def _forget_oldest(self) -> None:
        """Clears away what is too old, what cannot be read among it, and the contents that nobody names any more."""
        keep = {_entry_name(entry.number) for entry in self.entries}
        keep |= {self._content_path(entry.id).name for entry in self.entries}
        oldest = _entry_name(self.entries[0].number)
        for path in self._folder.iterdir():
            young = path.suffix == _ENTRY and path.name > oldest  # unreadable, and the operator has not seen it yet
            if path.name not in keep and not young:
                path.unlink(missing_ok=True)


def _canonical(content: Content) -> bytes:
    return msgspec.json.encode(content, order="sorted")


def _entry_name(number: int) -> str:
    return f"{number:08d}{_ENTRY}"


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all; for our eyes alone, since settings may hold secrets."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(data)
    draft.replace(path)


def _damaged(entry: Entry, path: Path, why: str) -> PannierError:
    return PannierError(
        f"what revision {entry.number} said cannot be read: {path}: {why}",
        hint="choose another one: pannier config history",
        blame=Blame.PLATFORM,
    )


def _unwritable(folder: Path, error: OSError) -> PannierError:
    return PannierError(
        f"the history in {folder} cannot be written: {error.strerror}",
        hint="the change holds; check the space and the rights of that folder",
        blame=Blame.PLATFORM,
    )
