"""The registry over gRPC: `registry.proto`, carried out.

It decides nothing: what may change is decided in `changing.py` as over HTTP, what is read comes from the registry. Here
messages are read and written, and an error is given its code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import trio
from google.protobuf.message import DecodeError
from pannier.shared.errors import Unreachable
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.shared.registration import Registering, key_of
from pannier.sidecars.pilot.grpc.call import Call, Code, GrpcError, Handler
from pannier.sidecars.pilot.grpc.schema import MESSAGES, PACKAGE, SERVICE, STATE_OF, STATES
from pannier.sidecars.pilot.registry import changing
from pannier.sidecars.pilot.registry.changing import Stale, Unknown, shows_token
from pannier.sidecars.pilot.registry.registry import Full, Registry
from pannier.sidecars.pilot.stores.store import Compacted

FIRST_SECONDS: Final = 10.0
"""Within which the message of a call has to come."""
NAMED: Final = 10_000
WATCHES: Final = 3000
"""Of one listener, below its connections: whoever registers has to find room."""
WAIT_SECONDS: Final = 60.0
WHOLE_BYTES: Final = 4 * 1024 * 1024
"""Of one answer: what a client takes unless it is told to take more."""
PART_BYTES: Final = 256 * 1024
"""Of a watch's message, above which the next one begins."""
FIELD_BYTES: Final = 5
"""Of a field's number and length."""
_CODES: Final[Mapping[type[Exception], Code]] = {
    Stale: Code.FAILED_PRECONDITION,
    Unknown: Code.NOT_FOUND,
    Full: Code.UNAVAILABLE,
    Unreachable: Code.UNAVAILABLE,
    Compacted: Code.OUT_OF_RANGE,
    ValueError: Code.INVALID_ARGUMENT,
    msgspec.ValidationError: Code.INVALID_ARGUMENT,
}


def registry_handlers(registry: Registry, *, token: str = "") -> dict[str, Handler]:
    """What serves the registry, by path. With a `token`, who changes something has to show it."""
    service = _Service(registry)
    changes = {
        "Register": ("RegisterRequest", service.register),
        "Renew": ("RegisterRequest", service.register),
        "Drain": ("DrainRequest", service.drain),
        "Deregister": ("DeregisterRequest", service.deregister),
    }
    return {
        f"/{SERVICE}/Watch": service.watch,
        f"/{SERVICE}/Get": _unary("GetRequest", service.get, ""),
        **{f"/{SERVICE}/{name}": _unary(kind, act, token) for name, (kind, act) in changes.items()},
    }


class _Service:
    """The methods of one listener."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watches = 0

    async def register(self, asked: Any) -> Any:
        said = {
            "address": asked.address,
            "port": asked.port or None,
            "ttl": asked.ttl_ms / 1000 if asked.ttl_ms else None,
            "epoch": asked.epoch or None,
            "metadata": dict(asked.metadata),
            "state": _state(asked.state),
        }
        key = key_of(asked.service, asked.id)
        answer, created = await changing.register(self._registry, key, msgspec.convert(said, Registering))
        return MESSAGES[f"{PACKAGE}.RegisterResponse"](
            epoch=answer.epoch,
            address=answer.address,
            ttl_ms=round(answer.ttl_s * 1000),
            renew_ms=round(answer.renew_s * 1000),
            created=created,
        )

    async def drain(self, asked: Any) -> Any:
        key, epoch = key_of(asked.service, asked.id), _epoch(asked.epoch)
        if epoch is None:
            raise ValueError("which life drains? send its epoch")
        drained = await changing.drain(self._registry, key, epoch)
        return MESSAGES[f"{PACKAGE}.DrainResponse"](epoch=drained.epoch, state=STATES[drained.state])

    async def deregister(self, asked: Any) -> Any:
        await changing.leave(self._registry, key_of(asked.service, asked.id), _epoch(asked.epoch))
        return MESSAGES[f"{PACKAGE}.DeregisterResponse"]()

    async def get(self, asked: Any) -> Any:
        view = self._registry.view
        answer = MESSAGES[f"{PACKAGE}.GetResponse"](revision=view.revision)
        size = answer.ByteSize()
        for name in _names(asked.services) or view.services():
            told = self._told(name)
            size += told.ByteSize() + FIELD_BYTES
            if size > WHOLE_BYTES:
                hint = "name fewer services, or use Watch, which answers in parts"
                raise GrpcError(Code.RESOURCE_EXHAUSTED, f"the answer has more than {WHOLE_BYTES} bytes; {hint}")
            answer.services.append(told)
        return answer

    async def watch(self, call: Call) -> None:
        asked = await _asked(call, "WatchRequest")
        names = _names(asked.services)
        if self._watches >= WATCHES:
            raise GrpcError(Code.UNAVAILABLE, f"{self._watches} watch already")
        self._watches += 1
        try:
            if asked.HasField("after"):
                revision = asked.after
            else:
                revision = self._registry.view.revision
                await self._tell(call, revision, names or self._registry.view.services())
            while True:
                before = revision
                with _coded():
                    revision, changed = await self._registry.changes(before, names, wait=WAIT_SECONDS)
                if revision != before:
                    await self._tell(call, revision, changed)
        finally:
            self._watches -= 1

    async def _tell(self, call: Call, revision: int, names: Sequence[str]) -> None:
        """Services as they are at that revision or after it, in as many messages as it takes."""
        left = deque(names)
        while True:
            part: list[Any] = []
            size = 0
            while left and size < PART_BYTES:
                part.append(self._told(left.popleft()))
                size += part[-1].ByteSize()
            response = MESSAGES[f"{PACKAGE}.WatchResponse"](revision=revision, services=part, more=bool(left))
            await call.send(response.SerializeToString())
            if not left:
                return

    def _told(self, name: str) -> Any:
        instances = [_instance(instance) for instance in self._registry.endpoints(name)]
        return MESSAGES[f"{PACKAGE}.Service"](name=name, instances=instances)


def _unary(kind: str, act: Callable[[Any], Awaitable[Any]], token: str) -> Handler:
    async def handle(call: Call) -> None:
        if not shows_token(call.metadata.get("authorization", ""), token):
            hint = "send `authorization: Bearer TOKEN`; `pannier pilot` has said where the token is"
            raise GrpcError(Code.UNAUTHENTICATED, f"changes need the pilot's token; {hint}")
        asked = await _asked(call, kind)
        with _coded():
            answer = await act(asked)
        await call.send(answer.SerializeToString())

    return handle


async def _asked(call: Call, kind: str) -> Any:
    """The message of a call that has one. Raises GrpcError."""
    wire: bytes | None = None
    with trio.move_on_after(FIRST_SECONDS):
        wire = await call.receive()
    if wire is None:
        raise GrpcError(Code.INVALID_ARGUMENT, f"no {kind} came within {FIRST_SECONDS:g} s")
    try:
        return MESSAGES.parse(f"{PACKAGE}.{kind}", wire)
    except DecodeError as error:
        raise GrpcError(Code.INVALID_ARGUMENT, f"what was sent is no {kind}: {error}") from error


def _names(services: Iterable[str]) -> Sequence[str]:
    """Each once. Raises GrpcError for too many."""
    names = sorted(set(services))
    if len(names) > NAMED:
        raise GrpcError(Code.INVALID_ARGUMENT, f"{len(names)} services are named, up to {NAMED} may be; none is all")
    return names


def _state(number: int) -> State | None:
    if number and number not in STATE_OF:
        raise ValueError(f"{number} is no state")
    return STATE_OF.get(number)


def _epoch(number: int) -> int | None:
    if number < 0:
        raise ValueError(f"{number} is no epoch: they begin with 1")
    return number or None


def _instance(instance: Instance) -> Any:
    return MESSAGES[f"{PACKAGE}.Instance"](
        service=instance.service,
        id=instance.id,
        address=instance.address,
        state=STATES[instance.state],
        epoch=instance.epoch,
        revision=instance.revision,
        metadata=instance.metadata,
        suspect=instance.suspect,
    )


@contextmanager
def _coded() -> Iterator[None]:
    """An error of the registry becomes a status, with what to do about it."""
    try:
        yield
    except tuple(_CODES) as error:
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        text, hint = str(error), getattr(error, "hint", "")
        if code is Code.OUT_OF_RANGE:
            hint = "watch anew, without `after`"
        raise GrpcError(code, f"{text}; {hint}" if hint else text) from error
