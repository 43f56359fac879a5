"""The examples are programs in folders of their own, not packages: their modules are found beside one another."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "shop"))
