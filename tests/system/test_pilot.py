"""`pannier pilot` as a process: asked over its socket and over TCP, killed, started again."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.sidecars.pilot.real_etcd import running_etcd
from tests.system.host import Host, until

HERE = {"address": "10.0.0.1", "port": 80}
A = "/v1/instances/orders/a"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    with_type = {"content-type": "application/json"} | headers
    with closing(connection):
        connection.request(method, target, json.dumps(body) if body is not None else None, with_type)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def start(host: Host, *words: str) -> tuple[subprocess.Popen[str], str]:
    """The process, and what it says when it is ready."""
    pilot = host.start("pilot", *words)
    assert pilot.stderr is not None
    said = ""
    while "is ready" not in said:
        line = pilot.stderr.readline()
        assert line, f"it ended: {said}"
        said += line
    return pilot, said


def over_unix(host: Host) -> http.client.HTTPConnection:
    return UnixConnection(host.runtime / "pilot.sock")


def test_instances_outlast_the_pilot_and_an_old_life_loses_across_its_death(host: Host) -> None:
    pilot, _ = start(host)
    assert ask(over_unix(host), "PUT", A, HERE | {"epoch": 1})[0] == 201
    assert ask(over_unix(host), "PUT", A, {"address": "10.0.0.2:80", "epoch": 2})[0] == 200
    before = ask(over_unix(host), "GET", "/v1/services")[1]["services"]
    os.kill(pilot.pid, signal.SIGKILL)
    pilot.wait()
    pilot, said = start(host)
    assert "1 instances" in said
    assert ask(over_unix(host), "GET", "/v1/services")[1]["services"] == before
    assert ask(over_unix(host), "DELETE", A, {"epoch": 1})[0] == 409, "the late end of the old life"
    assert ask(over_unix(host), "GET", "/v1/services")[1]["services"] == before
    pilot.terminate()
    assert pilot.wait(20) == 0
    assert not (host.runtime / "pilot.sock").exists()


def test_over_tcp_changes_need_a_token_that_is_made_and_is_a_secret(host: Host) -> None:
    pilot, said = start(host, "--listen", "127.0.0.1:0")
    port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", said)[0])
    token = host.folder / "s" / "pilot" / "token"
    assert str(token) in said
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    tcp = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    assert ask(tcp, "PUT", A, HERE)[0] == 401
    assert ask(tcp, "PUT", A, HERE, authorization=f"Bearer {token.read_text().strip()}")[0] == 201
    assert list(ask(tcp, "GET", "/v1/services")[1]["services"]) == ["orders"]
    pilot.terminate()
    assert pilot.wait(20) == 0
    token.chmod(0o644)
    refused = host.run("pilot", "--listen", "127.0.0.1:0")
    assert refused.returncode != 0
    assert "is no secret" in refused.stderr


def test_a_second_pilot_is_refused_and_the_first_goes_on(host: Host) -> None:
    start(host)
    refused = host.run("pilot", "--socket", str(host.folder / "other.sock"))
    assert refused.returncode != 0
    assert "another pilot has" in refused.stderr
    assert ask(over_unix(host), "PUT", A, HERE)[0] == 201


def test_two_pilots_on_one_etcd_know_the_same_and_one_tends_what_the_other_has_left(
    host: Host, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    with running_etcd(require_peer("etcd"), tmp_path) as port:
        store = ("--store", f"etcd://127.0.0.1:1,127.0.0.1:{port}")
        first, _ = start(host, *store)
        other_socket = host.folder / "other.sock"
        start(host, *store, "--socket", str(other_socket))
        assert ask(over_unix(host), "PUT", A, HERE | {"epoch": 1})[0] == 201

        def other(method: str, target: str, body: object = None) -> tuple[int, Any]:
            return ask(UnixConnection(other_socket), method, target, body)

        def written() -> int:
            """The revision at which the instance was written last."""
            instances = other("GET", "/v1/services/orders")[1]["instances"]
            return int(instances[0]["revision"]) if instances else 0

        until(lambda: written() > 0)
        before = written()
        first.terminate()
        assert first.wait(20) == 0
        until(lambda: written() > before)  # it is another pilot's now
        assert other("PUT", A, HERE | {"epoch": 1})[0] == 200
        assert other("DELETE", A, {"epoch": 1})[0] == 200


def test_who_cannot_register_is_kept_across_a_pilot_that_restarts_and_leaves_in_order(host: Host) -> None:
    pilot, _ = start(host)
    kept = host.start("discovery", "register", "db", "one", "10.0.0.1:5432", "--ttl", "1s", "--keep", "--pilot")
    assert kept.stderr is not None
    said = iter(kept.stderr.readline, "")
    assert "is registered with epoch 1" in next(said)
    assert "Ctrl-C drains and deregisters" in next(said)
    os.kill(pilot.pid, signal.SIGKILL)
    pilot.wait()
    assert "trying again" in next(said)
    start(host)
    while "is renewed again" not in (line := next(said)):
        assert "trying again" in line
    _, found = ask(over_unix(host), "GET", "/v1/services/db")
    assert [(one["epoch"], one["state"]) for one in found["instances"]] == [(1, "UP")]
    watched = ask(over_unix(host), "GET", f"/v1/watch?after={found['revision']}&wait=1ms")
    assert watched[1]["services"] == {}, "it was renewed, not registered anew"
    kept.terminate()
    assert next(said) == "db/one is drained and deregistered\n"
    assert kept.wait(20) == 0
    assert ask(over_unix(host), "GET", "/v1/services/db")[1]["instances"] == []
    told = found["revision"] + 2  # DRAINING, then the end
    until(lambda: ask(over_unix(host), "GET", "/v1/services/db")[1]["revision"] == told)
