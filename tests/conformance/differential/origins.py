"""Four real servers that write down what they read: each with a parser of its own, each told to forgive what it can.

All of them read the whole body before they answer, put the `x-request-id` that they read into the answer's `x-seen`,
and append a line for each request, those that they refuse included. What each calls a line is made one `Seen` here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.proxy.process import wait_until
from tests.proxy.wire import PATIENCE_S

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = Path("/usr/lib/apache2/modules")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the origin read it. `id` is its `x-request-id`, empty where the head could not be read; `hash` is
    that of the body (SHA-1), None for a request that was refused or whose body did not end."""

    id: str
    method: bytes
    path: bytes
    authority: bytes
    status: int
    length: int
    hash: str | None
    order: int


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of origin. `command` writes the configuration into a folder and gives the argv of a server that listens at
    `address`; `read` makes a line of its log a `Seen`. `leave` is the signal that it ends by when all is answered."""

    name: str
    program: str
    command: Callable[[str, Path, str, Path], Sequence[str]]
    read: Callable[[bytes], Seen]
    is_unix: bool = True
    leave: signal.Signals = signal.SIGTERM


class Origin:
    """A running server. `seen()` gives what it has written down since it was asked last."""

    def __init__(self, server: Server, program: str, folder: Path) -> None:
        self.server = server
        folder.mkdir()
        folder.chmod(0o755)  # httpd's children give up root, and read a file of this folder
        place: str | tuple[str, int]
        if server.is_unix:
            self.address, family, place = f"unix:{folder}/origin", socket.AF_UNIX, str(folder / "origin")
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.address, family, place = f"127.0.0.1:{port}", socket.AF_INET, ("127.0.0.1", port)
        log = folder / "seen"
        log.touch()
        self._log = log.open("rb")
        self._rest = b""
        self._stderr = folder / "stderr"
        argv = server.command(program, folder, self.address, log)
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=ROOT,
                env=os.environ | {"SEEN": str(log)},
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._answers(family, place))
            wait_until(lambda: bool(self.seen()))
        except BaseException:
            self.kill()
            raise

    def seen(self) -> list[Seen]:
        """What it has written since."""
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        return [self.server.read(line) for line in lines]

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def leave(self) -> list[Seen]:
        """Lets it finish what it has, and gives the last that it wrote: after this, nothing more can come."""
        if self._process.poll() is None:
            self._process.send_signal(self.server.leave)
            self._process.wait(PATIENCE_S)
        return self.seen()

    def kill(self) -> None:
        """Ends it, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._log.close()

    def _answers(self, family: socket.AddressFamily, place: str | tuple[str, int]) -> bool:
        """Whether a first request is answered. Before that, a server may not even hear that it is to leave."""
        assert self._process.poll() is None, self._stderr.read_text()
        with socket.socket(family) as probe:
            probe.settimeout(PATIENCE_S)
            if probe.connect_ex(place) != 0:
                return False
            probe.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return probe.recv(1) == b"H"


def find(program: str) -> str | None:
    """Where a server's program is; servers are often not on a user's path."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")


# --- nginx: a front that reads the whole body, before a back that answers -------------------------------------------


def _nginx(program: str, folder: Path, address: str, log: Path) -> Sequence[str]:
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
{temporary}
    log_format seen escape=json '{{"id":"$http_x_request_id","method":"$request_method","path":"$request_uri",'
        '"authority":"$http_host","status":$status,"answered":"$upstream_status","body":"$request_body"}}';
    access_log {log} seen;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    large_client_header_buffers 8 80k;
    underscores_in_headers on;
    ignore_invalid_headers off;
    server {{
        listen {address};
        location / {{
            proxy_pass http://unix:{folder}/back;
            add_header X-Seen $http_x_request_id always;
        }}
    }}
    server {{
        listen unix:{folder}/back;
        access_log off;
        location / {{ return 200 "nginx"; }}
    }}
}}
""")
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def _of_nginx(line: bytes) -> Seen:
    # Bytes from 0x80 up are logged as they came, whatever they mean: each is a character here.
    fields = json.loads(line.decode("latin-1"))
    body = fields["body"].encode("latin-1")
    return Seen(
        fields["id"],
        fields["method"].encode("latin-1"),
        fields["path"].encode("latin-1"),
        fields["authority"].encode("latin-1"),
        fields["status"],
        len(body),
        hashlib.sha1(body).hexdigest() if fields["answered"] else None,
        0,
    )


# --- Apache httpd: a front as well, since it has nothing small that reads a body and logs it --------------------------


def _httpd(program: str, folder: Path, address: str, log: Path) -> Sequence[str]:
    root = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    modules = ("mpm_event", "authz_core", "proxy", "proxy_http", "rewrite")
    (folder / "httpd.conf").write_text(
        "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules)
        + f"""
ServerRoot {folder}
ServerName localhost
Listen {address}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
LogLevel crit
{root}
ServerLimit 1
StartServers 1
ThreadsPerChild 16
MaxRequestWorkers 16
MinSpareThreads 1
MaxSpareThreads 16
Timeout 600
KeepAliveTimeout 600
MaxKeepAliveRequests 0
HttpProtocolOptions Unsafe LenientMethods Allow0.9
AllowEncodedSlashes NoDecode
LimitRequestLine 65536
LimitRequestFieldSize 100000
LimitRequestFields 0
TraceEnable off
GracefulShutdownTimeout 2
RewriteEngine On
RewriteOptions AllowAnyURI
RewriteRule ^\\*$ - [F]
RewriteRule . "unix:{folder}/back|http://back/" [P,QSD]
LogFormat "%{{usec}}t\\t%{{X-Request-Id}}i\\t%{{Host}}i\\t%>s\\t%{{X-Body}}o\\t%r" seen
CustomLog {log} seen
"""
    )
    # One shell, so that both end with their session; httpd is what it becomes.
    back = f"umask 0; {find('node')} {HERE}/back.js {folder}/back & until test -S {folder}/back; do sleep 0.01; done"
    return ["/bin/sh", "-c", f"{back}; exec {program} -f {folder}/httpd.conf -DFOREGROUND"]


def _of_httpd(line: bytes) -> Seen:
    order, identity, authority, status, body, start = map(_unescape, line.split(b"\t", 5))
    method, _, rest = start.partition(b" ")
    length, _, hashed = body.decode().partition(":")
    return Seen(
        "" if identity == b"-" else identity.decode("latin-1"),
        method,
        rest.rpartition(b" ")[0],
        authority,
        int(status),
        int(length) if hashed else 0,
        hashed or None,
        int(order),
    )


def _unescape(text: bytes) -> bytes:
    letters = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"f": b"\f", b"b": b"\b", b"a": b"\a"}
    return re.sub(
        rb"\\(?:x([0-9a-f]{2})|(.))",
        lambda found: bytes([int(found[1], 16)]) if found[1] else letters.get(found[2], found[2]),
        text,
    )


# --- gunicorn and node ----------------------------------------------------------------------------------------------


def _gunicorn(_: str, folder: Path, address: str, log: Path) -> Sequence[str]:
    here = "tests.conformance.differential.gunicorn_origin"
    options = {
        "bind": address,
        "worker-class": f"{here}.Worker",
        "workers": "1",
        "threads": "8",
        "timeout": "600",
        "keep-alive": "600",
        "graceful-timeout": "2",
        "limit-request-line": "0",
        "limit-request-fields": "32768",
        "limit-request-field_size": "0",
        "header-map": "dangerous",
        "log-level": "critical",
        "worker-tmp-dir": str(folder),
    }
    lenient = ["permit-unconventional-http-method", "permit-unconventional-http-version", "no-control-socket"]
    argv = [f"--{name}={value}" for name, value in options.items()] + [f"--{name}" for name in lenient]
    return [sys.executable, "-m", "gunicorn", *argv, f"{here}:app"]


def _node(program: str, _: Path, address: str, log: Path) -> Sequence[str]:
    return [program, str(HERE / "origin.js"), address.removeprefix("unix:"), str(log)]


def _of_json(line: bytes) -> Seen:
    fields = json.loads(line)
    return Seen(
        fields["id"],
        fields["method"].encode("latin-1"),
        fields["path"].encode("latin-1"),
        fields["authority"].encode("latin-1"),
        fields["status"],
        fields["length"],
        fields["hash"],
        0,
    )


SERVERS: tuple[Server, ...] = (
    Server("nginx", "nginx", _nginx, _of_nginx, leave=signal.SIGQUIT),
    Server("httpd", "apache2", _httpd, _of_httpd, is_unix=False, leave=signal.SIGWINCH),
    Server("gunicorn", "python3", _gunicorn, _of_json),
    Server("node", "node", _node, _of_json),
)
