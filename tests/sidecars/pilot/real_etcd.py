"""A real etcd with one member, on ports and in a folder of its own."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.host import PATIENCE, free_port


@contextmanager
def running_etcd(program: str, folder: Path) -> Iterator[int]:
    """Its client port, once it is healthy."""
    client, peer = free_port(), free_port()
    words = [program, "--data-dir", str(folder / "data"), "--name", "one"]
    for option, port in (("client", client), ("peer", peer)):
        words += [f"--listen-{option}-urls", f"http://127.0.0.1:{port}"]
    words += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
    words += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
    words += ["--initial-cluster", f"one=http://127.0.0.1:{peer}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not healthy(client):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.05)
        yield client
    finally:
        process.terminate()
        process.wait(PATIENCE)


def healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return b"true" in answer.read()
    except OSError:
        return False
