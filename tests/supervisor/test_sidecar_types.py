"""Sidecars are found by their entry points; a broken package is the trouble of who names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import Struct
from pannier.shared.explain import ConfigError
from pannier.shared.project import resolve
from pannier.supervisor.plan import Arguments, Place, Said
from pannier.supervisor.planning import Installation, plan_for
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

OURS = {"discovery", "observability", "resilience", "traffic"}
GOOD = "from msgspec import Struct\nclass Config(Struct):\n    number: int = 1\n"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like `site-packages`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(site: Path, package: str, entry: str, source: str, module: str | None = None) -> None:
    module = module or f"of_{package}"
    (site / f"{module}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pannier.sidecars]\n{entry}\n")


def refusal(name: str) -> str:
    Path("own.toml").write_text(f"[sidecars.{name}]\n")
    with pytest.raises(ConfigError) as caught:
        resolve("own.toml", sidecars=sidecar_types())
    (problem,) = caught.value.problems
    assert problem.code == "PAN0108"
    return str(problem)


def planned(profile: str, types: Mapping[str, type[Struct]]) -> set[str]:
    """The sidecars that could be added to a service under that profile."""
    plan = plan_for(
        resolve(profile, sidecars=types).profile,
        Arguments(name="x"),
        Place("/r", {}, "/p", 1, {"inbound": 1, "outbound": 2}),
        said=Said(),
        installation=Installation(types, sidecar_modules()),
        token=lambda _: "t",
    )
    return set(plan.sidecars)


def test_a_third_partys_sidecar_is_found_like_ours(site: Path) -> None:
    install(site, "acme", "mine = of_acme:Config", GOOD)
    assert sidecar_types().keys() == OURS | {"mine"}
    assert (sidecar_modules()["mine"], sidecar_modules()["traffic"]) == ("of_acme", "pannier.sidecars.traffic")
    Path("own.toml").write_text("[sidecars.mine]\nnumber = 7\n")
    assert resolve("own.toml", sidecars=sidecar_types()).profile.sidecars["mine"].number == 7


@pytest.mark.parametrize(
    ("package", "entry", "source", "reason"),
    [
        ("b1", "mine = of_b1:Config", "import nothing_of_that_name", "mine = of_b1:Config of b1 cannot be imported"),
        ("b2", "mine = of_b2:Config", "raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("b3", "mine = of_b3:Absent", GOOD, "cannot be imported: AttributeError"),
        ("b4", "mine = of_b4:Config", "Config = 7", "is no msgspec.Struct"),
        ("b5", "mine = of_b5:Config", "from msgspec import Struct\nclass Config(Struct):\n    a: object()", "imported"),
        ("b6", "proxy = of_b6:Config", GOOD, "no sidecar can be called that"),
        ("b7", "Mine = of_b7:Config", GOOD, "no sidecar can be called that"),
        ("b8", "mine = pannier.shared.profile:App", GOOD, "the modules of pannier are its own"),
    ],
)
def test_a_broken_package_is_named_and_breaks_nobody_else(
    site: Path, package: str, entry: str, source: str, reason: str
) -> None:
    install(site, package, entry, source)
    types = sidecar_types()
    name = entry.split(maxsplit=1)[0]
    assert types.keys() == OURS | {name}
    said = refusal(name)
    assert reason in said and "it is installed but broken" in said
    for profile in ("dev", "production"):
        assert planned(profile, types) == OURS


def test_a_name_has_one_owner_and_ours_are_ours(site: Path) -> None:
    install(site, "acme", "mine = of_acme:Config", GOOD)
    install(site, "umbrella", "mine = of_umbrella:Config", GOOD)
    assert "acme and umbrella both have a sidecar of that name" in refusal("mine")
    install(site, "evil", "traffic = of_evil:Config", GOOD)
    assert sidecar_types()["traffic"].__module__ == "pannier.sidecars.traffic.config"
    assert sidecar_modules()["traffic"] == "pannier.sidecars.traffic"


def test_settings_that_cannot_be_guessed_are_planned_where_a_profile_gives_them(site: Path) -> None:
    source = GOOD + "    def __post_init__(self):\n        raise OSError('no file')"
    install(site, "picky", "mine = of_picky:Config", source)
    assert planned("dev", sidecar_types()) == OURS
