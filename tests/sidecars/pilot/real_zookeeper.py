"""A real ZooKeeper of one server, from Debian's `libzookeeper-java`, on a port and in a folder of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.host import PATIENCE, free_port

JAR = Path("/usr/share/java/zookeeper.jar")
"""Whose manifest names all others."""
_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-Xshare:auto")
_START = 60.0
"""A virtual machine on a busy host takes its time."""


class ZooKeeper:
    """`kill` and `start` it as often as is liked; what was written stays, unless `wiped`."""

    def __init__(self, java: str, folder: Path) -> None:
        self.port = free_port()
        self._java = java
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._data = 0

    def start(self, *, wiped: bool = False) -> None:
        self._data += wiped
        configuration = self._folder / "zoo.cfg"
        configuration.write_text(
            f"dataDir={self._folder}/data{self._data}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "tickTime=500\nmaxSessionTimeout=40000\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\nmaxClientCnxns=0\n"
            "minSessionTimeout=1000\nforceSync=no\n"
        )
        words = [self._java, *_JAVA, "-cp", str(JAR), "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*words, str(configuration)], stdout=log, stderr=log)
        deadline = time.monotonic() + _START
        while not self._healthy():
            log_text = (self._folder / "log").read_text()[-2000:]
            assert self._process.poll() is None and time.monotonic() < deadline, log_text
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def _healthy(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asking:
                asking.sendall(b"srvr")
                return b"Mode: standalone" in b"".join(iter(lambda: asking.recv(4096), b""))
        except OSError:
            return False


@contextmanager
def running_zookeeper(java: str, folder: Path) -> Iterator[ZooKeeper]:
    """Started, and killed in the end."""
    server = ZooKeeper(java, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
