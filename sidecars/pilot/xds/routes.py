"""A stage's policy as a RouteConfiguration of xDS v3, for Envoy and gRPC alike. Pure.

Each service is a virtual host: the routes that apply to its name in the order of the policy, and last one for whatever
matches none of them. A host that is no service is one as well where a route leads from it to a service. The values are
proto3's JSON; the clusters that are named are those of `clusters.py`: `SERVICE` or `SERVICE/SUBSET`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.documents.policy import Client, Policy, Unmapped
from pannier.sidecars.pilot.xds import actions, filters, retries
from pannier.sidecars.pilot.xds.findings import Findings, limits_of, traffic_of
from pannier.sidecars.pilot.xds.matches import GRPC_METHOD, Matched, matches
from pannier.sidecars.pilot.xds.shares import shares
from pannier.sidecars.pilot.xds.words import Json, duration
from pannier.sidecars.traffic.config import Match, Route

ANY: Final = "*"
_HOST: Final = re.compile(r"\*?[a-z0-9._-]{1,255}|\*")
_EVERYTHING: Final = Match()


class _Told(NamedTuple):
    """A route, where it is said, and what its matches have become, each beside what it was."""

    route: Route
    where: Path
    matches: Sequence[tuple[Match, Matched]]


_REST: Final = _Told(
    Route(name="default"), ("traffic", "routes"), [(Match(), Matched({"prefix": "/"}, "/", is_open=True))]
)
"""What matches no route."""


def route_configuration(
    policy: Policy, services: Sequence[str], *, name: str, client: Client = "envoy"
) -> tuple[Json, Sequence[Unmapped]]:
    """The routes of calls to `services` and to the hosts that routes lead from, for one kind of clients, and what does
    not arrive at either."""
    hosts = VirtualHosts(policy, client)
    told = [hosts.of_service(service) for service in dict.fromkeys(services)]
    told += hosts.others(frozenset(services))
    return {"name": name, "virtual_hosts": told}, hosts.unmapped


class Shared(dict[str, Any]):
    """A route that stands in several virtual hosts as it is: the same object in all of them."""


class VirtualHosts:
    """Those of a policy, for one kind of clients; each is made when it is asked for, and what all have is made once."""

    def __init__(self, policy: Policy, client: Client = "envoy") -> None:
        self._policy = policy
        self._client = client
        self._found = found = Findings()
        self._routes = [
            _Told(route, where, _matches(route, where, found, client)) for route, where in _outbound(policy)
        ]
        self._hosts = _hosts(self._routes, found)
        self._shared: dict[Path, Sequence[Json]] = {}  # entries that are the same for all hosts, by the route's place

    @property
    def unmapped(self) -> Sequence[Unmapped]:
        """What does not arrive, of what has been asked for."""
        return self._found.all()

    def of_service(self, service: str) -> Json:
        """The virtual host of a service. What matches no route goes to it."""
        host = _host(service, [*self._entries(service, is_service=True), *self._of(service, _REST)])
        limits = self._policy.limits(service)
        limit = None if limits is None else limits.rate_limit
        where = (*limits_of(self._policy, service), "rate_limit")
        if (settings := filters.rate_limit(limit, service, where, self._found)) is not None:
            host["typed_per_filter_config"] = {filters.RATE_LIMIT: settings}
        return host

    def others(self, services: Collection[str]) -> Sequence[Json]:
        """Those of hosts that routes lead from, and that are none of the services."""
        found = []
        for host in self._hosts:
            if host not in services and (entries := [*self._entries(host, is_service=False)]):
                found.append(_host(host, entries))
        return found

    def _entries(self, host: str, *, is_service: bool) -> Iterator[Json]:
        for told in self._routes:
            route = told.route
            if not any(_applies(one, host) for one in route.hosts):
                continue
            if route.to or route.redirect:
                if told.where not in self._shared:
                    self._shared[told.where] = [Shared(entry) for entry in self._of(host, told)]
                yield from self._shared[told.where]
            elif is_service:
                yield from self._of(host, told)
            elif ANY not in route.hosts:
                where = (*told.where, "hosts")
                self._found.add(where, host, "no service of that name is there, and the route says none")

    def _of(self, host: str, told: _Told) -> Sequence[Json]:
        return [*_Entry(self._policy, host, told, self._found, self._client).entries()]


def _host(name: str, entries: Sequence[Json]) -> Json:
    domains = [name] if name.startswith("*") else [name, f"{name}:*"]
    return {"name": name, "domains": domains, "routes": entries}


def targets(configuration: Json) -> frozenset[str]:
    """The clusters that a route configuration leads to."""
    names: set[str] = set()
    for host in configuration["virtual_hosts"]:
        for route in host["routes"]:
            action = route.get("route", {})
            clusters = [action, *action.get("request_mirror_policies", ())]
            names.update(one["cluster"] for one in clusters if "cluster" in one)
            names.update(one["name"] for one in action.get("weighted_clusters", {}).get("clusters", ()))
    return frozenset(names)


def _outbound(policy: Policy) -> Iterator[tuple[Route, Path]]:
    for number, route in enumerate(policy.traffic.routes if policy.traffic is not None else ()):
        if route.side == "outbound":
            yield route, ("traffic", "routes", number)


def _matches(route: Route, where: Path, found: Findings, client: Client) -> Sequence[tuple[Match, Matched]]:
    wanted = route.matches or [_EVERYTHING]
    return [
        (match, one)
        for number, match in enumerate(wanted)
        for one in matches(match, (*where, "matches", number), found, client)
    ]


def _hosts(routes: Sequence[_Told], found: Findings) -> Sequence[str]:
    """Hosts that routes name, the more special first."""
    hosts: dict[str, None] = {}
    for told in routes:
        for host in map(str.lower, told.route.hosts):
            if _HOST.fullmatch(host):
                hosts[host] = None
                if host.startswith("*") and host != ANY:
                    found.add((*told.where, "hosts"), f"{host} with a port", "a pattern of theirs has no end")
            else:
                found.add((*told.where, "hosts"), host, "no name of a host")
    return sorted(hosts, key=lambda host: (host == ANY, host.startswith("*"), -len(host), host))


def _applies(host: str, to: str) -> bool:
    """Whether a route for `host` applies to all requests to a (pattern of a) host."""
    host = host.lower()
    return host in (ANY, to) or (host.startswith("*") and to != ANY and to.endswith(host[1:]))


class _Entry:
    """One route of ours, for one host."""

    def __init__(self, policy: Policy, host: str, told: _Told, found: Findings, client: Client) -> None:
        self._policy = policy
        self._route, self._where, self._matches = told
        self._found = found
        self._client: Client = client
        self._shares = shares(policy, told.route.to or {host: 1})
        by_service: dict[str, int] = {}
        for share in self._shares:
            by_service[share.service] = by_service.get(share.service, 0) + share.weight
        self._services = sorted(by_service, key=lambda name: -by_service[name])
        self._service = self._services[0] if self._services else host
        """Whose retries, mirror and affinity hold: the one with the greatest share."""

    def entries(self) -> Iterator[Json]:
        route, where, found = self._route, self._where, self._found
        beside = {
            **actions.edits(route.request, "request", (*where, "request"), found),
            **actions.edits(route.response, "response", (*where, "response"), found),
        }
        if settings := self._settings():
            beside["typed_per_filter_config"] = settings
        if route.redirect is not None:
            self._without_effect()
            for _, (match, prefix, is_open) in self._matches:
                redirect = actions.redirecting(route.redirect, prefix, (*where, "redirect"), found, is_open=is_open)
                yield {"name": route.name, "match": match, "redirect": redirect, **beside}
            return
        if not self._shares:
            found.add((*where, "to"), "the whole route", "all weights are 0")
            return
        action = self._action()
        for said, (match, prefix, is_open) in self._matches:
            rewrite = actions.rewriting(route.rewrite, prefix, (*where, "rewrite"), found, is_open=is_open)
            for condition, trying in self._retries(GRPC_METHOD if self._client == "grpc" else said.method):
                narrowed = match
                if condition is not None:
                    narrowed = {**match, "headers": [*match.get("headers", ()), condition]}
                yield {
                    "name": route.name,
                    "match": narrowed,
                    "route": {**action, **rewrite, "retry_policy": trying.policy},
                    **beside,
                    **trying.kept,
                }

    def _without_effect(self) -> None:
        for field in ("mirror", "retries"):
            if getattr(self._route, field) is not None:
                self._found.add((*self._where, field), "all of it", "a redirect sends nothing on")

    def _settings(self) -> Json:
        """Those of filters, for the whole route."""
        route, where, found = self._route, self._where, self._found
        settings: Json = {}
        injected = filters.fault(route.fault, (*where, "fault"), found)
        if injected is None and len(self._services) == 1 and route.redirect is None:
            at = (*traffic_of(self._policy, self._service), "fault")
            injected = filters.fault(self._policy.service(self._service).fault, at, found)
        if injected is not None:
            settings[filters.FAULT] = injected
        if (allowed := filters.cors(route.cors, (*where, "cors"), found)) is not None:
            settings[filters.CORS] = allowed
        return settings

    def _action(self) -> Json:
        policy, route, where, found = self._policy, self._route, self._where, self._found
        service, at = policy.service(self._service), traffic_of(policy, self._service)
        self._report_others()
        mirror, from_ = (route.mirror, where) if route.mirror is not None else (service.mirror, at)
        request = route.timeouts.request
        by_session = len(self._shares) > 1 and service.affinity is not None
        if by_session:
            what, why = "that a session stays with its share of a split", "{} draws anew each time"
            found.add((*at, "affinity"), what, why.format("gRPC"), "grpc")
            if len(self._services) > 1:
                found.add((*at, "affinity"), what, why.format("a route that is shared among services"), "envoy")
        return {
            **actions.destination(
                self._shares, self._faults_of_shares(), by_session=by_session and len(self._services) == 1
            ),
            **actions.timing(policy.proxy.timeouts.request if request is None else request, self._client),
            **actions.hashing(service.affinity, (*at, "affinity"), found),
            **actions.mirroring(mirror, (*from_, "mirror"), found),
        }

    def _faults_of_shares(self) -> Mapping[str, Json]:
        """Of services among which a route without a fault of its own is shared."""
        if len(self._services) == 1:
            if self._route.fault is not None and self._policy.service(self._service).fault is not None:
                at = (*traffic_of(self._policy, self._service), "fault")
                self._found.add(at, f"that of route {self._route.name} beside it", "a request has one fault there")
            return {}
        settings: dict[str, Json] = {}
        for name in self._services:
            at = (*traffic_of(self._policy, name), "fault")
            fault = self._policy.service(name).fault
            if fault is not None and self._route.fault is not None:
                self._found.add(at, f"that of route {self._route.name} beside it", "a request has one fault there")
            elif (injected := filters.fault(fault, at, self._found)) is not None:
                settings[name] = {filters.FAULT: injected}
        return settings

    def _report_others(self) -> None:
        """What differs among the services that a route is shared among, and is one for a route there."""
        policy, first = self._policy, self._service
        for other in self._services[1:]:
            for field in ("mirror", "affinity"):
                mine, theirs = getattr(policy.service(first), field), getattr(policy.service(other), field)
                if mine != theirs and not (field == "mirror" and self._route.mirror is not None):
                    self._one_for_all((*traffic_of(policy, other), field))
            of_first, of_other = policy.limits(first), policy.limits(other)
            if of_first is not None and of_other is not None and of_first.retry != of_other.retry:
                self._one_for_all((*limits_of(policy, other), "retry"))
        for name in self._services:
            limits = policy.limits(name)
            if limits is not None and limits.rate_limit is not None and self._route.to and self._route.hosts != [name]:
                where = (*limits_of(policy, name), "rate_limit")
                what = f"calls by route {self._route.name} from other hosts"
                self._found.add(where, what, "a bucket is that of the host that is asked for")

    def _one_for_all(self, where: Path) -> None:
        what = f"calls by route {self._route.name}, for which {self._service}'s holds"
        self._found.add(where, what, "a route that is shared among services has one there")

    def _retries(self, method: str | None) -> Iterator[tuple[Json | None, retries.Trying]]:
        limits = self._policy.limits(self._service)
        retry = None if limits is None else limits.retry
        attempts = 0
        attempt = self._route.timeouts.backend_request
        timed = attempt is not None and milliseconds(attempt) > 0
        if timed:
            where = (*self._where, "timeouts", "backend_request")
            self._found.add(where, "all of it", "gRPC bounds a call, not its attempts", "grpc")
        if retry is not None:
            attempts = retry.attempts if self._route.retries is None else self._route.retries
            own, of_service = self._route.retries, (*limits_of(self._policy, self._service), "retry")
            if attempts:
                where = of_service if own is None else (*self._where, "retries")
                self._found.add(where, "all of it", "gRPC's calls are POST, which is never repeated", "grpc")
            retries.report(retry, attempts, of_service, self._found, has_attempt_timeout=timed)
        for condition, trying in retries.by_method(method, retry, attempts):
            if timed and attempt is not None:
                yield condition, trying._replace(policy={**trying.policy, "per_try_timeout": duration(attempt)})
            else:
                yield condition, trying
