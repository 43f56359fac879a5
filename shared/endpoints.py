"""What a discovery sidecar tells of endpoints over HTTP, in more detail than on the bus, whose messages are small:
`GET /v1/endpoints` and `GET /v1/sources` on `api.sock`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from pannier.shared.detours import Share


class Endpoint(msgspec.Struct, frozen=True):
    """An instance of a service, or a place that was written down (`source` is `file`, its epoch 0). `suspect`: its
    renewals are missed, and it is kept all the same. `centrals`: by way of them a part of its requests goes."""

    service: str
    id: str
    address: str
    state: str
    source: str
    epoch: int = 0
    weight: int = 1
    suspect: bool = False
    metadata: Mapping[str, str] = {}
    centrals: Sequence[Share] = ()


class Endpoints(msgspec.Struct, frozen=True):
    """By service. `services` are all that are known, also those of whom nobody is there."""

    services: Sequence[str]
    endpoints: Sequence[Endpoint]


class Source(msgspec.Struct, frozen=True):
    """Where endpoints come from: `kind` says how, `place` where, `endpoints` how many. `trouble` is empty if it is
    well."""

    kind: str
    place: str
    endpoints: int
    trouble: str = ""


class Sources(msgspec.Struct, frozen=True):
    """The best first."""

    sources: Sequence[Source]
