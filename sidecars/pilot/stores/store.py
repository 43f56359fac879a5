"""What the pilot asks of a store: keys with versions, compare-and-swap, a watch that resumes. Nothing about instances.

What may replace what (epochs, tombstones) is decided above, by one pure function over one key, so it cannot differ
between stores. Rules that every store keeps (`tests/sidecars/pilot/test_store_contract.py`):

- Revisions grow by every write, across all keys and restarts. The version of an item is the revision that wrote it.
- A swap happens if the item has the version that was expected, else it is a `Conflict` and nothing has happened. A swap
  whose answer was lost (`Unreachable`) may have happened: who asks reads again.
- A watch tells all writes after a revision, each once, in their order, or says that it cannot (`Compacted`): then who
  watches reads everything anew.

Refused: leases in the store. An etcd that expires keys by itself cannot be told to stop when too many expire at once,
and every heartbeat would be a write; a pilot tends the leases of those who renew with it, and writes what changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
from pannier.shared.errors import Blame, PannierError

ABSENT = 0
"""The version of an item that is not there."""
MAX_KEY = 512
MAX_VALUE = 64 * 1024


class Item(msgspec.Struct, frozen=True):
    """`value` is None where a change says that the item was deleted."""

    key: str
    value: bytes | None
    version: int


class Conflict(PannierError):
    """The item does not have the version that was expected: somebody else has written it."""

    blame = Blame.PEER


class Compacted(PannierError):
    """The changes after that revision are not all kept any more, or it is one that this store has never had."""

    blame = Blame.PEER


class Store(Protocol):
    """Keys are texts of at most `MAX_KEY` bytes, values of at most `MAX_VALUE`. Everything raises Unreachable while the
    store cannot be asked."""

    async def get(self, key: str) -> Item | None:
        """The item, None if it is not there."""

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        """All items whose key begins so, in the order of their keys, and the revision at which they are that."""

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        """Writes the item (None deletes it) if it has that version; the version that it has now. Raises Conflict."""

    def watch(self, prefix: str, after: int) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Item]]]:
        """All writes after that revision to items whose key begins so, as they come. Iterating raises Compacted."""
