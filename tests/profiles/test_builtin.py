"""The stages as they come with Pannier, resolved with the real types of the sidecars."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier.shared.profile import Profile
from pannier.shared.profile_files import builtin_profiles
from pannier.shared.project import resolve
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

THREE = {"discovery", "observability", "traffic"}
FOUR = THREE | {"resilience"}


def stage(name: str) -> Profile:
    return resolve(name, sidecars=sidecar_types()).profile


def test_every_file_is_a_stage_and_every_stage_a_file() -> None:
    files = {entry.name for entry in resources.files("pannier.profiles").iterdir() if entry.name.endswith(".toml")}
    assert files == {f"{name}.toml" for name in builtin_profiles()}


@pytest.mark.parametrize("name", builtin_profiles())
def test_a_stage_says_what_it_is_for_and_why_it_sets_what_it_sets(name: str) -> None:
    assert stage(name).description
    lines = (resources.files("pannier.profiles") / f"{name}.toml").read_text().splitlines()
    assert lines[0].startswith("# "), "the first line says what the stage is"
    assert any(line.startswith("orphan_grace") for line in lines), "one file tells whether orphans live on"
    reason = False
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            reason = True
        elif not line:
            reason = False
        elif "=" in line:
            assert reason or line.startswith("description"), f"{name}.toml:{number} has no reason above it"


@pytest.mark.parametrize(
    ("name", "sidecars", "settings"),
    [
        ("dev", THREE - {"traffic"}, ("0s", "passthrough", None, None, 1.0, None)),
        ("test", THREE, ("10s", "passthrough", None, ["fault", "mirror"], 1.0, 1)),
        ("staging", FOUR, ("10m", "passthrough", None, ["fault", "mirror"], 0.1, None)),
        ("canary", FOUR, ("never", "deny", "60s", [], 0.1, None)),
        ("production", FOUR, ("never", "deny", "60s", [], 0.01, None)),
        ("central", FOUR, ("never", "deny", None, [], 0.01, None)),
    ],
)
def test_the_table_of_stages(name: str, sidecars: set[str], settings: tuple[Any, ...]) -> None:
    profile = stage(name)
    assert set(profile.sidecars) == sidecars
    assert settings == (
        profile.orphan_grace,
        profile.outbound.unknown,
        profile.confirm,
        profile.sidecars["traffic"].allow if "traffic" in sidecars else None,
        profile.sidecars["observability"].traces.sample_ratio,
        profile.proxy.seed,
    )
    assert profile.restart.on_crash is (name != "dev")


@pytest.mark.parametrize(("name", "enforced"), [("staging", 0), ("canary", 0), ("production", 100)])
def test_limits_are_counted_before_they_are_in_force(name: str, enforced: float) -> None:
    inbound = stage(name).sidecars["resilience"].inbound
    assert (inbound.rate_limit.enforced, inbound.shedding.enforced) == (enforced, enforced)
    assert inbound.rate_limit.enabled == 100
    numbers = stage("staging").sidecars["resilience"].inbound.rate_limit
    assert msgspec.structs.replace(numbers, enforced=enforced) == inbound.rate_limit


@pytest.mark.parametrize("name", builtin_profiles())
def test_a_stage_leaves_what_resilience_does_by_itself_alone(name: str) -> None:
    if resilience := stage(name).sidecars.get("resilience"):
        assert resilience.services == {}


def test_every_sidecar_has_a_module_to_run() -> None:
    assert sidecar_modules().keys() == sidecar_types().keys()
    assert sidecar_modules()["discovery"] == "pannier.sidecars.discovery"


def test_a_stage_of_ones_own_does_not_change_the_built_in_ones_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "staging.toml").write_text('extends = "staging"\nready_timeout = "7s"\n')
    (tmp_path / "profiles" / "mine.toml").write_text('extends = "staging"\n')
    monkeypatch.chdir(tmp_path)

    timeouts = {name: resolve(name, sidecars=sidecar_types()).profile.ready_timeout for name in ("production", "mine")}
    assert timeouts == {"production": "30s", "mine": "7s"}
