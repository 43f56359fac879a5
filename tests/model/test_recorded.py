"""Real pilots are killed, stopped, cut off and given the wrong time, and what they have answered and told is judged.

`make test` records seconds of it, the rows `history-*` of `make faults` minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.model.invariants import violations
from tests.model.recording import TTL, Fault, recorded
from tests.model.sites import MEMBERS, beside_etcd, beside_sqlite
from tests.system.network import may_make

SETTLED_S = 1.0
BOUND_S = 30.0
LAG_S = 10.0 + TTL

SQLITE: Sequence[Fault] = (
    Fault(0.6, lambda site: site.kill("pilot")),
    Fault(0.7, lambda site: site.start("pilot")),
    Fault(1.8, lambda site: site.set_clock("pilot", 1)),
    Fault(2.2, lambda site: site.stop("pilot")),
    Fault(3.2, lambda site: site.go_on("pilot")),
    Fault(3.5, lambda site: site.set_clock("pilot", -1)),
)
ETCD: Sequence[Fault] = (
    Fault(0.5, lambda site: site.cut(MEMBERS[:1], MEMBERS[1:])),
    Fault(1.2, lambda site: site.kill("pilot-two")),
    Fault(1.3, lambda site: site.start("pilot-two")),
    Fault(2.2, lambda site: site.cut()),
    Fault(3.0, lambda site: site.kill("three")),
    Fault(3.4, lambda site: site.stop("pilot-three")),
    Fault(4.2, lambda site: site.start("three")),
    Fault(4.6, lambda site: site.go_on("pilot-three")),
)


def test_a_pilot_that_is_killed_stopped_and_given_the_wrong_time_keeps_its_promises() -> None:
    with beside_sqlite() as site:
        history = recorded(site, SQLITE, seconds=4.0, quiet=0.3)
    assert violations(history, lag=0.0, settled=SETTLED_S, bound=BOUND_S) == []


def test_pilots_on_an_etcd_that_is_cut_in_two_keep_their_promises(require_peer: Callable[[str], str]) -> None:
    if not may_make():
        pytest.skip("networks are root's to make")
    program = require_peer("etcd")
    with beside_etcd(lambda: program) as site:
        history = recorded(site, ETCD, seconds=5.0, quiet=0.5)
    assert violations(history, lag=LAG_S, settled=SETTLED_S, bound=BOUND_S) == []
