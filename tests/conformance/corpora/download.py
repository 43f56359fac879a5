"""Other people's test cases, as their authors publish them: inside source distributions, fetched once, never committed.

A version and its checksum are pinned, so that a case can neither vanish nor change unnoticed. pip fetches them, from
the index that it is configured for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[3] / "build" / "corpora"
#: pip resolves what a build of the distribution would need, although nothing is built.
DOWNLOAD_S = 120.0


@dataclass(frozen=True)
class Distribution:
    """A source distribution."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The line that pip checks it by."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    @property
    def archive(self) -> Path:
        """Where it is kept."""
        return CACHE / f"{self.name}-{self.version}.tar.gz"


def read_files(distribution: Distribution, folder: str) -> dict[str, bytes]:
    """File name -> content of the files directly in `folder` of the distribution.

    Skips the test if the index cannot be reached; fails then where `CI=true`. Fails if the checksum differs.
    """
    if not distribution.archive.exists():
        _download(distribution)
    content = distribution.archive.read_bytes()
    assert hashlib.sha256(content).hexdigest() == distribution.sha256, f"remove {distribution.archive}: it is another"
    parent = f"{distribution.name}-{distribution.version}/{folder}"
    found: dict[str, bytes] = {}
    with tarfile.open(distribution.archive) as archive:
        for member in archive.getmembers():
            inside, _, name = member.name.rpartition("/")
            if inside == parent and (file := archive.extractfile(member)) is not None:
                found[name] = file.read()
    return found


def _download(distribution: Distribution) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"--no-binary {distribution.name}\n{distribution.requirement}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command = [*pip, "--dest", folder, "--requirement", str(requirements)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        if run.returncode != 0:
            missing = f"{distribution.name} {distribution.version} cannot be downloaded: {run.stderr[-500:]}"
            if os.environ.get("CI") == "true" or "DO NOT MATCH THE HASHES" in run.stderr:
                pytest.fail(missing)
            pytest.skip(missing)
        (Path(folder) / distribution.archive.name).rename(distribution.archive)
