"""The store that outgrows one machine: etcd v3, over the JSON gateway that every member serves.

- A compare-and-swap is one transaction on the item's `mod_revision`; revisions and watches are etcd's own.
- Any member does. One that cannot be reached is passed over; one that does not answer, or not well, is the last to be
  asked the next time. A write whose answer was lost is not sent again here: it may have happened.
- A watch that says nothing may be a member that is gone: after `PULSE_SECONDS` of silence another question shows it.

Refused: gRPC for five calls (the gateway is the same server, and JSON is decoded natively); etcd's leases (`store.py`).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final, Self, TypeVar

import h11
import msgspec
import trio
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot.stores.store import ABSENT, MAX_KEY, MAX_VALUE, Compacted, Conflict, Item

T = TypeVar("T")

ROOT: Final = "pannier/"
OK: Final = 200
_SEE: Final = "see `etcdctl endpoint health --cluster`"
CALL_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 1.0
CALLS: Final = 64
"""At once: more would wait for one another so long that none has an answer in time."""
PULSE_SECONDS: Final = 5.0
_ANSWER_MAX: Final = 256 * 1024 * 1024
_CHUNK: Final = 65_536
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError)


class _Header(msgspec.Struct):
    revision: int = 0


class _KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class _Event(msgspec.Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Answer(msgspec.Struct):
    """What of an answer is read, of whichever call; an empty field is left out by the gateway."""

    header: _Header = msgspec.field(default_factory=_Header)
    kvs: list[_KeyValue] = []
    succeeded: bool = False
    events: list[_Event] = []
    canceled: bool = False
    compact_revision: int = 0
    error: str = ""


class _Streamed(msgspec.Struct):
    result: _Answer = msgspec.field(default_factory=_Answer)
    error: object = None


_ANSWER = msgspec.json.Decoder(_Answer, strict=False)  # numbers come as texts
_STREAMED = msgspec.json.Decoder(_Streamed, strict=False)


class EtcdStore:
    """A `store.Store` in the keys under `root` of an etcd, whose members are at these (host, port)."""

    def __init__(self, members: Sequence[tuple[str, int]], *, root: str = ROOT) -> None:
        self._members = list(members)
        self._root = root
        self._calls = trio.CapacityLimiter(CALLS)

    async def get(self, key: str) -> Item | None:
        answer = await self._call("kv/range", {"key": self._name(key)})
        return self._item(answer.kvs[0]) if answer.kvs else None

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        answer = await self._call("kv/range", self._range(prefix) | {"sort_target": "KEY", "sort_order": "ASCEND"})
        return answer.header.revision, [self._item(found) for found in answer.kvs]

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        if not 0 < len(key.encode()) <= MAX_KEY or len(value or b"") > MAX_VALUE:
            raise ValueError(f"a key has 1 to {MAX_KEY} bytes, a value at most {MAX_VALUE}")
        name = self._name(key)
        write: object = {"request_delete_range": {"key": name}}
        if value is not None:
            write = {"request_put": {"key": name, "value": _text(value)}}
        elif version == ABSENT:
            write = {"request_range": {"key": name}}  # it is to be gone, and is: nothing is written
        compare = {"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": str(version)}
        answer = await self._call("kv/txn", {"compare": [compare], "success": [write]})
        if not answer.succeeded:
            raise Conflict(f"{key} does not have version {version}")
        return ABSENT if value is None else answer.header.revision

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        async with aclosing(self._changes(prefix, after)) as changes:
            yield changes

    async def _changes(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Item], None]:
        revision = await self._revision()
        if after > revision:
            raise Compacted(f"changes are known up to {revision}; not after {after}")
        async with await self._connect() as connection:
            await connection.send("watch", {"create_request": self._range(prefix) | {"start_revision": str(after + 1)}})
            async with aclosing(self._lines(connection)) as lines:
                async for line in lines:
                    answer = _decoded(_STREAMED, line)
                    if answer.result.compact_revision:
                        raise Compacted(f"changes are kept from {answer.result.compact_revision} on; not after {after}")
                    if answer.error or answer.result.canceled:
                        raise Unreachable(f"etcd ended the watch: {line[:200]!r}")
                    if answer.result.events:
                        yield [self._change(event) for event in answer.result.events]

    async def _lines(self, connection: _Connection) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer, as they come; a silence is looked into."""
        rest = b""
        while True:
            part: bytes | None = None
            with trio.move_on_after(PULSE_SECONDS):
                part = await connection.read()
            if part is None:
                await self._revision(connection.member)
                continue
            if not part:
                raise Unreachable("etcd closed the watch")
            *lines, rest = (rest + part).split(b"\n")
            for line in filter(None, lines):
                yield line

    async def _revision(self, member: tuple[str, int] | None = None) -> int:
        body = {"key": self._name(""), "count_only": True}
        return (await self._call("kv/range", body, member=member)).header.revision

    async def _call(self, path: str, body: object, *, member: tuple[str, int] | None = None) -> _Answer:
        """Asks the first member, or that one, once there are fewer calls than `CALLS`."""
        with trio.move_on_after(CALL_SECONDS) as waiting:
            await self._calls.acquire()
        if waiting.cancelled_caught:
            raise Unreachable(f"etcd did not answer {CALLS} others within {CALL_SECONDS:g} s", hint=_SEE)
        try:
            return await self._ask(path, body, member)
        finally:
            self._calls.release()

    async def _ask(self, path: str, body: object, member: tuple[str, int] | None) -> _Answer:
        asked = member or self._members[0]
        with trio.move_on_after(CALL_SECONDS):
            try:
                async with await self._connect(member) as connection:
                    asked = connection.member
                    await connection.send(path, body)
                    answer = _decoded(_ANSWER, await connection.read_all())
                if answer.error or not answer.header.revision:
                    raise Unreachable(f"etcd: {answer.error[:200] or 'an answer without a revision'}", hint=_SEE)
            except Unreachable:
                self._blame(asked)
                raise
            return answer
        self._blame(asked)
        raise Unreachable(f"etcd did not answer within {CALL_SECONDS:g} s", hint=_SEE)

    async def _connect(self, only: tuple[str, int] | None = None) -> _Connection:
        """A connection to the first member that takes one, or to that one."""
        for _ in range(1 if only else len(self._members)):
            host, port = member = only or self._members[0]
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    return _Connection(await trio.open_tcp_stream(host, port), member)
            except (OSError, trio.TooSlowError):
                self._blame(member)
        places = ", ".join(f"{host}:{port}" for host, port in self._members)
        raise Unreachable(f"no etcd answers at {places}", hint=_SEE)

    def _blame(self, member: tuple[str, int]) -> None:
        """Asks that member last from now on; whoever comes second with that news has it done already."""
        if self._members[0] == member:
            self._members.append(self._members.pop(0))

    def _name(self, key: str) -> str:
        return _text((self._root + key).encode())

    def _range(self, prefix: str) -> dict[str, object]:
        return {"key": self._name(prefix), "range_end": _text((self._root + prefix).encode() + b"\xf4\x90")}

    def _item(self, found: _KeyValue) -> Item:
        return Item(found.key.decode(errors="replace").removeprefix(self._root), found.value, found.mod_revision)

    def _change(self, event: _Event) -> Item:
        item = self._item(event.kv)
        return msgspec.structs.replace(item, value=None) if event.type == "DELETE" else item


class _Connection:
    """One connection to a member; one call at a time."""

    def __init__(self, stream: trio.SocketStream, member: tuple[str, int]) -> None:
        self.member = member
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def send(self, path: str, body: object) -> None:
        """Asks, and reads the head of the answer."""
        data = msgspec.json.encode(body)
        headers = [
            ("host", "{}:{}".format(*self.member)),
            ("content-type", "application/json"),
            ("content-length", str(len(data))),
        ]
        request = h11.Request(method="POST", target=f"/v3/{path}", headers=headers)
        with _translated():
            events = (request, h11.Data(data=data), h11.EndOfMessage())
            await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))
            while not isinstance(event := await self._next(), h11.Response):
                if isinstance(event, h11.ConnectionClosed):
                    raise Unreachable("etcd closed the connection")
            if event.status_code != OK:
                raise Unreachable(f"etcd answers with status {event.status_code}", hint=_SEE)

    async def read(self) -> bytes:
        """The next part of the answer's body, empty at its end."""
        with _translated():
            event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_all(self) -> bytes:
        """The answer's body, whole."""
        found = bytearray()
        while part := await self.read():
            found += part
            if len(found) > _ANSWER_MAX:
                raise Unreachable(f"etcd's answer is over {_ANSWER_MAX} bytes")
        return bytes(found)

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._stream.receive_some(_CHUNK))
        return event


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        raise Unreachable(f"the connection to etcd is lost: {error or type(error).__name__}") from error


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"etcd answers nonsense: {error}: {data[:80]!r}") from error


def _text(data: bytes) -> str:
    """Bytes as the gateway's JSON has them."""
    return base64.b64encode(data).decode()
