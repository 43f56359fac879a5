"""gunicorn's requests through the proxy. An entry of the table that no longer differs fails."""

from __future__ import annotations

import pytest

from tests.conformance.corpora.case import Differences, Verdict, expected, judge, send_through
from tests.conformance.corpora.conftest import Door
from tests.conformance.corpora.gunicorn import read_cases

DIFFERENCES: Differences = {
    Verdict.STRICTER: {
        "valid/002": "'=' in a Host: some read a name, others none",
        "valid/003": "'=' in a Host: some read a name, others none",
        "valid/005": "a fragment is none of a server's business: some cut it off, others do not",
        "valid/025": "chunked is the only coding that is known here, and it is named once",
        "valid/025_line": "chunked is the only coding that is known here, and it is named once",
        "valid/028": "a space before the colon; gunicorn takes it only with strip_header_spaces",
        "valid/029": "chunked is the only coding that is known here, and it is named once",
        "valid/030": "chunked is the only coding that is known here, and it is named once",
        "valid/040": (
            "Content_Length and Transfer_Encoding become framing fields where '_' is read as '-'; gunicorn drops them"
        ),
        "valid/040_compat": (
            "Content_Length and Transfer_Encoding; gunicorn takes them only with header_map = dangerous"
        ),
        "valid/compat_obs_fold": "a folded field is read as one field or as two",
        "valid/compat_obs_fold_huge": "a folded field is read as one field or as two",
        "valid/pp_01": "the PROXY protocol is not spoken: the caller's address is the socket's",
        "valid/pp_02": "the PROXY protocol is not spoken: the caller's address is the socket's",
        "valid/pp_04": "the PROXY protocol is not spoken: the caller's address is the socket's",
        "valid/pp_05": "the PROXY protocol is not spoken: the caller's address is the socket's",
        "valid/rfc9112_smuggle_gzip_chunked_01": "chunked is the only coding that is known here, and it is named once",
        "valid/rfc9112_smuggle_te_identity_chunked_01": (
            "chunked is the only coding that is known here, and it is named once"
        ),
        "valid/rfc9112_target_absolute_https_01": "what was asked for over TLS is not answered without",
        "valid/rfc9112_target_absolute_userinfo_01": (
            "user info in an authority is what one server takes for the host and another does not"
        ),
        "valid/rfc9112_target_authority_connect_01": "CONNECT is not offered",
        "valid/rfc9112_target_authority_ipv6_01": "CONNECT is not offered",
    },
    Verdict.OTHERWISE: {
        "valid/031compat": "methods are case-sensitive; gunicorn makes them upper case with casefold_http_method",
    },
    Verdict.TAKEN: {
        "invalid/003c": "'-bl' is a token, as any method is; gunicorn wants three capital letters",
        "invalid/006": "a limit of gunicorn's: a line of 4 KiB; ours is 8 KiB",
        "invalid/007": "a limit of gunicorn's: a field of 8190 bytes; ours is 60 KiB for all",
        "invalid/008": "a limit of gunicorn's: a field of 8190 bytes; ours is 60 KiB for all",
        "invalid/010": "a limit of gunicorn's that the case sets to 10 bytes",
        "invalid/017": "a limit of gunicorn's that the case sets to 14 bytes",
        "invalid/019": "X-Forwarded-Proto and X-Forwarded-Ssl contradict each other; the proxy reads neither",
        "invalid/041": "two Content-Type fields: passed on in their order; the proxy reads neither",
        "invalid/chunked_09": (
            "white space after a chunk size: no reader finds another size in it, and it is written anew"
        ),
        "invalid/limit_header_default_01": "a limit of gunicorn's: a field of 8190 bytes; ours is 60 KiB for all",
        "invalid/rfc9110_trailer_forbidden_host_01": "Host among the trailers is left out of what is forwarded",
    },
    Verdict.CUT: {
        "valid/099": "the body is shorter than its Content-Length; gunicorn's parser takes what there is",
        "invalid/001": "the head does not end",
        "invalid/pp_01": "the head does not end",
        "invalid/pp_02": "the head does not end",
        "invalid/pp_03": "the head does not end",
        "invalid/rfc9112_chunked_missing_final_crlf_01": "the body does not end",
    },
}


def test_the_corpus_is_complete() -> None:
    cases = read_cases()
    assert sum(not case.refused for case in cases.values()) == 62
    assert sum(case.refused for case in cases.values()) == 81
    for reasons in DIFFERENCES.values():
        assert reasons.keys() <= cases.keys()


def test_requests_are_read_as_gunicorn_reads_them(door: Door, subtests: pytest.Subtests) -> None:
    for name, case in read_cases().items():
        with subtests.test(name):
            outcome = send_through(door.proxy, door.origin, case.data)
            assert judge(case, outcome) is expected(DIFFERENCES, name), outcome
