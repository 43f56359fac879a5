"""Both sides of a scenario: fresh processes a test, since budgets, ejections and buckets are the process's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.conformance.bootstrap import Envoy
from tests.conformance.sides import CALLEE, Instance, Sides, start_sides

PLAIN = Envoy()


class Compare(Protocol):
    """Starts Pannier and Envoy, told the same. `others`: services beside the callee, of one instance each."""

    def __call__(
        self,
        instances: Sequence[Instance] = (Instance(),),
        others: Sequence[str] = (),
        *,
        routes: traffic.Config | None = None,
        limits: resilience.Config | None = None,
        envoy: Envoy = PLAIN,
    ) -> Sides: ...


@pytest.fixture
def compare(short_path: Path) -> Iterator[Compare]:
    """Starts both, to end with the test."""
    with ExitStack() as stack:

        def start(
            instances: Sequence[Instance] = (Instance(),),
            others: Sequence[str] = (),
            *,
            routes: traffic.Config | None = None,
            limits: resilience.Config | None = None,
            envoy: Envoy = PLAIN,
        ) -> Sides:
            services: Mapping[str, Sequence[Instance]] = {CALLEE: instances} | {name: [Instance()] for name in others}
            return start_sides(stack, short_path, services, routes=routes, limits=limits, envoy=envoy)

        yield start
