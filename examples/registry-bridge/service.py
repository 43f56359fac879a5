"""A small service that knows one registry, and calls another service by what that registry says.

    service.py orders 1 stock --zookeeper 127.0.0.1:2181     registers as Apache Curator has it, and looks there
    service.py stock 1 orders --pilot /run/pannier/pilot.sock

GET / says who answers; GET /call asks an instance of the other service, a different one each time. Neither registry
knows that the other one exists, and neither does a service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import sys
import threading
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Protocol

RENEW_S = 3.0
BASE = "/services"


class Registry(Protocol):
    def register(self, service: str, name: str, host: str, port: int) -> None: ...

    def lookup(self, service: str) -> list[tuple[str, int]]: ...

    def leave(self) -> None: ...


class InZooKeeper:
    def __init__(self, hosts: str) -> None:
        from kazoo.client import KazooClient

        self._client = KazooClient(hosts)
        self._client.start()

    def register(self, service: str, name: str, host: str, port: int) -> None:
        found = {"name": service, "id": name, "address": host, "port": port, "serviceType": "DYNAMIC"}
        path = f"{BASE}/{service}/{name}"
        self._client.create(path, json.dumps(found).encode(), ephemeral=True, makepath=True)

    def lookup(self, service: str) -> list[tuple[str, int]]:
        from kazoo.exceptions import NoNodeError

        found: list[tuple[str, int]] = []
        with suppress(NoNodeError):  # nobody is there yet, or one has left meanwhile
            for name in sorted(self._client.get_children(f"{BASE}/{service}")):
                instance = json.loads(self._client.get(f"{BASE}/{service}/{name}")[0])
                found.append((instance["address"], instance["port"]))
        return found

    def leave(self) -> None:
        self._client.stop()


class WithPilot:
    def __init__(self, path: str) -> None:
        self._path = path
        self._left = threading.Event()

    def register(self, service: str, name: str, host: str, port: int) -> None:
        self._place = f"/v1/instances/{service}/{name}"
        body = {"address": host, "port": port}
        body["epoch"] = self._ask("PUT", self._place, body)["epoch"]
        threading.Thread(target=self._renew, args=(body,), daemon=True).start()

    def lookup(self, service: str) -> list[tuple[str, int]]:
        found = self._ask("GET", f"/v1/services/{service}")["instances"]
        places = (instance["address"].rpartition(":") for instance in found)
        return [(host, int(port)) for host, _, port in places]

    def leave(self) -> None:
        self._left.set()
        self._ask("DELETE", self._place)

    def _renew(self, body: dict[str, Any]) -> None:
        while not self._left.wait(RENEW_S):
            with suppress(OSError):
                self._ask("PUT", self._place, body)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("pilot", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self._path)
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json"} if data else {})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        if answer.status >= 400:
            raise OSError(f"{method} {path}: {answer.status} {found}")
        return found


def serve(name: str, other: str, registry: Registry) -> ThreadingHTTPServer:
    """A server on any port, for whoever asks for `name` or wants it to ask `other`."""
    turns = count()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, said = 200, f"{name}"
            if self.path == "/call":
                places = registry.lookup(other)
                if places:
                    host, port = places[next(turns) % len(places)]
                    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
                        said = f"{name} called {answer.read().decode()}"
                else:
                    status, said = 503, f"{name} finds no {other}"
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small service that knows one registry.")
    parser.add_argument("service")
    parser.add_argument("number")
    parser.add_argument("other")
    parser.add_argument("--zookeeper", metavar="HOST:PORT")
    parser.add_argument("--pilot", metavar="SOCKET")
    given = parser.parse_args()
    name = f"{given.service}-{given.number}"
    registry: Registry = InZooKeeper(given.zookeeper) if given.zookeeper else WithPilot(given.pilot)
    server = serve(name, given.other, registry)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        registry.register(given.service, name, "127.0.0.1", server.server_address[1])
        print(server.server_address[1], flush=True)
        server.serve_forever()
    finally:
        registry.leave()


if __name__ == "__main__":
    main()
