"""h2's state machine of a connection, set up as a server of gRPC needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from pannier.sidecars.pilot.grpc.limits import Limits

_CONFIG: Final = H2Configuration(
    client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
)


class _Machine(H2Connection):
    """h2 remembers how each stream has ended; a connection that lives for weeks has millions of them."""

    MAX_CLOSED_STREAMS = 1000


def machine(limits: Limits) -> H2Connection:
    """One for a new connection, which has said its settings."""
    made = _Machine(_CONFIG)
    most = SettingCodes.MAX_CONCURRENT_STREAMS
    asked = {most: limits.streams, SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes}
    made.local_settings = Settings(client=False, initial_values=asked)
    made.decoder.max_header_list_size = limits.header_bytes
    made.initiate_connection()
    # who has not heard of it yet may open more, and is refused a stream then, not the connection
    del made.local_settings[most]
    made.local_settings[most] = limits.streams
    return made


def metadata_of(fields: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Header fields as texts; those of one name in one, with commas."""
    found: dict[str, str] = {}
    for raw, value in fields:
        name, text = raw.decode("latin-1"), value.decode("utf-8", "replace")
        found[name] = f"{found[name]},{text}" if name in found else text
    return found
