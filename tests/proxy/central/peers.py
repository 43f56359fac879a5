"""Both ends of what a host and a Central say to each other, written anew: a test is the other side of a proxy's.

A connection begins with a PROXY protocol header, version 2, with TLVs of our own; a link then has frames of a length
and a msgpack map. `Link` and `dial` are a host (or a Central at a pass-through port), `Central` is a Central's gateway.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from tests.proxy.origin import Converse, Origin
from tests.proxy.wire import PATIENCE_S, Ended, Wire

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ACCEPTED = b"\x06"
#: The kinds of TLVs.
ROLE, SERVICE, INSTANCE, REVISION, HOPS, DRAW = range(0xE0, 0xE6)
CONTROL, OUTBOUND, INBOUND, PASS_THROUGH = b"c", b"o", b"i", b"p"


@dataclass(frozen=True)
class Preface:
    """What a connection says of itself."""

    role: bytes = OUTBOUND
    service: str = "shop"
    instance: str = "one"
    revision: int = 1
    hops: int = 0
    draw: float = 0.0

    def encode(self) -> bytes:
        """Its bytes."""
        tlvs = (
            tlv(ROLE, self.role)
            + tlv(SERVICE, self.service.encode())
            + tlv(INSTANCE, self.instance.encode())
            + tlv(REVISION, self.revision.to_bytes(8, "big"))
            + tlv(HOPS, bytes([self.hops]))
            + tlv(DRAW, int(self.draw * 65535).to_bytes(2, "big"))
        )
        return header(tlvs)


def tlv(kind: int, value: bytes) -> bytes:
    """One part of a preface."""
    return struct.pack(">BH", kind, len(value)) + value


def header(tlvs: bytes, *, version: int = 0x21, family: int = 0) -> bytes:
    """A preface of these parts."""
    return SIGNATURE + struct.pack(">BBH", version, family, len(tlvs)) + tlvs


def read_preface(wire: Wire) -> Preface:
    """The preface that a peer begins with; fails if it is none."""
    fixed = wire.read(16)
    assert fixed[:14] == SIGNATURE + b"\x21\x00", fixed
    tlvs = wire.read(int.from_bytes(fixed[14:], "big"))
    parts: dict[int, bytes] = {}
    while tlvs:
        kind, length = struct.unpack(">BH", tlvs[:3])
        parts[kind], tlvs = tlvs[3 : 3 + length], tlvs[3 + length :]
    return Preface(
        role=parts[ROLE],
        service=parts[SERVICE].decode(),
        instance=parts[INSTANCE].decode(),
        revision=int.from_bytes(parts[REVISION], "big"),
        hops=parts[HOPS][0],
        draw=int.from_bytes(parts[DRAW], "big") / 65535,
    )


def frame(message: object) -> bytes:
    """A message of a link."""
    body = msgspec.msgpack.encode(message)
    return struct.pack("<I", len(body)) + body


def read_frame(wire: Wire) -> dict[str, Any]:
    """The next message of a link. Raises Ended."""
    decoded: dict[str, Any] = msgspec.msgpack.decode(wire.read(struct.unpack("<I", wire.read(4))[0]))
    return decoded


def dial(
    address: tuple[str, int], begin: bytes, *, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Wire:
    """A new connection that has said `begin`. Encrypted with `tls`; raises OSError if that fails."""
    sock = socket.create_connection(address, PATIENCE_S, source_address=(source, 0))
    if tls is not None:
        sock = tls.wrap_socket(sock, server_hostname=address[0])
    wire = Wire(sock)
    wire.send(begin)
    return wire


def is_accepted(wire: Wire) -> bool:
    """Whether the other end accepts what we said we were; else it has ended the connection without a word."""
    try:
        return wire.read(1) == ACCEPTED
    except (Ended, ConnectionError, ssl.SSLError):
        assert not wire.buffer
        return False


class Link:
    """A host's link to a Central. Each `ask` says all that a host says every 250 ms."""

    def __init__(self, address: tuple[str, int], preface: Preface, **how: Any) -> None:
        """`preface` names the host; raises Ended if it is not accepted."""
        self.preface = Preface(CONTROL, preface.service, preface.instance, 0)
        self.address = address
        self.wire = dial(address, self.preface.encode(), **how)
        if not is_accepted(self.wire):
            self.wire.close()
            raise Ended
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def say(self, kind: str, **fields: Any) -> None:
        """One message."""
        self.wire.send(frame({kind: fields}))

    def hello(self, **changes: Any) -> None:
        """Says who it is."""
        said = {"service": self.preface.service, "instance": self.preface.instance, "passthrough": None}
        self.say("Hello", **said | {"redirects": False} | changes)

    def policy(self, revision: int = 1, services: tuple[str, ...] = (), **tables: Any) -> None:
        """Hands over its tables: `base` with what is changed in it, others as they are published."""
        base = {"service": self.preface.service, "lifecycle": "serving", "app": None} | tables.pop("base", {})
        payloads = {"base": msgspec.msgpack.encode(base), "routes": b"", "limits": b"", "headers": b""} | tables
        self.say("Policy", revision=revision, services=list(services), **payloads)

    def ask(self, **changes: Any) -> dict[str, Any]:
        """Asks for tokens; what is granted. Raises Ended."""
        self._sequence += 1
        want = {"sequence": self._sequence, "rate": 100.0, "weight": 100.0, "revision": 1}
        self.say("Want", **want | {"inbound": False, "outbound": True} | changes)
        granted = read_frame(self.wire)
        assert granted["sequence"] == self._sequence
        return granted


@dataclass
class Said:
    """What a host has said to a Central on its links, newest last."""

    hellos: list[dict[str, Any]] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    wants: list[dict[str, Any]] = field(default_factory=list)


class Central(Origin):
    """A Central's gateway whose every answer a test decides.

    `grant` says what is granted for a want; None: that is never answered. `serve` is what happens on a connection of
    the host's app once it was accepted: by default requests are taken and answered like an origin's. `accepts` decides
    which connections are. `links` counts links that were accepted, `prefaces` are those of all other connections,
    `used` of those on which something came.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.grant: Callable[[dict[str, Any]], dict[str, Any] | None] = granting()
        self.serve: Converse = self.converse_as_origin
        self.accepts: Callable[[Preface], bool] = lambda _: True
        self.said = Said()
        self.links = 0
        self.prefaces: list[Preface] = []
        self.used: list[Preface] = []
        self._tls = tls
        self._links: list[Wire] = []
        self._lock = threading.Lock()
        super().__init__()
        self.converse = self._enter

    def converse_as_origin(self, origin: Origin, wire: Wire) -> None:
        """Takes requests, and answers each as `answer` says."""
        while True:
            wire.send(origin.answer(origin.take(wire.read_request())))

    @property
    def linked(self) -> int:
        """Links that are there now."""
        with self._lock:
            return len(self._links)

    def cut_links(self) -> None:
        """Ends every link from this side."""
        with self._lock:
            links = list(self._links)
        for wire in links:
            wire.socket.shutdown(socket.SHUT_RDWR)

    def _enter(self, origin: Origin, wire: Wire) -> None:
        if self._tls is not None:
            wire.socket = self._tls.wrap_socket(wire.socket, server_side=True)
        preface = read_preface(wire)
        if not self.accepts(preface):
            return
        wire.send(ACCEPTED)
        if preface.role == CONTROL:
            self._link(wire)
            return
        with self._lock:
            self.prefaces.append(preface)
        # Many are made before they are needed: what is done with one is known when something comes.
        if wire.buffer or wire.fill():
            with self._lock:
                self.used.append(preface)
            self.serve(origin, wire)

    def _link(self, wire: Wire) -> None:
        with self._lock:
            self.links += 1
            self._links.append(wire)
        places = {"Hello": self.said.hellos, "Policy": self.said.policies, "Want": self.said.wants}
        try:
            while True:
                ((kind, said),) = read_frame(wire).items()
                places[kind].append(said)
                if kind == "Want" and (granted := self.grant(said)) is not None:
                    wire.send(frame({"sequence": said["sequence"]} | granted))
        finally:
            with self._lock:
                self._links.remove(wire)


def granting(rate: float = 1e6, **changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The same for whatever is asked: so many requests a second."""
    granted = {
        "rate": rate,
        "lease_ms": 2000,
        "served": 0,
        "knows_policy": True,
        "takes_redirect": False,
        "trouble": "",
    }
    return lambda _: granted | changes
