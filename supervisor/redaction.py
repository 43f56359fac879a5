"""What of a text or of settings may leave the host in a bug report. Pure.

Rules:
- Too much is left out rather than too little: who reads the report can ask, and no secret can be called back.
- A value goes by where it is: under a name like `token`, in a table of headers, in credentials of a URL.
- A value goes by what it is: a PEM block, a JWT, what follows `Bearer`, a long run of letters and digits.
- A value that is known to be secret (of an environment, of settings) goes wherever else it turns up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"
SHORTEST: Final = 6
"""Characters of a known value that is looked for elsewhere: shorter ones turn up by chance."""

_NAMES: Final = (
    r"secret|token|passw|passphrase|pwd|credential|auth(?!or(?!iz))|cookie|session|signature|private|bearer|jwt|dsn|api_?key"
    r"|key|salt"
)
_SENSITIVE: Final = re.compile(_NAMES, re.IGNORECASE)
_TABLES: Final = frozenset(
    {"headers", "header", "set", "add", "append", "query", "cookies", "metadata", "resource", "env", "environment"}
)
"""Tables whose names are for people to choose, and whose values may be anything."""
_WORD: Final = rf"(?<![\w.\-])(?=[\w.\-]*(?:{_NAMES}))[\w.\-]++"
"""A whole word, taken at once or not at all: whatever a line holds, it is read in a time that grows with its length."""
_TEXTS: Final = (
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL), REDACTED),
    (re.compile(r"(\b[a-z][a-z0-9+.\-]*://)[^\s\"'<>]*@", re.IGNORECASE), rf"\1{REDACTED}@"),
    (re.compile(r"\b(Bearer|Basic|Digest|Negotiate)\s+\S+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(rf"({_WORD}[\"']?\s*:\s*)(?!//)[^\n]+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(rf"({_WORD}[\"']?\s*=\s*)(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s&;,]+)", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(rf"((?<!\S)(?=--?){_WORD}\s+)\S+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"\beyJ[\w\-]+(?:\.[\w\-]*){1,2}"), REDACTED),
    (re.compile(r"(?<![A-Za-z0-9_+=\-])(?=[\w+=\-]*[0-9])(?=[\w+=\-]*[A-Za-z])[A-Za-z0-9_+=\-]{20,}"), REDACTED),
)


class Redactor:
    """`known` are values that are secret wherever they are."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = {value for each in known for value in _forms(each) if len(value) >= SHORTEST}
        longest_first = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text without what looks like a secret, or is known to be one."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        for pattern, instead in _TEXTS:
            text = pattern.sub(instead, text)
        return text

    def tree(self, value: Any, *, hidden: bool = False) -> Any:
        """Plain data with its texts so treated. `hidden`: all of its values go, since of the name above it."""
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): self.tree(inner, hidden=hidden or is_hidden(str(key)))
                for key, inner in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.tree(inner, hidden=hidden) for inner in value]
        if value is None or isinstance(value, bool):
            return value
        if hidden:
            return REDACTED
        return value if isinstance(value, (int, float)) else self.text(str(value))


def is_hidden(name: str) -> bool:
    """Whether the values under that name are nobody's business."""
    return name.lower() in _TABLES or _SENSITIVE.search(name) is not None


def secrets_of(value: Any, *, hidden: bool = False) -> Iterable[str]:
    """The texts in plain data that stand under a name which hides them: to be looked for elsewhere, too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_of(inner, hidden=hidden or is_hidden(str(key)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from secrets_of(inner, hidden=hidden)
    elif hidden and isinstance(value, str):
        yield value


def _forms(value: str) -> Iterable[str]:
    """The value, and as it looks inside JSON and in a URL."""
    in_json = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    return value, *in_json, quote(value, safe=""), quote(value)
