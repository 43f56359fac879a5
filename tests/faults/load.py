"""Flows: what is asked while something is broken, in an open loop, every request numbered and every answer compared.

The generator is that of the benchmarks (`pannier-bench`): it costs a tenth of a Python one, which on two cores would be
a fault of its own. A load lasts as long as it was begun for: its schedule does not depend on what happens to it, and a
repetition that takes longer than its load is a broken promise, not a longer load.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.faults.verdict import Count, count, due
from tests.system.load import generator

IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
PATIENCE_S = 15.0


@dataclass(frozen=True)
class Flow:
    """`rate` requests a second of one method, over so many connections.

    `to`: another way than the row's. `standard`: the caller connects anew where nobody takes a connection, and repeats
    once what is idempotent when a connection ends before a byte of an answer, as any HTTP client does.
    """

    method: str = "GET"
    rate: int = 200
    connections: int = 16
    to: Literal["", "outbound", "inbound"] = ""
    standard: bool = False

    @property
    def name(self) -> str:
        return f"{self.to}-{self.method.lower()}" if self.to else self.method.lower()

    @property
    def idempotent(self) -> bool:
        return self.method in IDEMPOTENT


@dataclass(frozen=True)
class Aim:
    """Where a flow goes: an address, the name that is asked for, and the words before a command that can reach it."""

    address: str
    host: str
    inside: Sequence[str] = ()


class Load:
    """Flows to one address under a tag, from `with` on for `seconds`; leaving the block ends what still runs. `aim`
    says where each flow goes if not all of them go to that address."""

    def __init__(
        self,
        flows: Sequence[Flow],
        address: str,
        host: str,
        *,
        seconds: float,
        tag: str,
        body: Path,
        aim: Callable[[Flow], Aim] | None = None,
    ) -> None:
        self.flows = flows
        self.seconds = seconds
        self._tag = tag
        self._aim = aim or (lambda _: Aim(address, host))
        self._words = ["--seconds", str(seconds), "--expect-body", str(body)]
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for flow in self.flows:
            aim = self._aim(flow)
            words = [
                "load",
                "--connect",
                aim.address,
                "--host",
                aim.host,
                *self._words,
                "--path",
                self.path(flow),
                "--method",
                flow.method,
                "--rate",
                str(flow.rate),
            ]
            words += ["--connections", str(flow.connections), "--body-bytes", "0" if flow.idempotent else "64"]
            words += ["--client", "standard"] if flow.standard else []
            self._running.append(
                subprocess.Popen(
                    [*aim.inside, generator(), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.returncode is None:
                process.kill()
                process.communicate()

    def path(self, flow: Flow) -> str:
        """Where this flow's requests go, and no other's."""
        return f"/{self._tag}/{flow.name}"

    def goes_on(self) -> bool:
        """Whether every flow is still under way."""
        return all(process.poll() is None for process in self._running)

    def wait(self) -> Mapping[str, Count]:
        """What became of each flow, by its name; waits for the end of the load."""
        return {flow.name: self._count(flow, process) for flow, process in zip(self.flows, self._running, strict=True)}

    def _count(self, flow: Flow, process: subprocess.Popen[str]) -> Count:
        try:
            said, complaint = process.communicate(timeout=self.seconds + PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, complaint = process.communicate()
            complaint = f"it did not end: {complaint}"
        if process.returncode != 0:
            owed = due(flow.rate, self.seconds)
            return Count(owed, answered=0, late=0, errors=owed, seconds=0.0, first_error=complaint.strip())
        return count(flow.rate, self.seconds, json.loads(said), idempotent=flow.idempotent)
