"""What a configuration of this sidecar says that cannot all hold, or cannot be meant. Pure.

An error is what the data path could not do, or the stage does not permit; a warning is what it does to the letter while
nobody can have meant it. Every rule stands alone: one finding never hides another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Final

from pannier import _native
from pannier.shared.duration import milliseconds
from pannier.shared.explain import Finding, near_match
from pannier.shared.toml_position import Path
from pannier.sidecars.traffic.canary import bound, origin
from pannier.sidecars.traffic.config import Config, Injected, Mirror, Route, Service
from pannier.sidecars.traffic.refusals import refusals
from pannier.sidecars.traffic.shadowing import TooMuch, shadowed
from pannier.sidecars.traffic.table import KIND

FORBIDDEN: Final = "PAN0201"
UNKNOWN_SUBSET: Final = "PAN0202"
NO_WEIGHT: Final = "PAN0203"
ODD_WEIGHTS: Final = "PAN0204"
SAME_NAME: Final = "PAN0205"
UNREACHABLE: Final = "PAN0206"
OVERLAP: Final = "PAN0207"
NOT_COMPARED: Final = "PAN0208"
TIMEOUTS: Final = "PAN0209"
REDIRECTED: Final = "PAN0210"
MIRRORED_BACK: Final = "PAN0211"
NO_KEY: Final = "PAN0212"
NO_SHIFT: Final = "PAN0213"
NO_PREFIX: Final = "PAN0214"
UNKNOWN_METHOD: Final = "PAN0215"
RETRIED_INBOUND: Final = "PAN0216"

SUMS: Final = frozenset({100, 1000})
METHODS: Final = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"])
SHOWN: Final = 3


def contradictions(config: Config) -> list[Finding]:
    """Findings with paths relative to this part of the profile."""
    found = list(
        chain(
            chain.from_iterable(_of_service(config, name, service) for name, service in config.services.items()),
            chain.from_iterable(_of_route(config, number, route) for number, route in enumerate(config.routes)),
            _same_names(config),
            _unreachable(config),
        )
    )
    faulty = {finding.path[:2] for finding in found if finding.severity == "error"}
    return [*found, *refusals(config, faulty, partial(_native.validate, KIND))]


def _of_service(config: Config, name: str, service: Service) -> Iterator[Finding]:
    here: Path = ("services", name)
    yield from _weights((*here, "split"), service.split)
    for subset in service.split:
        yield from _subset(config, (*here, "split", subset), name, subset, at_key=True)
    yield from _shift(config, name, service)
    yield from _mirror(config, (*here, "mirror"), service.mirror)
    if service.mirror is not None and service.mirror.to == name:
        yield _mirrored_back((*here, "mirror", "to"), name)
    yield from _fault(config, (*here, "fault"), service.fault)
    if service.balance in ("ring_hash", "maglev") and service.affinity is None:
        yield Finding(
            (*here, "balance"),
            NO_KEY,
            f"{service.balance} without `affinity` has nothing to tell sessions apart by",
            "expected `affinity` with a cookie or a header, or another policy",
            severity="warning",
        )


def _shift(config: Config, name: str, service: Service) -> Iterator[Finding]:
    shift, here = service.shift, ("services", name, "shift")
    if shift is None:
        return
    yield from _subset(config, (*here, "to"), name, shift.to)
    if not origin(service, shift.to):
        yield Finding(
            (*here, "to"), NO_SHIFT, f"{name} has no other subset from which to shift", "expected a second subset"
        )
    if float(bound(shift)) > 100:
        yield Finding((*here, "abort_on"), NO_SHIFT, "always holds: no canary passes it", "expected at most 100%")
    elif float(bound(shift)) == 0:
        yield Finding(
            (*here, "abort_on"),
            NO_SHIFT,
            "never holds: no canary is aborted",
            "expected more than 0%",
            severity="warning",
        )


def _of_route(config: Config, number: int, route: Route) -> Iterator[Finding]:
    here: Path = ("routes", number)
    yield from _weights((*here, "to"), route.to)
    for target in route.to:
        yield from _target(config, (*here, "to", target), target, at_key=True)
    yield from _mirror(config, (*here, "mirror"), route.mirror)
    if route.mirror is not None and route.mirror.to in route.to:
        yield _mirrored_back((*here, "mirror", "to"), route.mirror.to)
    yield from _fault(config, (*here, "fault"), route.fault)
    yield from _timeouts((*here, "timeouts"), route)
    yield from _paths(here, route)
    for index, match in enumerate(route.matches):
        if match.method is not None and match.method not in METHODS:
            yield Finding(
                (*here, "matches", index, "method"),
                UNKNOWN_METHOD,
                f"no method of HTTP's own: {match.method}",
                "only a caller that uses it reaches this",
                near_match(match.method, METHODS),
                severity="warning",
            )
    if route.side == "inbound" and route.retries:
        yield Finding(
            (*here, "retries"),
            RETRIED_INBOUND,
            "an inbound route retries nothing: retries are made on the caller's side",
            "expected it on an outbound route of the caller",
            severity="warning",
        )


def _paths(here: Path, route: Route) -> Iterator[Finding]:
    prefixed = [match.prefix is not None for match in route.matches]
    for field in ("rewrite", "redirect"):
        change = getattr(route, field)
        if change is not None and change.prefix is not None and not (prefixed and all(prefixed)):
            which = "not every match" if any(prefixed) else "no match"
            yield Finding(
                (*here, field, "prefix"),
                NO_PREFIX,
                f"replaces a matched prefix, and {which} of this route has one",
                "expected `path` here, or matches with a `prefix`",
                severity="warning" if any(prefixed) else "error",
            )
    if route.redirect is None:
        return
    for field in ("to", "rewrite"):
        if getattr(route, field):
            yield Finding(
                (*here, field),
                REDIRECTED,
                f"without effect: `{route.name}` redirects, so nothing is sent on",
                "expected this or `redirect`",
                severity="warning",
            )


def _timeouts(here: Path, route: Route) -> Iterator[Finding]:
    if route.timeouts.request is None or route.timeouts.backend_request is None:
        return
    request, attempt = milliseconds(route.timeouts.request), milliseconds(route.timeouts.backend_request)
    if not request or not attempt:
        return
    tries = (route.retries or 0) + 1
    if attempt >= request:
        yield Finding(
            (*here, "backend_request"),
            TIMEOUTS,
            f"never ends an attempt: `request` ({route.timeouts.request}) is over before it",
            f"expected less than {route.timeouts.request}",
            severity="warning",
        )
    elif request < tries * attempt:
        yield Finding(
            (*here, "request"),
            TIMEOUTS,
            f"shorter than {tries} attempts of {route.timeouts.backend_request}: the last ones are cut off",
            f"expected at least {tries * attempt}ms, or fewer `retries`",
            severity="warning",
        )


def _fault(config: Config, here: Path, fault: Injected | None) -> Iterator[Finding]:
    if fault is not None and "fault" not in config.allow:
        yield _forbidden(here, "fault", "injects no faults")


def _mirror(config: Config, here: Path, mirror: Mirror | None) -> Iterator[Finding]:
    if mirror is None:
        return
    if "mirror" not in config.allow:
        yield _forbidden(here, "mirror", "mirrors nothing")
    yield from _target(config, (*here, "to"), mirror.to)


def _forbidden(here: Path, what: str, stage: str) -> Finding:
    return Finding(
        here, FORBIDDEN, f"this stage {stage}: `sidecars.traffic.allow` is without it", f'expected allow = ["{what}"]'
    )


def _mirrored_back(here: Path, target: str) -> Finding:
    return Finding(
        here,
        MIRRORED_BACK,
        f"{target} gets every mirrored request twice",
        "expected another service or a subset",
        severity="warning",
    )


def _weights(here: Path, weights: Mapping[str, int]) -> Iterator[Finding]:
    total = sum(weights.values())
    if weights and not total:
        yield Finding(here, NO_WEIGHT, "all weights are 0: nothing can be called", "expected a weight above 0")
    elif len(weights) > 1 and total not in SUMS:
        yield Finding(
            here, ODD_WEIGHTS, f"the weights add up to {total}", "expected 100 (or 1000) in all", severity="warning"
        )


def _target(config: Config, here: Path, target: str, *, at_key: bool = False) -> Iterator[Finding]:
    service, slash, subset = target.partition("/")
    if slash:
        yield from _subset(config, here, service, subset, at_key=at_key)


def _subset(config: Config, here: Path, service: str, subset: str, *, at_key: bool = False) -> Iterator[Finding]:
    settings = config.services.get(service)
    known = [] if settings is None else list(settings.subsets)
    if subset not in known:
        yield Finding(
            here,
            UNKNOWN_SUBSET,
            f"{service} has no subset {subset}",
            f"known: {', '.join(known)}" if known else f"expected it under services.{service}.subsets",
            near_match(subset, known),
            at_key,
        )


def _same_names(config: Config) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, route in enumerate(config.routes):
        if route.name in seen:
            yield Finding(
                ("routes", number, "name"),
                SAME_NAME,
                f"a route before it is called {route.name}, too",
                "expected a name of its own",
            )
        seen.add(route.name)


def _unreachable(config: Config) -> Iterator[Finding]:
    try:
        for route, taken, parts, by in shadowed(config.routes):
            names = ", ".join(config.routes[number].name for number in by[:SHOWN]) + " …" * (len(by) > SHOWN)
            if taken == parts:
                code, what = UNREACHABLE, f"never reached: {names} before it takes all that it matches"
            else:
                code, what = (
                    OVERLAP,
                    f"{taken} of its {parts} hosts and matches never reached: {names} before it takes them",
                )
            yield Finding(
                ("routes", route), code, what, "expected the more special route before the other", severity="warning"
            )
    except TooMuch as end:
        yield Finding(
            ("routes", end.route),
            NOT_COMPARED,
            "too much to compare: whether this route and those behind it can be reached is not known",
            severity="warning",
        )
