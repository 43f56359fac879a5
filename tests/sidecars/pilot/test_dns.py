"""DNS: what is answered to which name, asked by real clients (dig, and dnspython's) over UDP and TCP."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.errors import PannierError
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.sidecars.pilot.dns.answer import (
    ANSWERS,
    QUESTION_BYTES,
    TCP_BYTES,
    TTL,
    UDP_BYTES,
    Zone,
    label_of,
    zone_name,
)
from pannier.sidecars.pilot.dns.server import CONNECTIONS, FAIR, RATE, Budget, DnsServer

from tests.system.host import PATIENCE


def instance(
    service: str, name: str, address: str, state: State = State.UP, *, suspect: bool = False, **metadata: str
) -> Instance:
    return Instance(service, name, address, state, 1, 1, metadata, suspect)


KNOWN = [
    instance("orders", "a", "10.0.0.1:8001", weight="3"),
    instance("orders", "b", "10.0.0.2:8002", suspect=True, protocol="http"),
    instance("orders", "c", "[fd00::3]:8003", protocol="grpc"),
    instance("orders", "d", "10.0.0.4:8004", State.DRAINING),
    instance("orders", "e", "10.0.0.5:8005", State.STARTING),
    instance("orders", "f", "unix:/run/orders.sock"),
    instance("orders", "g", "orders.example.com:80"),
    instance("draining", "a", "10.0.1.1:80", State.DRAINING),
    instance("draining", "b", "10.0.1.2:80", State.DOWN),
    instance("named", "a", "db.example.com:80"),
    instance("v2.orders", "a.b", "10.0.2.1:80", weight="many"),
    *(instance("large", f"i{n}", f"10.1.{n // 250}.{n % 250 + 1}:80") for n in range(300)),
]


def of_service(name: str) -> Sequence[Instance]:
    return [instance for instance in KNOWN if instance.service == name]


def zone(name: str = "pannier.") -> Zone:
    return Zone(of_service, lambda: (7 << 32) + 5, sample=random.sample, name=zone_name(name))


def ask(name: str, kind: str, *, most: int = TCP_BYTES) -> dns.message.Message:
    answered = zone().answer(dns.message.make_query(name, kind, use_edns=True, payload=UDP_BYTES).to_wire(), most=most)
    assert answered.packet is not None
    return dns.message.from_wire(answered.packet)


def texts(message: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for found in message.answer for record in found)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("orders.pannier.", "A", ["10.0.0.1", "10.0.0.2"]),
        ("ORDERS.Pannier.", "A", ["10.0.0.1", "10.0.0.2"]),
        ("orders.pannier.", "AAAA", ["fd00::3"]),
        (
            "orders.pannier.",
            "SRV",
            ["0 1 8002 b.orders.pannier.", "0 1 8003 c.orders.pannier.", "0 3 8001 a.orders.pannier."],
        ),
        ("_http._tcp.orders.pannier.", "SRV", ["0 1 8002 b.orders.pannier.", "0 3 8001 a.orders.pannier."]),
        ("_grpc._tcp.orders.pannier.", "SRV", ["0 1 8003 c.orders.pannier."]),
        ("_smtp._tcp.orders.pannier.", "SRV", []),
        ("_http._tcp.orders.pannier.", "A", []),
        ("_tcp.orders.pannier.", "SRV", []),
        ("a.orders.pannier.", "A", ["10.0.0.1"]),
        ("d.orders.pannier.", "A", ["10.0.0.4"]),
        ("c.orders.pannier.", "A", []),
        ("c.orders.pannier.", "AAAA", ["fd00::3"]),
        ("a.orders.pannier.", "SRV", []),
        ("draining.pannier.", "A", ["10.0.1.1"]),
        ("named.pannier.", "A", []),
        ("named.pannier.", "SRV", []),
        ("v2.orders.pannier.", "A", ["10.0.2.1"]),
        ("v2.orders.pannier.", "SRV", [f"0 1 80 {label_of('a.b')}.v2.orders.pannier."]),
        (f"{label_of('a.b')}.v2.orders.pannier.", "A", ["10.0.2.1"]),
        ("orders.pannier.", "TXT", []),
        ("orders.pannier.", "ANY", ['"RFC8482" ""']),
        ("pannier.", "A", []),
        ("pannier.", "SOA", ["ns.pannier. hostmaster.pannier. 5 5 5 60 5"]),
        ("pannier.", "NS", ["ns.pannier."]),
    ],
)
def test_a_name_that_is_known(name: str, kind: str, expected: list[str]) -> None:
    message = ask(name, kind)
    assert (message.rcode(), texts(message)) == (dns.rcode.NOERROR, expected)
    assert message.flags & dns.flags.AA and not message.flags & dns.flags.RA
    assert all(found.ttl == TTL for section in (message.answer, message.additional) for found in section)
    if not expected:
        (authority,) = message.authority
        assert authority.rdtype == dns.rdatatype.SOA
        assert (authority.ttl, authority[0].minimum) == (TTL, TTL)


@pytest.mark.parametrize(
    "name",
    ["nobody.pannier.", "x.orders.pannier.", "e.orders.pannier.", "a.b.c.d.orders.pannier.", "_http._tcp.x.pannier."],
)
def test_a_name_that_is_not_known_is_denied_for_as_long_as_it_may_be_kept(name: str) -> None:
    message = ask(name, "A")
    assert (message.rcode(), message.answer) == (dns.rcode.NXDOMAIN, [])
    assert message.authority[0][0].minimum == TTL


def test_the_targets_of_srv_records_come_with_their_addresses() -> None:
    message = ask("orders.pannier.", "SRV")
    beside = {found.name.to_text(): found[0].to_text() for found in message.additional}
    assert beside == {"a.orders.pannier.": "10.0.0.1", "b.orders.pannier.": "10.0.0.2", "c.orders.pannier.": "fd00::3"}


@pytest.mark.parametrize(
    ("question", "rcode"),
    [
        (dns.message.make_query("orders.example.", "A"), dns.rcode.REFUSED),
        (dns.message.make_query("orders.notpannier.", "A"), dns.rcode.REFUSED),
        (dns.message.make_query("orders.pannier.", "A", rdclass="CH"), dns.rcode.REFUSED),
        (dns.message.make_query("pannier.", "AXFR"), dns.rcode.REFUSED),
        (dns.message.make_query("orders.pannier.", "A", use_edns=1), dns.rcode.BADVERS),
    ],
)
def test_what_is_not_ours_to_answer(question: dns.message.Message, rcode: dns.rcode.Rcode) -> None:
    packet = zone().answer(question.to_wire()).packet
    assert packet is not None
    assert dns.message.from_wire(packet).rcode() == rcode


def test_another_operation_is_not_done() -> None:
    question = dns.message.make_query("orders.pannier.", "A")
    question.set_opcode(dns.opcode.NOTIFY)
    assert zone().answer(question.to_wire()).rcode == dns.rcode.NOTIMP


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (b"", None),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00", None),
        (b"\x12\x34\x01\x00\x00\x01" + bytes(6), b"\x12\x34\x81\x01" + bytes(8)),
        (b"\x12\x34\x81\x00\x00\x01" + bytes(6), None),
        (dns.message.make_query("orders.pannier.", "A", id=0x1234).to_wire() + b"rest", "FORMERR"),
        (b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xc0\x0c\x00\x01\x00\x01", b"\x12\x34\x81\x01" + bytes(8)),
    ],
)
def test_what_cannot_be_read_is_said_to_be_so_unless_it_is_no_question(
    packet: bytes, answer: bytes | str | None
) -> None:
    found = zone().answer(packet)
    if answer == "FORMERR":
        assert found.packet is not None and found.packet[3] & 15 == dns.rcode.FORMERR
    else:
        assert found.packet == answer


def header(questions: int = 1, answers: int = 0, authorities: int = 0, additionals: int = 0) -> bytes:
    counts = (questions, answers, authorities, additionals)
    return b"\x12\x34\x01\x00" + b"".join(count.to_bytes(2, "big") for count in counts)


LONG = b"\x01a" * 117 + b"\x07pannier\x00" + b"\x00\x01\x00\x01"
TO_LONG = b"\xc0\x0c\x00\x05\x00\x01" + bytes(5) + b"\x02\xc0\x0e"
"""A record of 14 bytes, in which a long name stands twice."""


@pytest.mark.parametrize(
    "packet",
    [
        header(answers=275) + LONG + 275 * TO_LONG,
        header(answers=1) + LONG + TO_LONG,
        header(authorities=1) + LONG + TO_LONG,
        header(additionals=1) + LONG + TO_LONG,
        header(additionals=2) + LONG + 2 * TO_LONG,
        header(questions=2) + 2 * LONG,
        header() + LONG + bytes(QUESTION_BYTES),
    ],
    ids=["many records", "an answer", "an authority", "no options", "two additional", "two questions", "too long"],
)
def test_what_is_more_than_a_question_is_refused_unread(packet: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(dns.message, "from_wire", read.append)
    found = zone().answer(packet)
    assert (found.rcode, found.packet, read) == (dns.rcode.FORMERR, b"\x12\x34\x81\x01" + bytes(8), [])


def test_the_longest_question_is_read() -> None:
    query = dns.message.make_query(f"{'a' * 61}.{'b' * 61}.{'c' * 61}.{'d' * 54}.pannier.", "A", use_edns=True)
    assert zone().answer(query.to_wire()).rcode == dns.rcode.NXDOMAIN


def test_an_answer_is_nobodys_question() -> None:
    answer = zone().answer(dns.message.make_query("orders.pannier.", "A").to_wire()).packet
    assert answer is not None
    assert zone().answer(answer).packet is None


@given(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 255))
def test_nothing_that_is_sent_raises(tail: bytes, position: int, value: int) -> None:
    question = bytearray(dns.message.make_query("_http._tcp.orders.pannier.", "SRV", use_edns=True).to_wire())
    question[position % len(question)] = value
    for packet in (bytes(question), bytes(question[: position + 1]), bytes(question) + tail, tail):
        answer = zone().answer(packet).packet
        assert answer is None or len(answer) <= UDP_BYTES


def test_what_does_not_fit_loses_what_is_beside_it_first_and_is_cut_then() -> None:
    whole = ask("large.pannier.", "SRV")
    assert (len(whole.answer[0]), len(whole.additional)) == (ANSWERS, ANSWERS)
    cut = ask("large.pannier.", "SRV", most=UDP_BYTES)
    assert (cut.flags & dns.flags.TC, cut.answer) == (dns.flags.TC, [])
    without = ask("orders.pannier.", "SRV", most=200)
    assert (len(without.answer[0]), without.additional) == (3, [])


def test_answers_come_in_another_order_each_time() -> None:
    first = {tuple(record.to_text() for record in ask("orders.pannier.", "A").answer[0]) for _ in range(64)}
    assert len(first) == 2


@asynccontextmanager
async def serving() -> AsyncIterator[DnsServer]:
    server = DnsServer("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, zone())
        yield server
        nursery.cancel_scope.cancel()


async def dig(program: str, server: DnsServer, *words: str) -> list[str]:
    command = [program, "@127.0.0.1", "-p", str(server.port), "+tries=1", "+time=10", *words]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
    return sorted(filter(None, done.stdout.decode().splitlines()))


async def test_dig_is_answered_over_udp_and_over_tcp_what_does_not_fit(require_peer: Callable[[str], str]) -> None:
    program = require_peer("dig")
    async with serving() as server:
        assert await dig(program, server, "+short", "orders.pannier", "A") == ["10.0.0.1", "10.0.0.2"]
        assert await dig(program, server, "+short", "_grpc._tcp.orders.pannier", "SRV") == [
            "0 1 8003 c.orders.pannier."
        ]
        assert len(await dig(program, server, "+short", "large.pannier", "A")) == ANSWERS
        said = " ".join(await dig(program, server, "nobody.pannier", "A"))
        assert "status: NXDOMAIN" in said and "recursion requested but not available" in said
        assert "status: REFUSED" in " ".join(await dig(program, server, "example.com", "A"))
        assert "status: NOERROR" in " ".join(await dig(program, server, "+tcp", "orders.pannier", "AAAA"))
        statistics = server.statistics()
    assert (statistics.cut, statistics.refused, statistics.malformed, statistics.dropped) == (1, 1, 0, 0)


async def test_several_questions_on_one_connection_and_nonsense_ends_it() -> None:
    async with serving() as server:
        query = dns.message.make_query("orders.pannier.", "A")
        wire = query.to_wire()
        framed = len(wire).to_bytes(2, "big") + wire
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(framed + framed[:5])
            await stream.send_all(framed[5:] + b"\xff\xff")
            got = b""
            with trio.fail_after(PATIENCE):
                while part := await stream.receive_some():
                    got += part
            length = int.from_bytes(got[:2], "big")
            assert len(got) == 2 * (length + 2)
            assert dns.message.from_wire(got[2 : length + 2]).id == query.id


async def test_who_holds_connections_does_not_keep_datagrams_from_being_answered() -> None:
    async with serving() as server, trio.open_nursery() as nursery:
        held = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(CONNECTIONS)]
        with trio.fail_after(PATIENCE):
            more = await trio.open_tcp_stream("127.0.0.1", server.port)
            assert await more.receive_some() == b"", "there is no room for it"
            query = dns.message.make_query("orders.pannier.", "A")
            answer = await dns.asyncquery.udp(query, "127.0.0.1", port=server.port, timeout=PATIENCE)
        assert texts(answer) == ["10.0.0.1", "10.0.0.2"]
        for stream in [*held, more]:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_a_flood_is_answered_up_to_the_rate_and_leaves_the_others_their_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget()
    flood = [budget.take("10.0.0.1") for _ in range(2 * RATE)]
    assert flood.count(True) == RATE // 2
    others = [budget.take(f"10.0.{n}.2") for n in range(RATE // 2 // FAIR + 1) for _ in range(FAIR + 1)]
    assert others[: FAIR + 1] == [True] * FAIR + [False]
    assert others.count(True) == RATE // 2, "that is all"
    await trio.sleep(1)
    assert budget.take("10.0.0.1")


async def test_who_floods_over_udp_is_counted_and_answered_over_tcp() -> None:
    async with serving() as server:
        for _ in range(RATE):
            server._takes(server._udp, "127.0.0.1")
        dropped = server.statistics().dropped
        query = dns.message.make_query("orders.pannier.", "A")
        answer = await dns.asyncquery.tcp(query, "127.0.0.1", port=server.port, timeout=PATIENCE)
    assert dropped > 0 and texts(answer) == ["10.0.0.1", "10.0.0.2"]


async def test_a_port_that_is_taken_is_said() -> None:
    async with serving() as server:
        with pytest.raises(PannierError, match="cannot answer DNS"):
            DnsServer("127.0.0.1", server.port)
