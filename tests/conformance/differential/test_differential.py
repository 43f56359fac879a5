"""What Pannier logs as forwarded is what real servers read, request by request; the check finds it when it is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.differential.bench import Bench
from tests.conformance.differential.cases import Case, make
from tests.conformance.differential.origins import SERVERS, Server
from tests.conformance.differential.reading import read_all
from tests.conformance.differential.run import told, try_cases

SEED = 2026
REQUESTS = 2_000
RequirePeer = Callable[[str], str]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_an_origin_reads_what_the_log_says(server: Server, require_peer: RequirePeer) -> None:
    program = require_peer(server.program)
    require_peer("node")
    tally, problems = try_cases(server, program, (make(SEED, n) for n in itertools.count()), REQUESTS)
    assert not problems, "\n".join(told(SEED, problem) for problem in problems)
    assert tally.logged >= REQUESTS
    assert tally.seen > REQUESTS / 2, "most of what is tried must be worth forwarding"


def test_what_one_side_alone_says_is_a_problem(short_path: Path, require_peer: RequirePeer) -> None:
    """The same requests, and each thing in turn said differently."""
    server = next(server for server in SERVERS if server.name == "node")
    requests = tuple(
        b"POST /9/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc" % index for index in range(2)
    )
    with Bench(short_path, server, require_peer("node"), patience_s=0.2) as bench:
        for number, change in enumerate(("nothing", "a line less", "a line more", "a path", "a body", "a status")):
            said = bench.converse(Case(number, requests, (), 1))
            lines, reads = said.lines, said.reads
            match change:
                case "a line less":
                    lines = lines[:1]
                case "a line more":
                    lines, reads = (*lines, replace(lines[1], request_id="x")), (*reads, reads[1])
                case "a path":
                    lines = (lines[0], replace(lines[1], path=b"/other"))
                case "a body":
                    reads = (reads[0], replace(reads[1], body=b"ab"))
                case "a status":
                    lines = (lines[0], replace(lines[1], status=404))
            problems = bench.check([replace(said, lines=lines, reads=reads)])
            assert bool(problems) == (change != "nothing"), change


@pytest.mark.parametrize(
    ("data", "bodies"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", [b"", b"hi"]),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nhi\r\n0\r\nX: y\r\n\r\n", [b"hi"]),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n", [None]),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nhi", [None]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", [b""]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", []),
    ],
)
def test_the_second_reading(data: bytes, bodies: list[bytes | None]) -> None:
    assert [read.body for read in read_all(data)] == bodies


def test_a_case_is_a_function_of_its_number() -> None:
    assert make(1, 7).data == make(1, 7).data != make(1, 8).data
