"""Whether anybody is behind a service's sockets: asked before a keeper is started, and by commands that look around."""

from __future__ import annotations

import socket
from pathlib import Path


def answers(path: Path, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether somebody listens on that Unix socket."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full, so there is one
        except OSError:
            return False
        return True
