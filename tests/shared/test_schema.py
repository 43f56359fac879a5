"""The JSON Schema of our files, judged by an implementation that is not ours."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from pannier.shared.profile_files import builtin_profiles
from pannier.shared.project import examine
from pannier.shared.schema import schema
from pannier.supervisor.cli import main as cli
from pannier.supervisor.sidecar_types import sidecar_types

ROOT = Path(__file__).resolve().parents[2]
FILES = [*(ROOT / "profiles" / f"{name}.toml" for name in builtin_profiles()), ROOT / "examples/shop/pannier.toml"]


@pytest.fixture(scope="module")
def judge() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(sidecar_types()))


def test_it_is_a_schema_of_2020_12(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["profile", "schema"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema(sidecar_types())
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed["properties"]["sidecars"]["properties"].keys() == sidecar_types().keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_we_ship_is_valid(file: Path, judge: jsonschema.Draft202012Validator) -> None:
    judge.validate(tomllib.loads(file.read_text()))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("[sidecars]\ntraffic = true\n", True),
        ("[sidecars.resilience.inbound.rate_limit]\nenforced = 0\n", True),
        ('profile = "dev"\n[apps.web]\nport = 80\noutbound.port = 1\n', True),
        ('extends = "dev"\n', True),
        ("[proxy]\nwrokers = 1\n", False),
        ('[proxy]\nworkers = "1"\n', False),
        ("[proxy]\nworkers = -1\n", False),
        ('orphan_grace = "5 s"\n', False),
        ("[sidecars.trafic]\n", False),
        ("[sidecars]\ntraffic = 3\n", False),
        ("[[services.x]]\nweight = 1\n", False),
        ("[[sidecars.traffic.routes]]\nretries = 1\n", False),
        ("[apps.Web]\n", False),
        ("[apps.web]\nprot = 1\n", False),
        ("[apps.web.sidecars.traffic]\nzon = 'a'\n", False),
        ('extends = "dev"\n[apps.web]\n', False),
    ],
)
def test_it_judges_a_layer_as_we_do(
    text: str, valid: bool, judge: jsonschema.Draft202012Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge.is_valid(tomllib.loads(text)) is valid
    monkeypatch.chdir(tmp_path)
    Path("file.toml").write_text(text)
    _, problems = examine("file.toml", sidecars=sidecar_types())
    # What only makes sense whole is missing something when it stands alone; that is not the schema's business.
    assert (not [problem for problem in problems if problem.code != "PAN0106" or not valid]) is valid
