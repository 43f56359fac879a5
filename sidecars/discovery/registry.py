"""The host's registry: one small file an instance, `<runtime>/registry/<service>/<id>.json`; how services on one host
find each other without a server.

Rules:
- Whoever runs an instance writes its file (temporary file, then rename: a reader sees the old one or the new one) each
  third of the TTL, and removes it on a clean stop. Only its owner writes it; anybody may delete it when long dead.
- A change of the file is the heartbeat, timed by the *reader's* monotonic clock: wall clocks jump. Only the first
  sight of a file compares its mtime with the file system's own now, so that corpses are not announced.
- A file that vanished was removed deliberately if its instance was UP no more: whoever leaves says DRAINING first, and
  gives the others the time of a look to read it (`SHOWN_SECONDS`). Any other file was wiped, also if some are left or
  written anew: its instance is doubted, not dropped.
- Who was not UP and does not renew for twice its TTL has left (`announcer.py`: a sidecar that ends alone): whoever sees
  its file buries it.
- A look at folders in which nothing has changed does not read them (`stillness.py`).
- A look that did not see everything (no descriptor left, too many files) ends nobody.
- Files of other users, links, torn or oversized files, and names that do not match are ignored and counted.
- The epoch of an instance grows across restarts (`epochs.py`); a file never gives way to an older one.

Refused: a lock or an index file (one crash blocks everybody), inotify (a limit a user that others use up).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from pannier.shared.detours import is_detour
from pannier.shared.errors import Blame, PannierError
from pannier.shared.instances import (
    INSTANCE_PATTERN,
    SERVICE_PATTERN,
    InstanceId,
    Key,
    ServiceName,
    State,
    check_address,
)
from pannier.shared.leases import Registration
from pannier.shared.profile import Address, Metadata
from pannier.shared.runtime import private_dir
from pannier.sidecars.discovery.files import read_own, replace
from pannier.sidecars.discovery.stillness import Marks

FILES_LIMIT = 4096
DEAD_SECONDS = 600.0
SHOWN_SECONDS = 0.7
"""How long the state of an instance stands before its file may go: longer than readers take from look to look."""
TTL_MAX_MS = 3_600_000
_CLOCK_TOLERANCE_SECONDS = 2.0
_SUFFIX = ".json"
_SERVICE = re.compile(SERVICE_PATTERN)
_INSTANCE = re.compile(INSTANCE_PATTERN)


class Record(msgspec.Struct, frozen=True):
    """The content of one file."""

    service: ServiceName
    id: InstanceId
    address: Address
    epoch: int
    state: State
    ttl_ms: int
    metadata: Metadata = {}

    def __post_init__(self) -> None:
        if not (0 < self.epoch < 1 << 63 and 0 < self.ttl_ms <= TTL_MAX_MS):
            raise ValueError("epoch or ttl_ms out of range")
        check_address(self.address)

    @property
    def is_brief(self) -> bool:
        """Whether nobody misses it: it said that it leaves, or it is a detour."""
        return self.state is not State.UP or is_detour(self.metadata)

    def registration(self) -> Registration:
        return Registration(
            self.service,
            self.id,
            self.address,
            self.epoch,
            self.ttl_ms / 1000,
            self.state,
            self.metadata,
            "registry",
        )


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look brought: instances that beat, instances that were removed, instances whose files were wiped."""

    beats: tuple[Registration, ...] = ()
    removed: tuple[tuple[Key, int], ...] = ()
    wiped: tuple[Key, ...] = ()

    def __add__(self, other: Scan) -> Scan:
        return Scan(self.beats + other.beats, self.removed + other.removed, self.wiped + other.wiped)


@dataclass(slots=True)
class _Seen:
    """A file as of its last change. `record` is None for one that is ignored."""

    stamp: tuple[int, int, int]
    since: float
    record: Record | None


class Registry:
    """The registry below `root`, as one process sees it. Every method works at once (a few small files)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[Key, _Seen] = {}
        self._complete = True
        self._marks = Marks()
        self.ignored = 0

    def scan(self, now: float) -> Scan:
        """Looks at every file; `now` is monotonic. Raises PannierError if the folder cannot be trusted or read."""
        if self._marks.hold() and not any(_is_dead(seen, now) for seen in self._seen.values()):
            return Scan()
        private_dir(self._root)
        self._complete = True
        self._marks = Marks()
        found: set[Key] = set()
        beats: list[Registration] = []
        filesystem_now: float | None = None
        for key, entry in self._entries():
            found.add(key)
            try:
                stamp = _stamp(entry.stat(follow_symlinks=False))
            except OSError:
                self._marks.spoil()
                continue
            seen = self._seen.get(key)
            if seen is not None and seen.stamp == stamp:
                if _is_dead(seen, now):
                    self._bury(key)
                continue
            try:
                record = self._load(key, Path(entry.path))
            except OSError:
                self._marks.spoil()
                continue
            self._seen[key] = _Seen(stamp, now, record)
            if record is None:
                continue
            if seen is None:
                filesystem_now = self._filesystem_now() if filesystem_now is None else filesystem_now
                age = filesystem_now - stamp[2] / 1e9
                if abs(age) > record.ttl_ms / 1000 + _CLOCK_TOLERANCE_SECONDS:
                    continue
            beats.append(record.registration())
        if self._complete:
            return self._missing(found, beats)
        self._marks.spoil()
        return Scan(tuple(beats))

    def has_others(self, key: Key) -> bool:
        """Whether the last look saw instances besides `key`, whose owners may want to know about it."""
        return any(other != key and seen.record is not None for other, seen in self._seen.items())

    def write(self, record: Record) -> None:
        """Writes the file of an instance of ours. Raises PannierError if that is not possible."""
        folder = self._root / record.service
        private_dir(self._root)
        private_dir(folder)
        path, data = folder / (record.id + _SUFFIX), msgspec.json.encode(record) + b"\n"
        try:
            try:
                replace(path, data)
            except FileNotFoundError:  # the last other instance left meanwhile, and took the folder away
                private_dir(self._root)
                private_dir(folder)
                replace(path, data)
        except OSError as error:
            raise unusable(folder, error) from error

    def last_epoch(self, key: Key) -> int:
        """The epoch in the file of an instance; 0 if there is none. Raises PannierError if it cannot be read."""
        try:
            record = self._load(key, self._root / key[0] / (key[1] + _SUFFIX))
        except OSError as error:
            raise unusable(self._root / key[0], error) from error
        return record.epoch if record else 0

    def remove(self, key: Key, epoch: int) -> None:
        """Removes the file of an instance of ours, unless a newer incarnation has written it since; and its folders, if
        nobody else is in them."""
        path = self._root / key[0] / (key[1] + _SUFFIX)
        with contextlib.suppress(OSError):
            record = self._load(key, path)
            if record is None or record.epoch <= epoch:
                path.unlink()
                path.parent.rmdir()
                self._root.rmdir()

    def _entries(self) -> Iterator[tuple[Key, os.DirEntry[str]]]:
        left = FILES_LIMIT
        self._marks.take(self._root)
        try:
            services = sorted(os.scandir(self._root), key=lambda entry: entry.name)
        except OSError as error:
            raise unusable(self._root, error) from error
        for service in services:
            if not (_SERVICE.match(service.name) and service.is_dir(follow_symlinks=False)):
                continue
            self._marks.take(service.path)
            try:
                files = list(os.scandir(service.path))
            except FileNotFoundError:
                continue
            except OSError:
                self._complete = False
                continue
            for file in files:
                name = file.name.removesuffix(_SUFFIX)
                if file.name.endswith(_SUFFIX) and _INSTANCE.match(name):
                    if left == 0:
                        self._complete = False
                        return
                    left -= 1
                    yield (service.name, name), file

    def _missing(self, found: set[Key], beats: list[Registration]) -> Scan:
        removed: list[tuple[Key, int]] = []
        wiped: list[Key] = []
        for key in [key for key in self._seen if key not in found]:
            record = self._seen.pop(key).record
            if record is None:
                continue
            if record.is_brief:
                removed.append((key, record.epoch))
            else:
                wiped.append(key)
        return Scan(tuple(beats), tuple(removed), tuple(wiped))

    def _load(self, key: Key, path: Path) -> Record | None:
        """The record in a file; None if there is none or it is foreign. Raises OSError where another try may help."""
        try:
            record = msgspec.json.decode(read_own(path), type=Record)
        except FileNotFoundError:
            return None
        except ValueError:
            self.ignored += 1
            return None
        if (record.service, record.id) != key:
            self.ignored += 1
            return None
        return record

    def _bury(self, key: Key) -> None:
        with contextlib.suppress(OSError):
            (self._root / key[0] / (key[1] + _SUFFIX)).unlink()

    def _filesystem_now(self) -> float:
        """The clock that stamps files here, in seconds since the epoch."""
        probe = self._root / f".now-{os.getpid()}"
        try:
            replace(probe, b"")
            return probe.stat().st_mtime
        except OSError:
            return self._root.stat().st_mtime
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def _is_dead(seen: _Seen, now: float) -> bool:
    """Whether the file has not changed for so long that it is to be buried."""
    record = seen.record
    patience = 2 * record.ttl_ms / 1000 if record is not None and record.is_brief else DEAD_SECONDS
    return now - seen.since > patience


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def unusable(folder: Path, error: OSError) -> PannierError:
    return PannierError(
        f"cannot use the registry {folder}: {error.strerror}",
        hint="other services on this host cannot find this one until that is repaired; trying again",
        blame=Blame.PLATFORM,
    )
