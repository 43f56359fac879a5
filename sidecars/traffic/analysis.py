"""What a configuration of this sidecar says that cannot all hold, or cannot be meant. Pure."""

from __future__ import annotations

from pannier.shared.explain import Finding


def contradictions(_config: object) -> list[Finding]:
    """Findings with paths relative to this part of the profile."""
    return []
