r"""The corpus of llhttp, the parser of Node.js: Markdown with a message beside the log of the parser's events.

It comes inside aiohttp's distribution. `\r`, `\n`, `\t`, `\f`, `\x41`, `\101` and a backslash at a line's end are
spelled out; each other line ends in CRLF. Of a case that llhttp takes only when it is told to be lenient, the strict
reading is that it is to be refused. A pause on an upgrade, or on CONNECT, is no error: the parser hands over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conformance.corpora.answer import Answer, AnswerCase
from tests.conformance.corpora.case import Case, Seen, as_forwarded, with_hosts
from tests.conformance.corpora.download import Distribution, read_files

AIOHTTP = Distribution("aiohttp", "3.14.5", "5558a7f5a05af9ecf744af91e5baefc436f93c9333e656c27ec253f9a6bbe178")
_CASE = re.compile(
    r"<!-- meta=(?P<meta>{.*?}) -->\s*```http\n(?P<input>.*?)```(?:(?!```).)*```log\n(?P<log>.*?)```", re.DOTALL
)
_HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
_SPAN = re.compile(r"off=(?P<off>\d+) len=(?P<len>\d+) span\[(?P<kind>\w+)\]")
_STATUS = re.compile(r"headers complete status=(?P<status>\d+) ")
_HANDED_OVER = re.compile(r"error code=(21|22|23) ")


@dataclass
class Logged:
    """A message, as far as the parser saw it; `status` is an answer's code."""

    method: bytes = b""
    target: bytes = b""
    status: int = 0
    body: bytes = b""
    whole: bool = False


@dataclass(frozen=True)
class Log:
    """What the parser reported: the messages, and whether it objected to something."""

    messages: list[Logged]
    error: bool


def read_requests() -> dict[str, Case]:
    """All cases of requests, by file and heading."""
    cases: dict[str, Case] = {}
    for heading, kind, data, log in _read("request"):
        strict = kind in ("request", "request-finish")
        name = heading if heading not in cases else f"{heading}, again"
        good = tuple(_seen(message) for message in log.messages if message.whole and strict)
        case = Case(name, with_hosts(data), good, refused=log.error or not strict)
        assert cases.setdefault(name, case) is case, f"three cases {name}"
    return cases


def read_answers() -> dict[str, AnswerCase]:
    """All cases of answers, by file and heading. Of several, the first that is final counts: it was asked for once."""
    cases: dict[str, AnswerCase] = {}
    for name, kind, data, log in _read("response"):
        final = next((message for message in log.messages if message.status == 101 or message.status >= 200), None)
        good = final is not None and "lenient" not in kind and (final.whole or not log.error)
        expected = Answer(final.status, final.body, final.whole) if final is not None and good else None
        case = AnswerCase(data, expected)
        assert cases.setdefault(name, case) is case, f"two cases {name}"
    return cases


def _read(folder: str) -> Iterator[tuple[str, str, bytes, Log]]:
    for file, content in sorted(read_files(AIOHTTP, f"vendor/llhttp/test/{folder}").items()):
        text = content.decode()
        assert len(_CASE.findall(text)) == text.count("```http\n"), f"{file} is written in another way"
        for found in _CASE.finditer(text):
            heading = _HEADING.findall(text, 0, found.start())[-1]
            data = _unescape(found["input"])
            kind = json.loads(found["meta"])["type"]
            yield f"{file.removesuffix('.md')}: {heading}", kind, data, _parse(found["log"], data)


def _unescape(text: str) -> bytes:
    text = text.removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
    for escape, meant in {"\\r": "\r", "\\n": "\n", "\\t": "\t", "\\f": "\f"}.items():
        text = text.replace(escape, meant)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8)), text).encode()


def _parse(log: str, data: bytes) -> Log:
    messages: list[Logged] = []
    error = False
    for line in log.splitlines():
        if line.endswith("message begin"):
            messages.append(Logged())
        elif found := _SPAN.match(line):
            span = data[int(found["off"]) : int(found["off"]) + int(found["len"])]
            match found["kind"]:
                case "method":
                    messages[-1].method += span
                case "url":
                    messages[-1].target += span
                case "body":
                    messages[-1].body += span
        elif found := _STATUS.search(line):
            messages[-1].status = int(found["status"])
        elif line.endswith("message complete"):
            messages[-1].whole = True
        elif "error code=" in line and not _HANDED_OVER.search(line):
            error = True
    return Log(messages, error)


def _seen(message: Logged) -> Seen:
    return Seen(message.method.decode("latin-1"), as_forwarded(message.target.decode("latin-1")), message.body)
