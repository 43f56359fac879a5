"""`docs/envoy.md` lists every scenario, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "envoy.md"


def test_the_page_lists_every_scenario() -> None:
    written = {
        node.name
        for path in FOLDER.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert set(re.findall(r"`(test_\w+)`", PAGE.read_text())) == written
