"""`examples/custom-sidecar`: installed, granted, added, asked, killed and removed beside a service that serves."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.system.host import PATIENCE, Host, free_port, until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom-sidecar"
NO_TENANT = "-"

APP = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        body = self.headers.get("x-tenant", "-").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


class Callers:
    """Two callers, each on one connection that it never opens anew. `seen` are the tenants that the callee was told."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]
        self.seen: list[str] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait(self, tenant: str) -> None:
        """Until everybody is told of this one."""
        until(lambda: bool(self.failures) or set(self.seen[-20:]) == {tenant})

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self._place, timeout=PATIENCE)
        try:
            while not self._over.wait(0.005):
                connection.request("GET", "/", headers={"Host": "stock"})
                answer = connection.getresponse()
                self.seen.append(answer.read().decode())
                if answer.status != 200:
                    self.failures.append(f"{answer.status}: {self.seen[-1]}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()


def install(folder: Path, site: Path) -> None:
    """As a user would, but into a folder of the test's."""
    source = shutil.copytree(EXAMPLE, folder / "source")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", site)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True, capture_output=True)


def test_a_third_partys_sidecar_comes_and_goes_and_nobody_else_is_touched(host: Host) -> None:
    site, port = host.folder / "site", free_port()
    site.mkdir()
    host.environment["PYTHONPATH"] = str(site)
    host.app.write_text(APP)
    stock = f'services.stock=[{{ address = "127.0.0.1:{port}" }}]'
    host.serve("hello", port, "--port", "0", "--outbound-port", "auto", "--set", stock)
    before = host.pids("hello")

    def tenant_pid() -> int:
        return host.pids("hello").get("tenant", 0)

    with Callers(host.urls("hello")["outbound"]) as callers:
        callers.wait(NO_TENANT)
        assert host.run("sidecar", "add", "tenant").returncode == 4, "it is not installed"
        install(host.folder, site)

        refused = host.run("sidecar", "add", "tenant")
        assert refused.returncode != 0
        assert 'add [grants.tenant] writes = ["headers"]' in refused.stderr
        assert not tenant_pid()
        assert host.run("profile", "set", 'grants.tenant.writes=["headers"]').returncode == 0
        added = host.run("sidecar", "add", "tenant")
        assert added.returncode == 0, added.stderr
        callers.wait("nobody")
        listed = json.loads(host.run("sidecar", "list", "-o", "json").stdout)
        assert next(one["state"] for one in listed if one["name"] == "tenant") == "ready"

        asked = host.run("call", "tenant", "tenant.set", '{"tenant": "acme"}')
        assert json.loads(asked.stdout) == {"tenant": "acme"}, asked.stderr
        callers.wait("acme")
        unknown = host.run("call", "tenant", "tenant.get")
        assert unknown.returncode == 2 and "it serves: tenant.set" in unknown.stderr

        killed, seen = tenant_pid(), len(callers.seen)
        os.kill(killed, signal.SIGKILL)
        until(lambda: tenant_pid() not in {0, killed} and host.ready("hello"))
        callers.wait("nobody")
        assert NO_TENANT not in callers.seen[seen:], "what a dead writer has published stays in force"

        assert host.run("sidecar", "rm", "tenant").returncode == 0
        callers.wait(NO_TENANT)
    assert callers.failures == []
    assert host.pids("hello") == before
