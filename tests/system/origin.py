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

    def command(self, port: int | str, *, talks: bool = False) -> Sequence[str]:
        """An app on a port or `unix:PATH`. With `talks` it prints 3 KiB a request, and waits where nobody reads."""
        folder = self.host.folder / f"nginx-{str(port).rpartition('/')[2]}"
        folder.mkdir()
        listen = port if isinstance(port, str) else f"127.0.0.1:{port}"
        log = "access_log /dev/stdout long;" if talks else ""
        http = f"""\
    log_format long "$request {"." * 3072}";
    server {{
        listen {listen} backlog=4096;
        {log}
        location / {{ return 200 "{BODY.strip()}\\n"; }}
    }}"""
        (folder / "nginx.conf").write_text(nginx_frame(folder, http))
        return [self.nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]

    def serve(self, name: str, *more: str, talks: bool = False, port: int | str | None = None) -> subprocess.Popen[str]:
        port = port or free_port()
        ports = ("--port", "0", "--outbound-port", "auto")
        stdout = subprocess.DEVNULL if talks else subprocess.PIPE
        return self.host.serve(name, port, *ports, *more, command=self.command(port, talks=talks), stdout=stdout)
