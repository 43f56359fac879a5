"""What the pilot answers over DNS, for clients that know nothing else. Pure: a packet and a view in, a packet out.

    orders.pannier.               A, AAAA  the addresses of its instances
                                  SRV      their ports and weights (metadata `weight`), targets as below
    _http._tcp.orders.pannier.    SRV      of those whose metadata `protocol` is that; who says none speaks http
    ID.orders.pannier.            A, AAAA  of one instance; an id that is no label is `x` and a hash

Rules:
- Told are instances that are UP, doubted or not; those that drain only where nobody else is. Who is at a host name or
  a Unix socket is left out: he has no address to tell.
- Answers are in random order, at most `ANSWERS` of a service. What does not fit loses its additional records first,
  then it is cut and says so (TC), and the client comes again over TCP.
- What comes is read by dnspython, once its header says that it is one question and little more: a packet full of
  records with long names takes it most of a second. What is sent is a header and a few kinds of records, packed here:
  through its objects a service of fifty took twenty times as long, in a process that has instances to renew.
- Nothing is asked of others: names outside the zone are refused. Both "no such name" and "no such record" carry the
  zone's SOA, so that they are kept for `TTL` seconds and not longer.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import msgspec
from pannier.shared.errors import Blame, PannierError
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance

TTL: Final = 5
ANSWERS: Final = 128
UDP_BYTES: Final = 1232
"""What is sent in one datagram at most; less to a client that does not say that it takes as much."""
QUESTION_BYTES: Final = 512
"""Of one question; one with the longest name and its options is shorter."""
TCP_BYTES: Final = 65_535
_CLASSIC_BYTES: Final = 512
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_SRV: Final = struct.Struct("!HHH")
_NUMBERS: Final = struct.Struct("!IIIII")
_POINTER: Final = 0xC000
_ASKED: Final = _HEADER.size
"""Where the name that was asked for stands in an answer."""
_OWN: Final = struct.pack("!H", _POINTER | _ASKED)
_OPTIONS: Final = b"\0" + struct.pack("!H", dns.rdatatype.OPT)
_RESPONSE: Final = 0x8000
_ECHOED: Final = 0x7900  # the kind of query, and whether recursion was wished
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_DEFAULT_PROTOCOL: Final = "http"
_SERVICES_KEPT: Final = 1024


class Answered(msgspec.Struct, frozen=True):
    """`packet` is None for what deserves no answer. `rcode` is that of the answer."""

    packet: bytes | None
    rcode: dns.rcode.Rcode = dns.rcode.FORMERR
    cut: bool = False


class _Place(msgspec.Struct, frozen=True):
    """An instance that has an address to tell, and what of it is in records."""

    label: str
    state: State
    protocol: str
    kind: dns.rdatatype.RdataType
    address: bytes
    srv: bytes


Sample: TypeAlias = Callable[[Sequence[_Place], int], Sequence[_Place]]


class _Found(msgspec.Struct):
    """The records of an answer, beginning with the owner's name; `exists`: there is such a name."""

    answer: Sequence[bytes] = ()
    additional: Sequence[bytes] = ()
    exists: bool = True


_DENIED: Final = _Found(exists=False)


def zone_name(text: str) -> dns.name.Name:
    """Raises PannierError for what is no name."""
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, ValueError) as error:
        raise PannierError(f"{text!r} is no DNS name: {error}", hint="such as pannier.", blame=Blame.USAGE) from error


class Zone:
    """Answers for one zone. `instances` are those of a service (none: there is no such service), `revision` grows when
    they change; `sample` is `random.sample`."""

    def __init__(
        self,
        instances: Callable[[str], Sequence[Instance]],
        revision: Callable[[], int],
        *,
        sample: Sample,
        name: dns.name.Name,
    ) -> None:
        self.name = name
        self._wire = _name(self.name)
        self._instances = instances
        self._sample = sample
        self._revision = revision
        self._kept: dict[str, Sequence[_Place] | None] = {}
        self._kept_at = -1

    def answer(self, packet: bytes, *, most: int = UDP_BYTES) -> Answered:
        """The answer to a packet, of at most so many bytes and of what the client takes; never raises."""
        query = _read(packet)
        if isinstance(query, Answered):
            return query
        if most == UDP_BYTES:
            most = min(most, max(query.payload, _CLASSIC_BYTES)) if query.edns >= 0 else _CLASSIC_BYTES
        found = self._found(query)
        if isinstance(found, dns.rcode.Rcode):
            return Answered(_packed(query, found), found)
        rcode = dns.rcode.NOERROR if found.exists else dns.rcode.NXDOMAIN
        authority = () if found.answer else (self._wire + _record(dns.rdatatype.SOA, self._soa()),)
        for additional in (found.additional, ()):  # which are a service to the client, and the first to go
            wire = _packed(query, rcode, found.answer, authority, additional, flags=dns.flags.AA)
            if len(wire) <= most:
                return Answered(wire, rcode)
        return Answered(_packed(query, rcode, flags=dns.flags.AA | dns.flags.TC), rcode, cut=True)

    def _found(self, query: dns.message.Message) -> _Found | dns.rcode.Rcode:
        if (refused := self._refused(query)) is not None:
            return refused
        question = query.question[0]
        labels = [label.decode("latin-1").lower() for label in question.name.relativize(self.name).labels]
        if not labels or labels == ["ns"]:
            found = self._own(question.rdtype) if not labels else _Found()
        else:
            found = self._of_service(question.name, labels, question.rdtype)
        if found.exists and question.rdtype == dns.rdatatype.ANY:
            # as RFC 8482 has it: a small answer to a question that only amplifies
            return _Found([_OWN + _record(dns.rdatatype.HINFO, b"\x07RFC8482\x00")])
        return found

    def _refused(self, query: dns.message.Message) -> dns.rcode.Rcode | None:
        if query.edns > 0:
            return dns.rcode.BADVERS
        question = query.question[0]
        transfer = dns.rdatatype.is_metatype(question.rdtype) and question.rdtype != dns.rdatatype.ANY
        ours = question.rdclass == dns.rdataclass.IN and question.name.is_subdomain(self.name)
        return dns.rcode.REFUSED if transfer or not ours else None

    def _own(self, kind: dns.rdatatype.RdataType) -> _Found:
        own = {dns.rdatatype.SOA: self._soa(), dns.rdatatype.NS: b"\x02ns" + self._wire}
        return _Found([_OWN + _record(kind, own[kind])] if kind in own else [])

    def _of_service(self, name: dns.name.Name, labels: Sequence[str], kind: dns.rdatatype.RdataType) -> _Found:
        for skipped in range(min(len(labels), 3)):
            before = labels[:skipped]
            places = self._places(".".join(labels[skipped:]))
            if places is None:
                continue
            match before:
                case []:
                    chosen = _chosen(places, self._sample)
                case [protocol, "_tcp"] if protocol.startswith("_"):
                    chosen = _chosen(places, self._sample, protocol[1:]) if kind == dns.rdatatype.SRV else ()
                case ["_tcp"]:
                    chosen = ()
                case [label] if any(place.label.lower() == label for place in places):
                    chosen = [place for place in places if place.label.lower() == label]
                    return _Found(_addresses(chosen, kind))
                case _:
                    return _DENIED
            return _services(name, skipped, chosen) if kind == dns.rdatatype.SRV else _Found(_addresses(chosen, kind))
        return _DENIED

    def _places(self, service: str) -> Sequence[_Place] | None:
        """Whom a service's name means, None if there is none; kept until something changes."""
        revision = self._revision()
        if revision != self._kept_at or len(self._kept) >= _SERVICES_KEPT:
            self._kept.clear()
            self._kept_at = revision
        if service not in self._kept:
            instances = self._instances(service)
            self._kept[service] = [place for i in instances for place in _placed(i)] if instances else None
        return self._kept[service]

    def _soa(self) -> bytes:
        serial = self._revision() & 0xFFFF_FFFF
        return b"\x02ns" + self._wire + b"\x0ahostmaster" + self._wire + _NUMBERS.pack(serial, TTL, TTL, 60, TTL)


def _chosen(places: Sequence[_Place], sample: Sample, protocol: str = "") -> Sequence[_Place]:
    """Whom a service's name means, in random order."""
    for state in (State.UP, State.DRAINING):
        found = [place for place in places if place.state is state and protocol in {"", place.protocol}]
        if found:
            return sample(found, min(len(found), ANSWERS))
    return ()


def _placed(instance: Instance) -> Iterator[_Place]:
    host, _, port = instance.address.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return
    if instance.state not in {State.UP, State.DRAINING}:
        return
    weight = instance.metadata.get("weight", "")
    number = min(int(weight), 65_535) if weight.isascii() and weight.isdigit() else 1
    yield _Place(
        label_of(instance.id),
        instance.state,
        instance.metadata.get("protocol", _DEFAULT_PROTOCOL).lower(),
        dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA,
        address.packed,
        _SRV.pack(0, number, int(port)),
    )


def label_of(instance: str) -> str:
    """The label by which an instance is told: its id, or something that stands for it."""
    if _LABEL.fullmatch(instance):
        return instance
    return "x" + hashlib.sha256(instance.encode()).hexdigest()[:20]


def _addresses(places: Sequence[_Place], kind: dns.rdatatype.RdataType) -> Sequence[bytes]:
    return [_OWN + _record(kind, place.address) for place in places if place.kind == kind]


def _services(name: dns.name.Name, skipped: int, places: Sequence[_Place]) -> _Found:
    """SRV records, with the addresses of their targets beside them. A target is below the service's own name, which
    is the end of the name that was asked for; in the record itself it has to be whole (RFC 2782)."""
    service = _name(dns.name.Name(name.labels[skipped:]))
    pointer = struct.pack("!H", _POINTER | _ASKED + sum(len(label) + 1 for label in name.labels[:skipped]))
    answer, additional = [], []
    for place in places:
        label = bytes((len(place.label),)) + place.label.encode()
        answer.append(_OWN + _record(dns.rdatatype.SRV, place.srv + label + service))
        additional.append(label + pointer + _record(place.kind, place.address))
    return _Found(answer, additional)


def _name(name: dns.name.Name) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in name.labels)


def _record(kind: int, data: bytes) -> bytes:
    """A record without its owner's name."""
    return _RECORD.pack(kind, dns.rdataclass.IN, TTL, len(data)) + data


def _packed(
    query: dns.message.Message,
    rcode: dns.rcode.Rcode,
    answer: Sequence[bytes] = (),
    authority: Sequence[bytes] = (),
    additional: Sequence[bytes] = (),
    *,
    flags: int = 0,
) -> bytes:
    flags |= _RESPONSE | query.flags & _ECHOED | rcode & 0xF
    asked = [_name(name.name) + struct.pack("!HH", name.rdtype, name.rdclass) for name in query.question[:1]]
    options: Sequence[bytes] = ()
    if query.edns >= 0:
        options = (b"\0" + _RECORD.pack(dns.rdatatype.OPT, UDP_BYTES, rcode >> 4 << 24, 0),)
    counts = (len(asked), len(answer), len(authority), len(additional) + len(options))
    return b"".join((_HEADER.pack(query.id, flags, *counts), *asked, *answer, *authority, *additional, *options))


def _read(packet: bytes) -> dns.message.Message | Answered:
    """The question in a packet, or what is said to one that is none: by its header, if that is enough."""
    if len(packet) < _HEADER.size:
        return Answered(None)
    _, flags, *counts = _HEADER.unpack_from(packet)
    if flags & dns.flags.QR:
        return Answered(None)
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return Answered(_bare(packet, dns.rcode.NOTIMP), dns.rcode.NOTIMP)
    malformed = Answered(_bare(packet, dns.rcode.FORMERR))
    few = counts[:3] == [1, 0, 0] and (counts[3] == 0 or (counts[3] == 1 and _has_options(packet)))
    if not few or len(packet) > QUESTION_BYTES:
        return malformed
    try:
        return dns.message.from_wire(packet)
    except (dns.exception.DNSException, ValueError, struct.error):
        return malformed


def _has_options(packet: bytes) -> bool:
    """Whether what follows the question is EDNS: a record of another kind may have more names to read."""
    end = _HEADER.size
    while end < len(packet) and packet[end]:
        end += packet[end] + 1
    return packet[end + 5 : end + 8] == _OPTIONS


def _bare(packet: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer to a question that is not read: its header."""
    number, flags, *_ = _HEADER.unpack_from(packet)
    return _HEADER.pack(number, _RESPONSE | flags & _ECHOED | rcode, 0, 0, 0, 0)
