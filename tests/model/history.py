"""What happened between a registry and those who use it, written down: who asked what when, and what he was told.

A history is all that `invariants.py` and `linear.py` know. It comes from a registry in this process whose time is made
up (`playing.py`), or from real pilots (`recording.py`); times are seconds of one clock of whoever wrote it down, and no
pilot has seen them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from pannier.shared.instances import Key, State

Kind: TypeAlias = Literal["register", "drain", "leave"]
Verdict: TypeAlias = Literal["created", "accepted", "stale", "unknown"]
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Call:
    """One word of a life, or of whoever speaks in its name. `epoch` 0: none was said. `verdict` is None if the answer
    was lost, or said that it may or may not have happened: then it `ended` NEVER. `answered` is the epoch that a
    registration was given. `again`: an equal registration of that life was accepted before, so nothing has to change.
    """

    key: Key
    kind: Kind
    epoch: int
    began: float
    ended: float = NEVER
    address: str = ""
    state: State | None = None
    ttl: float = 0.0
    verdict: Verdict | None = None
    answered: int = 0
    again: bool = False

    @property
    def accepted(self) -> bool:
        return self.verdict in {"created", "accepted"}


@dataclass(frozen=True, slots=True)
class Told:
    """An instance as a watcher was told it."""

    epoch: int
    revision: int
    state: State
    address: str
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Telling:
    """Everything about one service that a watcher was told by the answer that came at `at`. `source` is whom it hears
    (one life of one pilot); `anew`: it did not go on from a revision, so nothing is promised against what it had
    before."""

    watcher: str
    source: str
    at: float
    service: str
    revision: int
    instances: Mapping[str, Told]
    anew: bool = False


@dataclass
class History:
    """`quiet`: from then on nothing was broken, everybody could reach everybody; NEVER if that did not come. `ended` is
    the last moment that was recorded."""

    calls: list[Call] = field(default_factory=list)
    tellings: list[Telling] = field(default_factory=list)
    quiet: float = NEVER
    ended: float = 0.0

    def answered(self, call: Call, verdict: Verdict, epoch: int, ended: float) -> Call:
        """Writes down a call and its answer."""
        whole = replace(call, ended=ended, verdict=verdict, answered=epoch)
        again = (
            whole.kind == "register"
            and whole.accepted
            and any(
                one.kind == "register"
                and one.accepted
                and (one.key, one.address, one.answered) == (call.key, call.address, epoch)
                for one in self.calls
            )
        )
        whole = replace(whole, again=again)
        self.calls.append(whole)
        return whole

    def of(self, key: Key) -> Sequence[Call]:
        """The calls about one instance, in the order in which they began."""
        return sorted((call for call in self.calls if call.key == key), key=lambda call: call.began)

    def instances(self) -> Sequence[Key]:
        return sorted({call.key for call in self.calls})

    def last(self) -> Mapping[tuple[str, str], Telling]:
        """What each watcher was told last about each service."""
        return {(telling.watcher, telling.service): telling for telling in self.tellings}
