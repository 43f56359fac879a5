"""What the zygote loads: what every sidecar uses, and the services of our own sidecars.

A third party's sidecar is forked like any other and loads its own part itself: an import may start threads or open
files, which must not happen in the parent of all. Ours are loaded whatever the profile says, so that one that is added
later is there at once, and so that nobody has to read a profile first.
"""

from __future__ import annotations

import sys
from typing import Final

PRELOADED: Final = (
    "trio",
    "msgspec",
    "pannier._native",
    "pannier.shared.sidecar",
    "pannier.sidecars.discovery.service",
    "pannier.sidecars.observability.service",
    "pannier.sidecars.resilience.service",
    "pannier.sidecars.traffic.service",
)


def zygote_argv() -> tuple[str, ...]:
    """The zygote's command line."""
    return (sys.executable, "-P", "-m", "pannier.supervisor.zygote", *PRELOADED)
