"""What discoveries of this host vouch for, for those beside them: one file each, `<registry>/.vouched/<name>.json`.

A Central has two thousand instances by way of it, each of which may change four times a second. A file each, as in
`registry.py`, would be rewritten a thousand times a second, and read as often by every other discovery; one file is
written as often as its owner likes. Else the rules are the same:

- Its owner writes it (temporary file, then rename) when something changes and each third of the TTL, which is the
  heartbeat of all in it, timed by the reader's clock; at first sight a file that is older than that is not believed.
- Who is not in it any more was removed, if he is a detour or said DRAINING before; else he is doubted. So is who was in
  a file that has vanished.
- Files of other users, links, torn or oversized files are ignored.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from pannier.shared.instances import Key
from pannier.shared.leases import Registration
from pannier.shared.runtime import private_dir
from pannier.sidecars.discovery.files import read_own, replace
from pannier.sidecars.discovery.registry import Record, Scan, unusable

FOLDER: Final = ".vouched"
SIZE_LIMIT: Final = 4 * 1024 * 1024
FILES_LIMIT: Final = 64
DEAD_SECONDS: Final = 600.0
_SUFFIX: Final = ".json"
_CLOCK_TOLERANCE_SECONDS: Final = 2.0
_DECODER: Final = msgspec.json.Decoder(tuple[Record, ...])


@dataclass(slots=True)
class _Seen:
    """A file as of its last change."""

    stamp: tuple[int, int, int]
    since: float
    records: Mapping[Key, Record]


class VouchedFiles:
    """All of them below `root`, as one process sees it; `name` is that of its own. Every method works at once."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._folder = root / FOLDER
        self._own = name + _SUFFIX
        self._seen: dict[str, _Seen] = {}

    def write(self, records: Sequence[Record]) -> None:
        """Writes the own file, or removes it if there is nothing to say. Raises PannierError if it cannot be."""
        path = self._folder / self._own
        if not records:
            with contextlib.suppress(OSError):
                path.unlink()
                self._folder.rmdir()
                self._root.rmdir()
            return
        private_dir(self._root)
        private_dir(self._folder)
        try:
            replace(path, msgspec.json.encode(records))
        except OSError as error:
            raise unusable(self._folder, error) from error

    def last_epoch(self) -> int:
        """The greatest in the own file, which an older life may have left; 0 if there is none."""
        records = _load(self._folder / self._own) or {}
        return max((record.epoch for record in records.values()), default=0)

    def scan(self, now: float) -> Scan:
        """Looks at the files of others; `now` is monotonic. Raises PannierError if they cannot be looked at."""
        beats: list[Registration] = []
        ended: list[Record] = []
        try:
            entries = {entry.name: entry for entry in os.scandir(self._folder) if self._is_others(entry.name)}
        except FileNotFoundError:
            entries = {}
        except OSError as error:
            raise unusable(self._folder, error) from error
        for name in [name for name in self._seen if name not in entries]:
            ended += self._seen.pop(name).records.values()
        for name in sorted(entries)[:FILES_LIMIT]:
            try:
                found = entries[name].stat(follow_symlinks=False)
            except OSError:
                continue
            stamp, seen = (found.st_ino, found.st_size, found.st_mtime_ns), self._seen.get(name)
            if seen is not None and seen.stamp == stamp:
                if now - seen.since > DEAD_SECONDS:
                    with contextlib.suppress(OSError):
                        os.unlink(entries[name].path)
                continue
            records = _load(Path(entries[name].path))
            if records is None:
                continue
            self._seen[name] = _Seen(stamp, now, records)
            if seen is not None:
                ended += [record for key, record in seen.records.items() if key not in records]
                beats += [record.registration() for record in records.values()]
            else:
                age = time.time() - found.st_mtime
                beats += [one.registration() for one in records.values() if _is_fresh(one, age)]
        return _scan(beats, ended)

    def _is_others(self, name: str) -> bool:
        return name != self._own and name.endswith(_SUFFIX) and not name.startswith(".")


def _load(path: Path) -> Mapping[Key, Record] | None:
    """What is in a file; None if that is not to be believed."""
    try:
        records = _DECODER.decode(read_own(path, limit=SIZE_LIMIT))
    except (OSError, ValueError):
        return None
    return {(record.service, record.id): record for record in records}


def _is_fresh(record: Record, age: float) -> bool:
    return abs(age) <= record.ttl_ms / 1000 + _CLOCK_TOLERANCE_SECONDS


def _scan(beats: Sequence[Registration], ended: Iterable[Record]) -> Scan:
    removed: list[tuple[Key, int]] = []
    wiped: list[Key] = []
    for record in ended:
        key = (record.service, record.id)
        if record.is_brief:
            removed.append((key, record.epoch))
        else:
            wiped.append(key)
    return Scan(tuple(beats), tuple(removed), tuple(wiped))
