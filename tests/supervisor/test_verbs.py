from __future__ import annotations

from types import SimpleNamespace

import pytest
from pannier.shared.errors import PannierError
from pannier.shared.messages import SidecarName
from pannier.supervisor.verbs import Verbs


async def test_without_a_keeper_nothing_is_started() -> None:
    tree = SimpleNamespace(keeper_lost=True, children={"discovery": object()})
    plan = SimpleNamespace(sidecars={"discovery": object(), "spare": object()})
    verbs = Verbs(SimpleNamespace(tree=tree, plan=plan))  # type: ignore[arg-type]
    for refused in (verbs.add(SidecarName("spare")), verbs.restart(SidecarName("discovery"))):
        with pytest.raises(PannierError, match="keeper is gone"):
            await refused
