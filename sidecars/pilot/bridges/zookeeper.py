"""Services in a ZooKeeper, as Curator keeps them, as a bridge. One life of an instance is one node: its `czxid` grows.

The tree is kept, and what watches say has changed is read again. Watches are one-shot and die with the connection, so
a look also reads everything anew when that has changed, and every `REREAD_SECONDS`.
"""

from __future__ import annotations

import re
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Final

import trio
from kazoo.exceptions import NoNodeError
from pannier.shared.errors import Unreachable
from pannier.shared.instances import INSTANCE_PATTERN, SERVICE_PATTERN, Key
from pannier.sidecars.pilot.bridges.curator import MARKS, is_ours, read
from pannier.sidecars.pilot.bridges.source import MAX_INSTANCES, Found, Look
from pannier.sidecars.pilot.stores.zookeeper_session import Bell, Session, got

EVERY_SECONDS: Final = 10.0
REREAD_SECONDS: Final = 60.0
MAX_NODES: Final = 2 * MAX_INSTANCES
"""Read at once: those that are not to be registered, as our own, come on top of what a bridge takes."""
_BATCH: Final = 256
_EVERYTHING: Final = ""


class _Not(Enum):
    """What a node may be instead of an instance: not understood; one of ours, or one that takes no calls."""

    CLEAR = "clear"
    TO_BE_REGISTERED = "to be registered"


class ZooKeeperSource:
    """A `source.Source` for the services below the node `base`; `name` says which ZooKeeper that is."""

    def __init__(self, session: Session, base: str, *, name: str) -> None:
        self.name = name
        self.every = EVERY_SECONDS
        self._session = session
        self._client: Any = session.client
        self._base = base
        self._tree: dict[str, dict[str, Found | _Not]] = {}
        self._changed: SimpleQueue[str] = SimpleQueue()
        self._bell: Bell | None = None
        self._reread_at = 0.0

    async def look(self) -> Look:
        self._bell = self._bell or Bell()
        if trio.current_time() >= self._reread_at or not self._session.connected:
            self._changed.put(_EVERYTHING)
        with self._session.steady():
            try:
                refused = await self._session.call(self._read)
            except BaseException:
                self._reread_at = 0.0  # what has been read of it is a part
                raise
        if trio.current_time() >= self._reread_at:
            self._reread_at = trio.current_time() + REREAD_SECONDS
        instances: dict[Key, Found] = {}
        unclear: set[Key] = set()
        for service, nodes in self._tree.items():
            for name, node in nodes.items():
                if node is _Not.CLEAR:
                    unclear.add((service, name))
                elif isinstance(node, Found):
                    instances[service, name] = node
        return Look(instances, unclear, refused=refused)

    async def news(self) -> None:
        assert self._bell is not None, "it has been looked at"
        await self._bell.heard(self.every)

    # What follows runs in threads.

    def _changes(self, event: Any) -> None:
        """The client tells of a change, in a thread of its own."""
        self._changed.put(event.path or _EVERYTHING)
        if self._bell is not None:
            self._bell.ring()

    def _read(self) -> int:
        """Brings the tree up to date; how many names in it are none of an instance."""
        changed: set[str] = set()
        while True:
            try:
                changed.add(self._changed.get_nowait())
            except Empty:
                break
        if _EVERYTHING in changed:
            self._tree.clear()
        refused = 0
        if _EVERYTHING in changed or self._base in changed:
            services, refused = self._children(self._base, SERVICE_PATTERN)
            self._tree = {service: self._tree.get(service, {}) for service in services}
            changed |= {f"{self._base}/{service}" for service in services if not self._tree[service]}
        nodes: list[tuple[str, str]] = []
        for service, known in self._tree.items():
            if f"{self._base}/{service}" in changed:
                names, wrong = self._children(f"{self._base}/{service}", INSTANCE_PATTERN)
                refused += wrong
                for gone in known.keys() - set(names):
                    del known[gone]
                nodes += [(service, name) for name in names if name not in known]
            nodes += [(service, name) for name in known if f"{self._base}/{service}/{name}" in changed]
        if len(nodes) > MAX_NODES:
            raise Unreachable(f"{self.name} has {len(nodes)} nodes to read: at most {MAX_NODES}")
        for begin in range(0, len(nodes), _BATCH):
            self._read_nodes(nodes[begin : begin + _BATCH])
        return refused

    def _read_nodes(self, nodes: list[tuple[str, str]]) -> None:
        asked: list[tuple[str, str, Any, Any]] = []
        for service, name in nodes:
            path = f"{self._base}/{service}/{name}"
            node = self._client.get_async(path, self._changes)
            asked.append((service, name, node, self._client.exists_async(MARKS + path)))  # behind the node
        for service, name, node, mark in asked:
            try:
                data, stat = got(node)
                found = None if is_ours(got(mark), stat) else read(data, stat.czxid)
                self._tree[service][name] = found or _Not.TO_BE_REGISTERED
            except NoNodeError:
                self._tree[service].pop(name, None)
            except (ValueError, RecursionError):  # ValueError is msgspec's, too
                self._tree[service][name] = _Not.CLEAR

    def _children(self, path: str, pattern: str) -> tuple[list[str], int]:
        """The names below a node, and how many are none; nobody, if it is not there."""
        try:
            names = got(self._client.get_children_async(path, self._changes))
        except NoNodeError:
            if got(self._client.exists_async(path, self._changes)) is None:  # and is told of when it is
                return [], 0
            names = got(self._client.get_children_async(path, self._changes))
        found = [name for name in names if re.match(pattern, name)]
        return found, len(names) - len(found)
