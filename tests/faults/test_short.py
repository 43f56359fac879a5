"""The quick rows of `make faults`, three repetitions each: what is promised to survive is broken in every test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig
from tests.faults.row import Row
from tests.faults.run import FEW, ROWS
from tests.system.network import may_make

QUICK = [row for row in ROWS if row.quick]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("logs")) as rig:
        yield rig


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_a_promise_holds(rig: Rig, row: Row) -> None:
    if row.stage.leaning and not may_make():
        pytest.skip("its hosts are network namespaces, which only root can make")
    found = rig.try_row(row, FEW, short=True, said=lambda _: None)
    assert found.held, (row.promise, found.figures)
