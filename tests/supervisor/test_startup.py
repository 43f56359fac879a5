"""What a command costs before it does anything: a person waits for it, and a shell completes with it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from pannier.supervisor.sidecar_types import sidecar_types

HEAVY = {
    "click", "google", "h11", "msgpack", "opentelemetry", "pannier._native", "prometheus_client", "tomlkit", "trio",
}  # fmt: skip
IMPORTED = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"


def imported_by(module: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", IMPORTED, module], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sidecar_types())
def test_the_settings_of_a_sidecar_are_imported_without_what_runs_it(name: str) -> None:
    config = sidecar_types()[name].__module__
    package = config.rpartition(".")[0]
    assert not HEAVY & imported_by(config)
    assert f"{package}.service" not in imported_by(config)


def test_help_takes_less_than_a_tenth_of_a_second() -> None:
    assert min(processor_seconds("--help") for _ in range(5)) < 0.1


def processor_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([Path(sys.executable).parent / "pannier", *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
