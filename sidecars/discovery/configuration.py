"""The configuration of the service that runs beside this sidecar, as a pilot has it: handed to the app in a file and on
`api.sock`, and kept on the disk for a start while no pilot answers.

Rules:
- Only a later version counts, or one that was made later: a pilot that has lost its store counts from 1 again. Pilots
  give a later version a later time whatever their clocks say, so who lags behind tells what is earlier in both.
- The file is replaced as a whole: who reads it finds one version, never parts of two.
- A configuration that was deleted is one without values. Where there never was one, there is no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio
from pannier.shared.instances import STAGE_PATTERN
from pannier.shared.pilot_stream import Configuration as Told
from pannier.shared.pilot_stream import FollowConfiguration
from pannier.sidecars.discovery.files import read_own, replace
from pannier.sidecars.discovery.voice import Voice

SIZE_LIMIT = 256 * 1024


class Held(msgspec.Struct, frozen=True):
    """The version in force, made at `when` (s since the epoch of the clock). Version 0: there is none."""

    version: int = 0
    when: float = 0.0
    values: Mapping[str, str] = {}


class Configuration:
    """That of a service on a stage. `file` is what the app reads, `kept` what is found after a restart of the host."""

    def __init__(self, stage: str, service: str, *, file: Path, kept: Path, voice: Voice) -> None:
        self.held = Held()
        self._stage = stage
        self._service = service
        self._file = file
        self._kept = kept
        self._voice = voice
        self._news = trio.Event()

    def recall(self) -> None:
        """Takes what was in force last, and hands it to the app."""
        try:
            self.held = msgspec.json.decode(read_own(self._kept, limit=SIZE_LIMIT), type=Held)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            self._voice.say("configuration", f"{self._kept} is ignored: {error}")
            return
        self._hand_over()

    def asked(self) -> FollowConfiguration | None:
        """What to ask a pilot for; None where the stage has a name that no pilot knows."""
        if re.match(STAGE_PATTERN, self._stage) is None:
            said = f"no pilot has a configuration for a stage called {self._stage[:80]!r}"
            self._voice.say("configuration.stage", f"{said}: use up to 63 of a-z, 0-9, '-', '.' and '_'")
            return None
        return FollowConfiguration(self._stage, self._service, self.held.version)

    def take(self, told: Told) -> None:
        """What a pilot says."""
        if told.version == 0 or (told.version <= self.held.version and told.when <= self.held.when):
            return
        self.held = Held(told.version, told.when, told.values or {})
        self._hand_over()
        try:
            self._kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self._kept, msgspec.json.encode(self.held))
        except OSError as error:
            self._voice.say("configuration", f"the configuration cannot be kept in {self._kept}: {error.strerror}")
        self._news.set()
        self._news = trio.Event()

    async def changed(self, after: int, *, wait: float) -> Held:
        """The version in force once it is another one than `after`, or as it is after `wait` seconds."""
        with trio.move_on_after(wait):
            while self.held.version == after:
                await self._news.wait()
        return self.held

    def _hand_over(self) -> None:
        try:
            replace(self._file, msgspec.json.encode(self.held) + b"\n")
        except OSError as error:
            self._voice.say("configuration.file", f"the app's {self._file} cannot be written: {error.strerror}")
        else:
            self._voice.settled("configuration.file", f"{self._file} can be written again")
