"""llhttp's messages through the proxy. An entry of the table that no longer differs fails."""

from __future__ import annotations

import pytest

from tests.conformance.corpora import answer, case
from tests.conformance.corpora.case import Differences, Verdict, expected
from tests.conformance.corpora.conftest import Door
from tests.conformance.corpora.llhttp import read_answers, read_requests

REQUESTS: Differences = {
    Verdict.STRICTER: {
        "connection: CRLF between requests, implicit `keep-alive`": (
            "two empty lines before a request; RFC 9112, 2.2, has one in mind"
        ),
        "method: ANNOUNCE request with RTSP": "only HTTP is spoken",
        "method: OPTIONS request with RTSP": "only HTTP is spoken",
        "method: SOURCE request with ICE": "only HTTP is spoken",
        "method: CONNECT request": "CONNECT is not offered",
        "method: CONNECT request with CAPS": "CONNECT is not offered",
        "method: CONNECT with body": "CONNECT is not offered",
        "uri: Underscore in hostname": "CONNECT is not offered",
        "method: M-SEARCH request": "the target * is for OPTIONS only (RFC 9112, 3.2.4)",
        "method: PRI request HTTP2": "no HTTP/2 by prior knowledge here",
        "sample: Firefox GET": "'=' in a Host: some read a name, others none",
        "sample: curl GET": "'=' in a Host: some read a name, others none",
        "sample: No HTTP version": "HTTP/0.9 is not spoken",
        "transfer-encoding: POST with `chunked` as last transfer-encoding": (
            "chunked is the only coding that is known here, and it is named once"
        ),
        "transfer-encoding: POST with `chunked` as last transfer-encoding (multiple headers)": (
            "chunked is the only coding that is known here, and it is named once"
        ),
        "uri: Fragment in URI": "a fragment is none of a server's business: some cut it off, others do not",
        "uri: Host terminated by a query string": "no path before the query: some servers put one there, others do not",
        "uri: `host:port` terminated by a query string": (
            "no path before the query: some servers put one there, others do not"
        ),
        "uri: `host:port` and basic auth": (
            "user info in an authority is what one server takes for the host and another does not"
        ),
    },
    Verdict.TAKEN: {
        "connection: CRLF between requests, explicit `close` (lenient)": (
            "nothing is read after a request that closes its connection"
        ),
        "connection: Resetting flags when keep-alive is off (1.0, lenient)": (
            "nothing is read after a request that closes its connection"
        ),
        "invalid: HTTP protocol and ANNOUNCE method": "any token is a method; llhttp keeps a list",
        "invalid: Invalid method": "any token is a method; llhttp keeps a list",
        "lenient-headers: Second request header value (lenient)": (
            "the first request is good, and the second one refused"
        ),
        "transfer-encoding: No extension after semicolon": (
            "what an extension says is not looked at, and left out of what is forwarded"
        ),
        "transfer-encoding: Space after chunk header": (
            "white space after a chunk size: no reader finds another size in it, and it is written anew"
        ),
        "transfer-encoding: Space after chunk header (lenient)": (
            "white space after a chunk size: no reader finds another size in it, and it is written anew"
        ),
    },
    Verdict.CUT: {
        "connection: CRLF between requests, explicit `close`": (
            "nothing is read after a request that closes its connection"
        ),
        "connection: CRLF between requests, explicit `close` followed by tab": (
            "nothing is read after a request that closes its connection"
        ),
        "connection: No restart when keep-alive is off (1.0)": (
            "nothing is read after a request that closes its connection"
        ),
        "content-length: Content-Length reset when no body is received": (
            "the body does not come; the parser was told to skip it"
        ),
        "content-length: Error on `Content-Length` overflow": "the head does not end",
        "content-length: Error on duplicate `Content-Length`": "the head does not end",
        "content-length: Missing CRLF-CRLF before body": "the head does not end",
        "content-length: Missing CRLF-CRLF before body (lenient)": "the head does not end",
        "invalid: Invalid HTTP version": "the head does not end",
        "invalid: Invalid space after start line": "the head does not end",
        "lenient-header-value-relaxed: Space after start line must still fail": "the head does not end",
        "transfer-encoding: Unbalanced chunk extensions quoting": (
            "the body does not end; what an extension says is not looked at"
        ),
    },
}


ANSWERS: Differences = {
    Verdict.STRICTER: {
        "connection: HTTP 101 response with Upgrade and Content-Length header": "nobody asked for an upgrade",
        "connection: HTTP 101 response with Upgrade and Transfer-Encoding header": "nobody asked for an upgrade",
        "connection: HTTP 100 first, then 400": (
            "an empty line before a status line; RFC 9112, 2.2, has one before a request line only"
        ),
        "sample: Response starting with CRLF": (
            "an empty line before a status line; RFC 9112, 2.2, has one before a request line only"
        ),
        "sample: RTSP response": "only HTTP is spoken",
        "sample: ICE response": "only HTTP is spoken",
        "sample: HTTP version 0.9": "HTTP/0.9 is not spoken",
        "transfer-encoding: `chunked` before other transfer-encoding": (
            "chunked is the only coding that is known here, and it is named once"
        ),
        "transfer-encoding: multiple transfer-encoding where chunked is not the last one": (
            "chunked is the only coding that is known here, and it is named once"
        ),
        "transfer-encoding: `chunkedchunked` transfer-encoding does not enable chunked enconding": (
            "chunked is the only coding that is known here, and it is named once"
        ),
    },
    Verdict.OTHERWISE: {
        "content-length: Content-Length reset when no body is received": (
            "the body is none; the parser was told to skip it"
        ),
    },
    Verdict.TAKEN: {
        "connection: HTTP/1.1 with keep-alive disabled, content-length (lenient)": (
            "the first answer is good, and what is behind it reaches nobody"
        ),
        "connection: HTTP/1.1 with keep-alive disabled and 204 status (lenient)": (
            "the first answer is good, and what is behind it reaches nobody"
        ),
        "transfer-encoding: Trailing space on chunked body": (
            "white space after a chunk size: no reader finds another size in it, and it is written anew"
        ),
        "transfer-encoding: No extension after semicolon": (
            "what an extension says is not looked at, and left out of what is forwarded"
        ),
    },
    Verdict.CUT: {
        "transfer-encoding: Unbalanced chunk extensions quoting": (
            "the body does not end; what an extension says is not looked at"
        ),
    },
}


def test_the_corpus_is_complete() -> None:
    requests, answers = read_requests(), read_answers()
    assert sum(not one.refused for one in requests.values()) == 82
    assert sum(one.refused for one in requests.values()) == 84
    assert sum(one.expected is not None for one in answers.values()) == 55
    assert sum(one.expected is None for one in answers.values()) == 30
    for table, cases in ((REQUESTS, requests.keys()), (ANSWERS, answers.keys())):
        for reasons in table.values():
            assert reasons.keys() <= cases


def test_requests_are_read_as_llhttp_reads_them(door: Door, subtests: pytest.Subtests) -> None:
    for name, request in read_requests().items():
        with subtests.test(name):
            outcome = case.send_through(door.proxy, door.origin, request.data)
            assert case.judge(request, outcome) is expected(REQUESTS, name), outcome


def test_answers_are_read_as_llhttp_reads_them(door: Door, subtests: pytest.Subtests) -> None:
    for name, said in read_answers().items():
        with subtests.test(name):
            got = answer.answer_through(door.proxy, door.origin, said.data)
            assert answer.judge(said.expected, got) is expected(ANSWERS, name), got
