"""What the parts of a profile say that cannot be meant together, though each is right by itself. Pure.

A sidecar sees its own settings alone; here they are seen beside one another. Nothing of this is refused: a service that
nobody knows today may be started tomorrow. Only what is needed of a sidecar's settings is looked at, by name, as a
third party's sidecar may stand in for one of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from pannier.shared.duration import milliseconds
from pannier.shared.explain import Finding, near_match
from pannier.shared.profile import Profile
from pannier.shared.toml_position import Path

RETRIES_OF_NOBODY: Final = "PAN0401"
UNKNOWN_SERVICE: Final = "PAN0402"
EMPTY_SUBSET: Final = "PAN0403"
OUTLASTS_CALLEE: Final = "PAN0404"

EVERY: Final = "*"

S = TypeVar("S", bound=msgspec.Struct)


class _Timeouts(msgspec.Struct):
    request: str | None = None
    backend_request: str | None = None


class _Mirror(msgspec.Struct):
    to: str


class _Route(msgspec.Struct):
    side: str = "outbound"
    to: dict[str, int] = {}
    retries: int | None = None
    timeouts: _Timeouts = msgspec.field(default_factory=_Timeouts)
    mirror: _Mirror | None = None


class _Service(msgspec.Struct):
    subsets: dict[str, dict[str, str]] = {}
    mirror: _Mirror | None = None


class _Traffic(msgspec.Struct):
    services: dict[str, _Service] = {}
    routes: list[_Route] = []


class _Resilience(msgspec.Struct):
    services: dict[str, Any] = {}


def contradictions(profile: Profile) -> list[Finding]:
    """Warnings, with paths from the root of the profile."""
    traffic = _seen(profile, "traffic", _Traffic)
    resilience = _seen(profile, "resilience", _Resilience)
    found: list[Finding] = []
    if resilience is None:
        found += _retries(traffic)
    if "discovery" not in profile.sidecars:
        found += _names(profile, traffic, resilience)
        found += _subsets(profile, traffic)
    return found + list(_timeouts(profile, traffic))


def _seen(profile: Profile, sidecar: str, type_: type[S]) -> S | None:
    if sidecar not in profile.sidecars:
        return None
    try:
        return msgspec.convert(profile.sidecars[sidecar], type_, from_attributes=True)
    except msgspec.ValidationError:  # not ours, but of the same name
        return None


def _retries(traffic: _Traffic | None) -> Iterator[Finding]:
    for number, route in enumerate(traffic.routes if traffic else []):
        if route.retries and route.side == "outbound":
            yield Finding(
                ("sidecars", "traffic", "routes", number, "retries"),
                RETRIES_OF_NOBODY,
                "nobody retries: resilience is not in this profile",
                "expected [sidecars.resilience], or no `retries`",
                severity="warning",
            )


def _names(profile: Profile, traffic: _Traffic | None, resilience: _Resilience | None) -> Iterator[Finding]:
    known = sorted(name.lower() for name in profile.services)
    for path, service, at_key in _named(traffic, resilience):
        if service not in known:
            yield Finding(
                path,
                UNKNOWN_SERVICE,
                f"nobody knows a service {service}: it is not in `services`, and there is no discovery",
                f"known: {', '.join(known[:12]) or 'none'}",
                near_match(service, known),
                at_key,
                severity="warning",
            )


def _named(traffic: _Traffic | None, resilience: _Resilience | None) -> Iterator[tuple[Path, str, bool]]:
    """Every mention of a service: where, which, and whether it is a key."""
    for name in resilience.services if resilience else []:
        if name != EVERY:
            yield ("sidecars", "resilience", "services", name), name, True
    if traffic is None:
        return
    here: Path
    for name, service in traffic.services.items():
        here = ("sidecars", "traffic", "services", name)
        yield here, name, True
        if service.mirror is not None:
            yield (*here, "mirror", "to"), _service_of(service.mirror.to), False
    for number, route in enumerate(traffic.routes):
        here = ("sidecars", "traffic", "routes", number)
        for target in route.to:
            yield (*here, "to", target), _service_of(target), True
        if route.mirror is not None:
            yield (*here, "mirror", "to"), _service_of(route.mirror.to), False


def _service_of(target: str) -> str:
    return target.partition("/")[0]


def _subsets(profile: Profile, traffic: _Traffic | None) -> Iterator[Finding]:
    endpoints = {name.lower(): found for name, found in profile.services.items()}
    for name, service in traffic.services.items() if traffic else ():
        for subset, labels in service.subsets.items() if name in endpoints else ():
            if not any(labels.items() <= endpoint.metadata.items() for endpoint in endpoints[name]):
                yield Finding(
                    ("sidecars", "traffic", "services", name, "subsets", subset),
                    EMPTY_SUBSET,
                    f"nobody is in it: no endpoint under services.{name} has that metadata",
                    "expected metadata there, or [sidecars.discovery], which may learn of one that has",
                    at_key=True,
                    severity="warning",
                )


def _timeouts(profile: Profile, traffic: _Traffic | None) -> Iterator[Finding]:
    """A route's timeouts replace the profile's on our side; before the callee's app the profile's holds."""
    callees = profile.proxy.timeouts.request
    for number, route in enumerate(traffic.routes if traffic else []):
        given = {
            field: text
            for field, text in (
                ("request", route.timeouts.request),
                ("backend_request", route.timeouts.backend_request),
            )
            if text is not None and milliseconds(text)
        }
        if route.side != "outbound" or not given:
            continue
        field = min(given, key=lambda field: milliseconds(given[field]))
        if milliseconds(given[field]) > milliseconds(callees) > 0:
            yield Finding(
                ("sidecars", "traffic", "routes", number, "timeouts", field),
                OUTLASTS_CALLEE,
                f"a callee under the same profile gives up after {callees} (proxy.timeouts.request)",
                f"expected at most {callees}, or more there",
                severity="warning",
            )
