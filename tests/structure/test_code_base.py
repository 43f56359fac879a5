"""The code base as data: what a newcomer may rely on when looking for something."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "sidecars", "supervisor", "profiles")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "core" not in path.parts)
RUST = sorted(path for path in (ROOT / "shared" / "core").rglob("*.rs") if "target" not in path.parts)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
SIDECARS = sorted(path.parent for path in (ROOT / "sidecars").glob("*/config.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_module_says_why_it_exists(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or path.name == "__main__.py" or ast.get_docstring(tree), (
        "the head of a file says why it exists"
    )


@pytest.mark.parametrize("path", [path for path in RUST if path.parent.name == "src"], ids=named)
def test_a_rust_file_says_why_it_exists(path: Path) -> None:
    assert path.read_text().startswith("//!")


@pytest.mark.parametrize("path", [*SOURCES, *RUST], ids=named)
def test_no_file_is_a_drawer(path: Path) -> None:
    assert path.stem not in {"util", "utils", "helper", "helpers", "common", "misc", "manager", "base"}


@pytest.mark.parametrize("folder", SIDECARS, ids=named)
def test_every_sidecar_has_the_same_anatomy(folder: Path) -> None:
    main = (folder / "__main__.py").read_text()
    code = [line for line in main.splitlines() if line.strip() and not line.startswith(('"""', "from __future__"))]
    assert len(code) <= 6, "an entry point decides nothing"
    assert (folder / "service.py").exists()
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pannier.sidecars"]
    assert entry_points[folder.name] == f"pannier.sidecars.{folder.name}.config:Config"


@pytest.mark.parametrize("path", [p for p in SOURCES if "trio" not in imported(p)], ids=named)
def test_what_decides_is_given_its_randomness(path: Path) -> None:
    assert "random" not in imported(path), "only the shells, which import trio, draw random numbers"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{named(page)} links to {target}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=named)
def test_files_that_pages_name_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:shared|sidecars|supervisor|profiles|tests|examples|docs)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), f"{named(page)} names {name}"


def test_the_make_targets_that_the_readme_shows_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    assert shown and shown <= targets
