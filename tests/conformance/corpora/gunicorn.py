"""gunicorn's corpus: a request a file, in which line ends are spelled out, beside what its parser makes of it.

The invalid ones come with the name of an exception, which means nothing to us. Some valid ones are valid only with an
option of gunicorn's that is off by default.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from tests.conformance.corpora.case import Case, Seen, as_forwarded, with_hosts
from tests.conformance.corpora.download import Distribution, read_files

GUNICORN = Distribution("gunicorn", "27.0.1", "b1514965361c8b7e8107a80aa2a92636878df1ccfac6dd204a676426e04d9e3e")
_ESCAPES = {b"\\r\\n": b"\r\n", b"\\0": b"\0", b"\\n": b"\n", b"\\t": b"\t"}


def read_cases() -> dict[str, Case]:
    """All cases by their names: `valid/001`, `invalid/chunked_01`."""
    return {case.name: case for kind in ("valid", "invalid") for case in _read(kind)}


def _read(kind: str) -> list[Case]:
    files = read_files(GUNICORN, f"tests/requests/{kind}")
    names = sorted(name.removesuffix(".http") for name in files if name.endswith(".http"))
    cases = []
    for name in names:
        good = _expected(files[f"{name}.py"]) if kind == "valid" else ()
        data = with_hosts(_unescape(files[f"{name}.http"]), only=len(good) == 1)
        cases.append(Case(f"{kind}/{name}", data, good, refused=kind == "invalid"))
    return cases


def _unescape(text: bytes) -> bytes:
    text = text.replace(b"\n", b"")
    for escape, meant in _ESCAPES.items():
        text = text.replace(escape, meant)
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda found: bytes.fromhex(found[1].decode()), text)


def _expected(python: bytes) -> tuple[Seen, ...]:
    """What the file beside a request assigns to `request`. Its lines about gunicorn's configuration are left out, so
    that gunicorn need not be there."""
    module = ast.parse(python)
    module.body = [line for line in module.body if isinstance(line, ast.Assign) and "cfg" not in ast.unparse(line)]
    names: dict[str, Any] = {"uri": str}
    exec(compile(module, "request", "exec"), names)
    request = names["request"]
    requests = request if isinstance(request, list) else [request]
    return tuple(Seen(one["method"], as_forwarded(one["uri"]), one["body"] or b"") for one in requests)
