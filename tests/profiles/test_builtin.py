"""The stages as they come with Pannier, resolved with the real types of the sidecars."""

from __future__ import annotations

import pytest
from pannier.shared.project import builtin_profiles, resolve
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types


@pytest.mark.parametrize("name", builtin_profiles())
def test_every_builtin_profile_resolves_and_says_what_it_is_for(name: str) -> None:
    profile = resolve(name, sidecars=sidecar_types()).profile
    assert profile.description
    assert profile.sidecars


def test_dev_is_what_the_stages_say() -> None:
    profile = resolve("dev", sidecars=sidecar_types()).profile
    assert set(profile.sidecars) == {"discovery", "observability"}
    assert profile.orphan_grace == "0s"
    assert profile.restart.on_crash is False
    assert profile.outbound.unknown == "passthrough"
    assert profile.sidecars["observability"].traces.sample_ratio == 1.0


def test_every_sidecar_has_a_module_to_run() -> None:
    assert sidecar_modules().keys() == sidecar_types().keys()
    assert sidecar_modules()["discovery"] == "pannier.sidecars.discovery"
