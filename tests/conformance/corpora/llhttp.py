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

from tests.conformance.corpora.case import Case, Seen, as_forwarded, with_hosts
from tests.conformance.corpora.download import Distribution, read_files

AIOHTTP = Distribution("aiohttp", "3.14.5", "5558a7f5a05af9ecf744af91e5baefc436f93c9333e656c27ec253f9a6bbe178")
_CASE = re.compile(
    r"<!-- meta=(?P<meta>{.*?}) -->\s*```http\n(?P<input>.*?)```(?:(?!```).)*```log\n(?P<log>.*?)```", re.DOTALL
)
_HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
_SPAN = re.compile(r"off=(?P<off>\d+) len=(?P<len>\d+) span\[(?P<kind>\w+)\]")
_HANDED_OVER = re.compile(r"error code=(21|22|23) ")


@dataclass(frozen=True)
class Log:
    """What the parser reported: the whole messages, and whether it objected to something."""

    messages: tuple[Seen, ...]
    error: bool


def read_requests() -> dict[str, Case]:
    """All cases of requests, by file and heading."""
    cases: dict[str, Case] = {}
    for heading, kind, data, log in _read("request"):
        strict = kind in ("request", "request-finish")
        name = heading if heading not in cases else f"{heading}, again"
        case = Case(name, with_hosts(data), log.messages if strict else (), refused=log.error or not strict)
        assert cases.setdefault(name, case) is case, f"three cases {name}"
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
    messages = []
    method, target, body = b"", b"", b""
    error = False
    for line in log.splitlines():
        if line.endswith("message begin"):
            method, target, body = b"", b"", b""
        elif found := _SPAN.match(line):
            span = data[int(found["off"]) : int(found["off"]) + int(found["len"])]
            match found["kind"]:
                case "method":
                    method += span
                case "url" | "status":
                    target += span
                case "body":
                    body += span
        elif line.endswith("message complete"):
            messages.append(Seen(method.decode("latin-1"), as_forwarded(target.decode("latin-1")), body))
        elif "error code=" in line and not _HANDED_OVER.search(line):
            error = True
    return Log(tuple(messages), error)
