"""The policies of stages: documents that have to hold together before they are put, and are read whole ever after.

What a policy says is checked as a profile is: against its types, and by the sidecars' own rules about what cannot all
hold. A policy that an older or newer pilot has put and that this one cannot read leaves the one before in force here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from pannier.shared.check import check
from pannier.shared.explain import Finding, bounded
from pannier.sidecars.pilot.documents.documents import Documents, Key
from pannier.sidecars.pilot.documents.policy import Policy

KIND: Final = "policy"
NOTHING: Final = Policy()
_log = logging.getLogger("pannier.pilot")


class Policies:
    """The policy in force of each stage. `listeners` are told the stage whose policy has changed."""

    def __init__(self, documents: Documents) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self._documents = documents
        self._read: dict[str, Policy] = {}
        for key in documents.keys(KIND):
            self._changed(key)
        documents.listeners.append(self._changed)

    def policy(self, stage: str) -> Policy:
        """What holds in a stage; nothing, if nothing was put."""
        return self._read.get(stage, NOTHING)

    def _changed(self, key: Key) -> None:
        if key.kind != KIND:
            return
        document = self._documents.get(key)
        try:
            policy = NOTHING if document is None else msgspec.convert(document.content, Policy)
        except msgspec.ValidationError as error:
            _log.error("the policy of %s is not understood, the one before holds: %s", key.stage, error)
            return
        if policy != self.policy(key.stage):
            self._read[key.stage] = policy
            for listener in self.listeners:
                listener(key.stage)


def findings(content: Mapping[str, Any]) -> Sequence[Finding]:
    """What is wrong with a policy: errors, which forbid it, before warnings."""
    found = check(content, [Policy])
    if found:
        return found
    policy = msgspec.convert(content, Policy)
    contradictions = []
    for part in ("traffic", "resilience"):
        config = getattr(policy, part)
        for one in config.contradictions() if config is not None else ():
            contradictions.append(replace(one, path=(part, *one.path)))
    return bounded(contradictions)
