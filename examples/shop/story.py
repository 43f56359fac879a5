"""What happens on a stage while the load runs: the operator's command is given, and what the sidecars say is kept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import client
import ledger
import trio
from ledger import Entry
from mesh import say_to_pannier
from pannier.shared.messages import Happening
from stages import CLEAN_SECONDS, COMMAND, DONE, Evidence, Moment, Stage

COUNT_SECONDS = 1.0


class Story:
    """The moments of one run, from `begin` on."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.moments: list[Moment] = []
        self.counted = 0
        self._begun: float | None = None

    def begin(self) -> None:
        self._begun = trio.current_time()

    def heed(self, service: str, happening: Happening) -> None:
        self._take(service, happening.kind, happening.message)

    async def play(self, urls: Mapping[str, Mapping[str, str]]) -> None:
        """Gives the stage's command when it is time, and reads its counter, until cancelled."""
        if self.stage.command:
            await trio.sleep(CLEAN_SECONDS)
            self._take("operator", COMMAND, f"pannier {shlex.join(self.stage.command)}")
            refused = await say_to_pannier(self.stage.command)
            self._take("operator", "refused" if refused else DONE, refused or "accepted")
        while self.stage.counter:
            self.counted = await _read_counter(urls["shop"]["metrics"], self.stage.counter)
            await trio.sleep(COUNT_SECONDS)

    def evidence(self, ledgers: Path, rate: float) -> Evidence:
        written = {path.stem: ledger.read(path.stem, ledgers) for path in ledgers.glob("*.jsonl")}
        return Evidence(self.moments, written, rate, self.counted)

    def explaining(self, evidence: Evidence) -> dict[str, Sequence[Entry]]:
        """The ledgers that may explain a failure."""
        return {name: entries for name, entries in evidence.ledgers.items() if name != "shop" or self.stage.injects}

    def _take(self, service: str, kind: str, text: str) -> None:
        if self._begun is not None:
            self.moments.append(Moment(round(trio.current_time() - self._begun, 1), service, kind, text))


async def _read_counter(url: str, name: str) -> int:
    """The value of a counter on a page of metrics; what it was is not known if nobody answers, so 0."""
    page = urlsplit(url)
    try:
        async with client.open_pool(page.hostname or "127.0.0.1", page.port or 80) as pool:
            response = await pool.exchange(client.Request("GET", page.path))
    except client.Broken:
        return 0
    found = [line.split()[1] for line in response.body.decode().splitlines() if line.startswith(f"{name} ")]
    return round(float(found[0])) if found else 0
