"""An app that is not ours."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.configurations import nginx_frame
from tests.system.host import Host, free_port
from tests.system.load import BODY


@dataclass(frozen=True)
class Origin:
    """nginx as an app: it answers in microseconds, so that what is slow or fails is ours."""

    host: Host
    nginx: str

    def command(self, port: int, *, talks: bool = False) -> Sequence[str]:
        """An app on `port`. With `talks` it prints 3 KiB a request, and waits where nobody takes them."""
        folder = self.host.folder / f"nginx-{port}"
        folder.mkdir()
        log = "access_log /dev/stdout long;" if talks else ""
        http = f"""\
    log_format long "$request {"." * 3072}";
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        {log}
        location / {{ return 200 "{BODY.strip()}\\n"; }}
    }}"""
        (folder / "nginx.conf").write_text(nginx_frame(folder, http))
        return [self.nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]

    def serve(self, name: str, *more: str, talks: bool = False, port: int | None = None) -> subprocess.Popen[str]:
        port = port or free_port()
        ports = ("--port", "0", "--outbound-port", "auto")
        stdout = subprocess.DEVNULL if talks else subprocess.PIPE
        return self.host.serve(name, port, *ports, *more, command=self.command(port, talks=talks), stdout=stdout)
