"""What is done with calls at this moment, as `pannier traffic status` shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pannier.shared.messages import CanaryProgress, TrafficFault, TrafficMirror, TrafficService, TrafficStatus
from pannier.sidecars.traffic.config import Config, Injected, Mirror
from pannier.sidecars.traffic.endpoints import Clusters
from pannier.sidecars.traffic.watch import Watch


def progress(watches: Mapping[str, Watch], now: float) -> list[CanaryProgress]:
    """Every canary, by the name of its service."""
    return [watches[name].progress(now) for name in sorted(watches)]


def status(config: Config, watches: Mapping[str, Watch], clusters: Clusters, now: float) -> TrafficStatus:
    """Everything that the configuration does to calls, with the weights in force and the endpoints that there are."""
    services = []
    for name, settings in sorted(config.services.items()):
        endpoints = clusters.get(name, [])
        counts = {subset: sum(one.carries(labels) for one in endpoints) for subset, labels in settings.subsets.items()}
        split = watches[name].split() if name in watches else settings.split
        services.append(TrafficService(name, counts, dict(split)))
    subjects: list[tuple[str, str, Mirror | None, Injected | None]] = [
        *((name, "", service.mirror, service.fault) for name, service in sorted(config.services.items())),
        *(("", route.name, route.mirror, route.fault) for route in config.routes),
    ]
    return TrafficStatus(services, progress(watches, now), list(_mirrors(subjects)), list(_faults(subjects)))


def _mirrors(subjects: Iterable[tuple[str, str, Mirror | None, Injected | None]]) -> Iterable[TrafficMirror]:
    for service, route, mirror, _ in subjects:
        if mirror is not None:
            yield TrafficMirror(service, route, mirror.to, mirror.percent)


def _faults(subjects: Iterable[tuple[str, str, Mirror | None, Injected | None]]) -> Iterable[TrafficFault]:
    for service, route, _, fault in subjects:
        if fault is not None:
            yield TrafficFault(service, route, fault.delay, fault.abort, fault.percent, fault.until)
