"""What a request is called and when it counts as failed: OpenTelemetry's words and Envoy's flags, in one place.

Two notions of failure exist side by side, on purpose:

- `error_type` follows OpenTelemetry's HTTP conventions, where a 4xx is an error to the caller and none to the server;
  it labels metrics and spans.
- `pannier.shared.outcome.succeeded` follows Linkerd, where only 5xx and broken exchanges fail; it feeds the rate of
  success in `stat`.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"

OTHER: Final = "_OTHER"
INBOUND: Final = "inbound"

METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})

INFORMATIONAL: Final = frozenset({"DI", "CF"})
"""Flags that describe a request without being the reason for a failure."""


def known_method(method: str) -> str:
    """The method, or `_OTHER`: a label must not be of the caller's choosing."""
    return method if method in METHODS else OTHER


def error_type(direction: str, status: int, flag: str) -> str:
    """OpenTelemetry's `error.type`: the response flag where there is one, else the status code; empty for no error."""
    if direction == INBOUND and 400 <= status < 500:
        return ""
    if flag and flag not in INFORMATIONAL:
        return flag
    if status == 0 or status >= (500 if direction == INBOUND else 400):
        return flag or (str(status) if status else OTHER)
    return ""


def authority_parts(authority: str) -> tuple[str, int | None]:
    """`host:port` → host without brackets, port if there is a valid one."""
    host, separator, port = authority.rpartition(":")
    if not separator or (port and not port.isascii()) or not port.isdigit() or "]" in port:
        return authority.strip("[]"), None
    if ":" in host and not host.startswith("["):
        return authority, None
    return host.strip("[]"), int(port) if int(port) < 65536 else None
