"""Who is compared, and how each is configured: one worker, keep-alive to the origin, no log, nothing that others lack.

A peer is a small frozen description; starting it is the same for all. The origin is nginx, since it answers in a few
microseconds and keeps a count of its own to check the client's against.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.processes import command_line, descendants
from tests.bench.scenarios import LARGE, SMALL

SERVICE = "bench"
FOREVER = 1_000_000_000


@dataclass(frozen=True)
class Place:
    """Where one peer works: its folder, its public port, and its origin (`127.0.0.1:PORT` or `unix:/path`)."""

    folder: Path
    port: int
    origin: str
    relay: Path


@dataclass(frozen=True)
class Peer:
    """One way between client and origin. `command` writes the configuration and answers the argv; None: no proxy."""

    name: str
    features: str
    binary: Callable[[], str | None]
    command: Callable[[Place], Sequence[str]] | None
    remedy: str = "make peers"
    proxies: Callable[[int], list[int]] = lambda pid: [pid]
    environment: Callable[[Place], dict[str, str]] = field(default=lambda _: {})


def nginx_frame(folder: Path, http: str) -> str:
    """An nginx configuration in one process that keeps to `folder`."""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests {FOREVER};
    open_file_cache max=16 inactive=1h;
{temporary}
{http}
}}
"""


def origin_command(folder: Path, port: int, socket: Path) -> Sequence[str]:
    """The origin on TCP and on a Unix socket: /small, /large, and its own count at /count."""
    (folder / "large").write_bytes(LARGE)
    http = f"""\
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen unix:{socket} backlog=4096;
        location = /small {{ return 200 "{SMALL.decode()}"; }}
        location = /large {{ root {folder}; sendfile on; }}
        location = /count {{ stub_status; }}
    }}"""
    (folder / "nginx.conf").write_text(nginx_frame(folder, http))
    return [nginx_binary() or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def nginx_command(place: Place) -> Sequence[str]:
    """nginx as reverse proxy with a pool of upstream connections."""
    http = f"""\
    upstream origin {{
        server {place.origin};
        keepalive 256;
        keepalive_requests {FOREVER};
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
    }}"""
    (place.folder / "nginx.conf").write_text(nginx_frame(place.folder, http))
    configuration = str(place.folder / "nginx.conf")
    return [nginx_binary() or "nginx", "-p", str(place.folder), "-c", configuration, "-e", "stderr"]


def haproxy_command(place: Place) -> Sequence[str]:
    """HAProxy in HTTP mode, one thread."""
    (place.folder / "haproxy.cfg").write_text(f"""\
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend public
    bind 127.0.0.1:{place.port} backlog 4096
    default_backend origin
backend origin
    http-reuse always
    server origin {place.origin.replace("unix:", "unix@")}
""")
    return [_found("haproxy") or "haproxy", "-db", "-q", "-f", str(place.folder / "haproxy.cfg")]


def relay_command(place: Place) -> Sequence[str]:
    """The bare epoll relay."""
    return [str(place.relay), "relay", "--listen", f"127.0.0.1:{place.port}", "--connect", place.origin]


def pannier_command(place: Place) -> Sequence[str]:
    """`pannier run` in the stage `production`, its outbound hop: a route, a split, two endpoints to balance between,
    breakers, budget, limits and one trace in a hundred. The origin stands in for the app, too, and starts by itself."""
    unix = place.origin.startswith("unix:")
    app = place.origin if unix else place.origin.rpartition(":")[2]
    # The same origin by two names is two endpoints, as a balancer sees it.
    other = place.origin if unix else f"localhost:{app}"
    addresses = dict.fromkeys((place.origin, other))
    endpoints = ", ".join(f'{{ address = "{one}", metadata = {{ version = "1" }} }}' for one in addresses)
    profile = place.folder / "bench.toml"
    profile.write_text(f"""\
extends = "production"
[services]
{SERVICE} = [{endpoints}]
[sidecars.traffic.services.{SERVICE}]
subsets = {{ v1 = {{ version = "1" }}, v2 = {{ version = "2" }} }}
split = {{ v1 = 100, v2 = 0 }}
[[sidecars.traffic.routes]]
name = "all"
hosts = ["{SERVICE}"]
matches = [{{ prefix = "/" }}]
""")
    options = ["--name", "caller", "--app-port", app, "--workers", "1"]
    ports = ["--outbound-port", str(place.port), "--metrics-port", "auto"]
    return [pannier_binary() or "pannier", "run", "--profile", str(profile), *options, *ports]


def pannier_environment(place: Place) -> dict[str, str]:
    """Keeps the service away from those that run on the machine."""
    return {"PANNIER_RUNTIME_DIR": str(place.folder / "run"), "PANNIER_STATE_DIR": str(place.folder / "state")}


def pannier_proxies(supervisor: int) -> list[int]:
    """The data path's processes below a supervisor: `pannierd proxy`."""
    found = []
    for pid in descendants(supervisor):
        words = command_line(pid)
        if len(words) > 1 and Path(words[0]).name == "pannierd" and words[1] == "proxy":
            found.append(pid)
    return found


def nginx_binary() -> str | None:
    return _found("nginx")


def pannier_binary() -> str | None:
    beside = Path(sys.executable).parent / "pannier"
    return str(beside) if beside.exists() else None


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


PEERS = (
    Peer("direct", "no hop", nginx_binary, None),
    Peer("relay", "bytes only", lambda: "built by the harness", relay_command),
    Peer("nginx", "http proxy, 1 worker", nginx_binary, nginx_command),
    Peer("haproxy", "http mode, 1 thread", lambda: _found("haproxy"), haproxy_command),
    Peer(
        "pannier",
        "production: all four, outbound",
        pannier_binary,
        pannier_command,
        remedy="make build",
        proxies=pannier_proxies,
        environment=pannier_environment,
    ),
)
