"""A verified load in an open loop that goes on while a test breaks something.

    with Load(urls["inbound"], "orders") as load:
        ...                                   # what is tried
    load.assert_all_answered()

Rules:
- It starts with a clean window: entering fails if the service does not serve before anything is broken.
- It runs in stretches of a second, each a generator of its own, until the block is left: a test waits for conditions
  and never has to guess how long they take. The generator opens its connections anew in each stretch.
- A request that is answered after 2 s has failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.bench.load import CORE

BODY = "pannier\n"
TOO_LATE_S = 2.0
CLEAN_S = 0.5
STRETCH_S = 1.0


@dataclass
class Load:
    """What was asked and what came of it; complete once the block is left."""

    url: str
    host: str
    method: str = "GET"
    rate: int = 500
    connections: int = 16
    issued: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    dialled: int = 0
    slowest_s: float = 0.0
    trouble: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stretch(CLEAN_S)
        self.assert_all_answered()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def assert_all_answered(self) -> None:
        """Fails unless each request got the right answer in time and none was refused a connection."""
        assert (self.failed, self.trouble) == (0, []), self
        assert self.answered == self.issued
        assert self.slowest_s < TOO_LATE_S

    def _go_on(self) -> None:
        while self._stretch(STRETCH_S) and not self._over.is_set():
            pass

    def _stretch(self, seconds: float) -> bool:
        """One run of the generator; False if it could not connect, which ends it at once."""
        words = ["load", "--connect", place(self.url), "--host", self.host, "--method", self.method]
        words += ["--rate", str(self.rate), "--seconds", str(seconds), "--connections", str(self.connections)]
        words += ["--expect-bytes", str(len(BODY))]
        done = subprocess.run(
            [generator(), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            self.refused += 1
            self.trouble.append(done.stderr.strip())
            return False
        found: dict[str, Any] = json.loads(done.stdout)
        self.issued += round(self.rate * seconds)
        self.answered += found["requests"]
        self.failed += found["errors"]
        self.dialled += self.connections
        self.slowest_s = max([self.slowest_s, *(edge / 1e9 for edge, _ in found["histogram"])])
        if found["errors"]:
            self.trouble.append(found["first_error"])
        return True


def place(url: str) -> str:
    """What the generator connects to: `HOST:PORT`, or `unix:PATH` for a URL whose host is a path."""
    parts = urlsplit(url)
    return f"unix:{unquote(parts.netloc)}" if parts.scheme == "http+unix" else parts.netloc


def generator() -> Path:
    """The program of `make build`."""
    path = Path(os.environ.get("CARGO_TARGET_DIR", CORE / "target")) / "release" / "pannier-bench"
    assert path.exists(), f"{path} is missing: `make build` builds it"
    return path
