"""Who is who: all peers share one uid, so a role is proved by the token that its process inherited at spawn."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pannier.shared.envelope import CLI, SUPERVISOR


@dataclass(frozen=True)
class Grant:
    """What a role gets with its welcome (`fds` by name, lent: the broker neither closes nor keeps them; `config` as
    msgpack) and the topics that are its own. Of a role with `hears` and `verbs` those are the only topics that it may
    listen to and the only verbs that it is asked for."""

    role: str
    fds: Mapping[str, int] = field(default_factory=dict)
    config: bytes = b""
    topics: frozenset[str] = frozenset()
    hears: frozenset[str] | None = None
    verbs: frozenset[str] | None = None


class Grants:
    """The tokens in force, at most one a role."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def issue(
        self,
        role: str,
        *,
        fds: Mapping[str, int] | None = None,
        config: bytes = b"",
        topics: Iterable[str] = (),
        hears: Iterable[str] | None = None,
        verbs: Iterable[str] | None = None,
        token: str | None = None,
    ) -> str:
        """Grants `role` to whoever shows the returned token (32 random bytes in hex, or the given `token`: an adopting
        supervisor knows what its predecessor gave out). An older token of the role is void. Raises `ValueError` for
        the names that belong to the supervisor and to the command line, and for an empty token."""
        if role in (CLI, SUPERVISOR):
            raise ValueError(f"{role!r} is not a role to grant")
        if token == "":
            raise ValueError("an empty token proves nothing")
        self.revoke(role)
        token = token or secrets.token_hex(32)
        self._grants[token] = Grant(
            role,
            dict(fds or {}),
            config,
            frozenset(topics),
            None if hears is None else frozenset(hears),
            None if verbs is None else frozenset(verbs),
        )
        return token

    def revoke(self, role: str) -> None:
        """Voids the token of `role`, if it has one. A connection that is open stays open."""
        self._grants = {token: grant for token, grant in self._grants.items() if grant.role != role}

    def find(self, token: str) -> Grant | None:
        """The grant behind `token`."""
        return self._grants.get(token)
