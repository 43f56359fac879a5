"""What the data path refuses of a configuration, found before anything is published, with the place of each reason.

What a regular expression or an edit of a head may be is decided by the code that executes it alone, so that code is
asked: first about the whole, and only if that is refused about each service and each route by itself. Pure, as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from pannier.shared.explain import Finding
from pannier.shared.toml_position import Path
from pannier.sidecars.traffic.config import Config, Route, Service
from pannier.sidecars.traffic.table import routes_table

REFUSED = "PAN0217"


def refusals(config: Config, faulty: Collection[Path], validate: Callable[[bytes], None]) -> Iterator[Finding]:
    """A finding for each part that `validate` refuses (it raises ValueError), less those that are known to be `faulty`:
    the data path would say the same in other words."""
    whole = _reason(config, validate)
    if not whole:
        return
    places: set[Path] = set()
    for place, piece in _pieces(config):
        if reason := _reason(piece, validate):
            places.add(place)
            if place not in faulty:
                yield Finding(place, REFUSED, reason)
    if not places:
        yield Finding((), REFUSED, whole)


def _pieces(config: Config) -> Iterator[tuple[Path, Config]]:
    for name, service in config.services.items():
        targets = [service.mirror.to] if service.mirror is not None else []
        yield ("services", name), Config(services={**_subsets(config, targets), name: service})
    for number, route in enumerate(config.routes):
        yield ("routes", number), Config(services=_subsets(config, _targets(route)), routes=[route])


def _targets(route: Route) -> list[str]:
    return [*route.to, *([route.mirror.to] if route.mirror is not None else [])]


def _subsets(config: Config, targets: Collection[str]) -> dict[str, Service]:
    names = {target.partition("/")[0] for target in targets} & config.services.keys()
    return {name: Service(subsets=config.services[name].subsets) for name in names}


def _reason(config: Config, validate: Callable[[bytes], None]) -> str:
    try:
        validate(routes_table(config, {}))
    except ValueError as error:
        return str(error)
    return ""
