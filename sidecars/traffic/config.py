"""What a profile may say under `sidecars.traffic`: where calls go, and what happens to them on the way.

Two kinds of statement. A *service* says how one callee is called whenever it is called: balancing, subsets, the split
between them, a canary under way, mirroring, an injected fault. A *route* matches requests, the first match in file
order wins, and may send them elsewhere or change them. Words are those of Istio's DestinationRule and VirtualService
and of Gateway API's HTTPRoute. A target is `SERVICE` or `SERVICE/SUBSET`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field
from pannier.shared.duration import Duration
from pannier.shared.explain import Finding
from pannier.shared.messages import CANARY
from pannier.shared.profile import MAX_SERVICES
from pannier.shared.rights import Needs

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
SUBSET = r"^[a-z0-9][a-z0-9-]{0,31}$(?!\n)"
TARGET = r"^[a-z0-9][a-z0-9._-]{0,62}(/[a-z0-9][a-z0-9-]{0,31})?$(?!\n)"
TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$(?!\n)"

ServiceName = Annotated[str, Meta(pattern=NAME, description='a service name such as "orders"')]
SubsetName = Annotated[str, Meta(pattern=SUBSET, description='a subset name such as "v2"')]
Target = Annotated[
    str, Meta(pattern=TARGET, description='a service or a subset of one, such as "orders" or "orders/v2"')
]
FieldName = Annotated[str, Meta(pattern=TOKEN, description="a header, cookie or parameter name")]
FieldValue = Annotated[str, Meta(pattern=r"^[ -~]{0,1024}$(?!\n)", description="up to 1024 printable characters")]
Path = Annotated[str, Meta(pattern=r"^/[!\"$->@-~]{0,1023}$(?!\n)", description='a path such as "/orders"')]
Regex = Annotated[str, Meta(min_length=1, max_length=512, description="a regular expression of up to 512 characters")]
Label = Annotated[str, Meta(min_length=1, max_length=256)]
Weight = Annotated[int, Meta(ge=0, le=10_000)]
Percent = Annotated[float, Meta(ge=0, le=100, description="a percentage, 0 to 100")]
Status = Annotated[int, Meta(ge=200, le=599, description="a status, 200 to 599")]
Split = dict[SubsetName, Weight]
MAX_ROUTES = 10_000
MAX_OF_ROUTE = 128
"""Hosts, and matches: the data path looks each match up under each host."""


class Injected(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault: `delay` first, then `abort` with a status, each for `percent` of the requests.

    It stops by itself at `until` (seconds since the epoch); a fault that a profile writes down may leave that out.
    """

    delay: Duration | None = None
    abort: Annotated[int, Meta(ge=400, le=599, description="a status, 400 to 599")] | None = None
    percent: Percent = 100.0
    until: Annotated[float, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None:
            raise ValueError("a fault delays or aborts: give `delay` or `abort`")


class Mirror(Struct, frozen=True, forbid_unknown_fields=True):
    """A copy of `percent` of the requests goes to `to`; what comes back is dropped and never affects the answer."""

    to: Target
    percent: Percent = 100.0


class Affinity(Struct, frozen=True, forbid_unknown_fields=True):
    """Session affinity (GEP-1619): requests with the same `cookie` or `header` value go to the same endpoint.

    A request without the cookie is given one that lasts `ttl`; without a `ttl` it lasts as long as the browser.
    """

    cookie: FieldName | None = None
    header: FieldName | None = None
    ttl: Duration | None = None

    def __post_init__(self) -> None:
        if (self.cookie is None) == (self.header is None):
            raise ValueError("affinity needs `cookie` or `header`, one of them")


class Shift(Struct, frozen=True, forbid_unknown_fields=True):
    """A canary under way: every `every`, `step` percentage points more go to the subset `to`, until `until`.

    `abort_on` is a condition on the canary alone, measured over the step: `success<99%`. If it holds for at least
    `min_requests`, everything goes back to where it went before, and stays there while the shift is the same. `started`
    (seconds since the epoch) tells one shift from an older one with the same settings.
    """

    to: SubsetName
    step: Annotated[int, Meta(ge=1, le=100)] = 10
    every: Duration = "30s"
    until: Annotated[int, Meta(ge=1, le=100)] = 100
    abort_on: Annotated[
        str,
        Meta(pattern=r"^success<[0-9]{1,3}(\.[0-9]{1,3})?%$(?!\n)", description='a condition such as "success<99%"'),
    ] = "success<99%"
    min_requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    started: Annotated[float, Meta(ge=0)] | None = None


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    """How one callee is called, whoever's route leads there.

    `subsets` select endpoints by their metadata. `split` shares the calls among them by weight; without it all
    endpoints are equal. `slow_start` warms a new endpoint up over that time, from 10 % of its weight. `locality`
    prefers endpoints in our zone (from 6 endpoints up) or first those on this host.
    """

    balance: Literal["p2c_ewma", "least_request", "round_robin", "random", "ring_hash", "maglev"] | None = None
    affinity: Affinity | None = None
    slow_start: Duration = "0s"
    locality: Literal["off", "zone", "host"] = "zone"
    subsets: dict[SubsetName, dict[Label, Label]] = {}
    split: Split = {}
    shift: Shift | None = None
    mirror: Mirror | None = None
    fault: Injected | None = None


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on a text: `exact`, a linear-time `regex` over all of it, or `present`."""

    exact: FieldValue | None = None
    regex: Regex | None = None
    present: bool | None = None

    def __post_init__(self) -> None:
        if sum(condition is not None for condition in (self.exact, self.regex, self.present)) != 1:
            raise ValueError("a condition is one of `exact`, `regex`, `present`")


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it must hold. `prefix` is one of whole path segments: `/a` matches `/a` and `/a/b`, not `/ab`."""

    path: Path | None = None
    prefix: Path | None = None
    regex: Regex | None = None
    method: Annotated[str, Meta(pattern=r"^[A-Z]{1,16}$(?!\n)", description='a method such as "GET"')] | None = None
    headers: dict[FieldName, Text] = {}
    query: dict[FieldName, Text] = {}
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    source: ServiceName | None = None

    def __post_init__(self) -> None:
        if sum(condition is not None for condition in (self.path, self.prefix, self.regex)) > 1:
            raise ValueError("`path`, `prefix` and `regex` exclude one another")


class Rewrite(Struct, frozen=True, forbid_unknown_fields=True):
    """`path` replaces the path, `prefix` the matched prefix; the query stays. `host` replaces the authority."""

    path: Path | None = None
    prefix: Path | None = None
    host: FieldValue | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.prefix is not None:
            raise ValueError("`path` and `prefix` exclude one another")


class Redirect(Struct, frozen=True, forbid_unknown_fields=True):
    """An answer of ours that sends the caller elsewhere; what is not given stays as it was asked for."""

    status: Literal[301, 302, 303, 307, 308] = 302
    scheme: Literal["http", "https"] | None = None
    host: FieldValue | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    path: Path | None = None
    prefix: Path | None = None


class Headers(Struct, frozen=True, forbid_unknown_fields=True):
    """Edits of a head: `remove` first, then `set` (replaces), then `add`. Fields that frame a message are refused."""

    set: dict[FieldName, FieldValue] = {}
    add: dict[FieldName, FieldValue] = {}
    remove: list[FieldName] = []


class RouteTimeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """GEP-1742: `request` bounds everything including retries, `backend_request` each attempt; `0s` = off."""

    request: Duration | None = None
    backend_request: Duration | None = None


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers preflights, and marks answers to allowed origins. `*` is any origin, without credentials."""

    origins: list[FieldValue]
    methods: list[Annotated[str, Meta(pattern=r"^[A-Z]{1,16}$(?!\n)")]] = field(
        default_factory=lambda: ["GET", "HEAD", "POST"]
    )
    headers: list[FieldName] = []
    expose: list[FieldName] = []
    credentials: bool = False
    max_age: Duration = "0s"

    def __post_init__(self) -> None:
        if self.credentials and "*" in self.origins:
            raise ValueError("browsers refuse credentials for origin `*`: name the origins")


class Route(Struct, frozen=True, forbid_unknown_fields=True):
    """One route. It applies to the `hosts` (`*` = any; outbound: service names), where one of `matches` holds.

    `side`: calls of the app to others, or requests from outside. `to` shares them among targets by weight (`inbound`
    has no choice: they go to the app). `retries` is the number of retries, where resilience is there to make them.
    """

    name: ServiceName
    side: Literal["outbound", "inbound"] = "outbound"
    hosts: Annotated[list[FieldValue], Meta(min_length=1, max_length=MAX_OF_ROUTE)] = field(
        default_factory=lambda: ["*"]
    )
    matches: Annotated[list[Match], Meta(max_length=MAX_OF_ROUTE)] = []
    to: dict[Target, Weight] = {}
    rewrite: Rewrite | None = None
    redirect: Redirect | None = None
    request: Headers | None = None
    response: Headers | None = None
    timeouts: RouteTimeouts = RouteTimeouts()
    retries: Annotated[int, Meta(ge=0, le=10)] | None = None
    mirror: Mirror | None = None
    fault: Injected | None = None
    cors: Cors | None = None

    def __post_init__(self) -> None:
        if self.side == "inbound" and self.to:
            raise ValueError("an inbound route leads to the app: leave `to` out")
        if self.side == "inbound" and any(match.source is not None for match in self.matches):
            raise ValueError("who calls from outside is not known: leave `source` out")


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a profile that configures this sidecar.

    `allow` says which experiments this stage permits. `zone` is where this instance runs.
    """

    needs: ClassVar[Needs] = Needs(writes=("routes",), reads=("endpoints", "base", "counters"), publishes=(CANARY,))

    allow: list[Literal["fault", "mirror"]] = []
    zone: Label | None = None
    services: Annotated[dict[ServiceName, Service], Meta(max_length=MAX_SERVICES)] = {}
    routes: Annotated[list[Route], Meta(max_length=MAX_ROUTES)] = []

    def contradictions(self) -> list[Finding]:
        """What this says that cannot all hold, or cannot be meant; paths are relative to this part of the profile."""
        from pannier.sidecars.traffic.analysis import contradictions

        return contradictions(self)
