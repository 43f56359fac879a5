"""The stages in TOML, a file each. Their order, from a laptop to what customers call, is written down here alone."""

from __future__ import annotations

STAGES = ("dev", "test", "staging", "canary", "production", "central")
