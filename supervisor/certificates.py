"""Whether the files of `central.tls` can be used, asked before anything starts: later nobody would be looking.

The data path reads them by itself. What is asked here is what an operator gets wrong: a path, a right, a file that is
no PEM, a key of another certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pannier.shared.central import Certificates
from pannier.shared.explain import UNREADABLE, Finding

_LARGEST: Final = 256 * 1024
"""Bytes; a chain of certificates takes a few thousand."""


def findings(tls: Certificates | None) -> list[Finding]:
    """What is wrong with the files, with paths from the root of the profile."""
    if tls is None:
        return []
    unread = list(_unread(tls))
    return unread or list(_unusable(tls))


def _unread(tls: Certificates) -> Iterator[Finding]:
    for field in ("certificate", "key", "authority"):
        path = Path(getattr(tls, field))
        try:
            with path.open("rb") as file:
                size = len(file.read(_LARGEST + 1))
        except OSError as error:
            yield _finding(
                field, f"cannot read {path}: {error.strerror}", "expected a file in PEM that is ours to read"
            )
            continue
        if size > _LARGEST:
            yield _finding(field, f"{path} is larger than {_LARGEST // 1024} KiB", "expected a file in PEM")


def _unusable(tls: Certificates) -> Iterator[Finding]:
    import ssl  # only who uses certificates pays for it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(tls.authority)
    except (ssl.SSLError, OSError) as error:
        yield _finding("authority", f"{tls.authority} has no certificate: {_reason(error)}", "expected a CA in PEM")
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        text = f"{tls.key} is no key of {tls.certificate}: {_reason(error)}"
        yield _finding("key", text, "expected the certificate's own key in PEM, without a password")


def _no_password() -> str:
    """Nobody could be asked for one when the service starts."""
    return ""


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).lower().replace("_", " ")


def _finding(field: str, message: str, expectation: str) -> Finding:
    return Finding(("central", "tls", field), UNREADABLE, message, expectation)
