"""What fails in a service that is under load: nothing, unless it is the proxy or the app itself that dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from pannier.shared.messages import Nothing, SidecarName

from tests.proxy.wire import Wire, request
from tests.system.host import PATIENCE, Host, free_port, until
from tests.system.load import Load
from tests.system.origin import Origin

REQUESTS = "http_server_request_duration_seconds_count"
CONNECTIONS = "pannier_proxy_connections_accepted_total"
SIDECARS = ("discovery", "observability")


SLOW_APP = """
import pathlib, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
folder = pathlib.Path(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            (folder / f"slow-{self.client_address[1]}").touch()
            while not (folder / "gate").exists():
                time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"whole")
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_capabilities_come_and_go(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for name in ("observability", "discovery"):
            host.ask("orders", "sidecar.rm", SidecarName(name), Nothing)
            assert host.pids("orders").keys() == before.keys() - {name}
            host.ask("orders", "sidecar.add", SidecarName(name), Nothing)
    load.assert_all_answered()
    after = host.pids("orders")
    assert {**after, **dict.fromkeys(SIDECARS, 0)} == {**before, **dict.fromkeys(SIDECARS, 0)}
    assert host.metric("orders", CONNECTIONS) == load.dialled, "none was closed and opened again"
    until(lambda: host.metric("orders", REQUESTS) >= load.answered)
    assert host.metric("orders", REQUESTS) == load.answered


def test_sidecars_are_killed(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for victims in (SIDECARS[:1], SIDECARS[1:], SIDECARS):
            before = host.pids("orders")
            for victim in victims:
                os.kill(before[victim], signal.SIGKILL)
            until(lambda: host.ready("orders") and not _same(host.pids("orders"), before, victims), within=5.0)  # noqa: B023
            assert {**host.pids("orders"), **dict.fromkeys(victims, 0)} == {**before, **dict.fromkeys(victims, 0)}
    load.assert_all_answered()
    assert host.metric("orders", CONNECTIONS) == load.dialled
    until(lambda: host.metric("orders", REQUESTS) >= load.answered)
    assert host.metric("orders", REQUESTS) == load.answered


def _same(now: dict[str, int], before: dict[str, int], names: Sequence[str]) -> bool:
    return any(now[name] == before[name] for name in names)


def test_the_zygote_is_killed(host: Host, origin: Origin) -> None:
    """It costs nobody anything, and whoever is started meanwhile is there all the same."""
    origin.serve("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for others in ((), SIDECARS):
            before, victims = host.pids("orders"), ("zygote", *others)
            for victim in victims:
                os.kill(before[victim], signal.SIGKILL)
            until(lambda: host.ready("orders") and not _same(host.pids("orders"), before, victims), within=5.0)  # noqa: B023
            assert {**host.pids("orders"), **dict.fromkeys(victims, 0)} == {**before, **dict.fromkeys(victims, 0)}
        assert host.run("sidecar", "restart", SIDECARS[0], "--name", "orders").returncode == 0
    load.assert_all_answered()
    assert host.metric("orders", CONNECTIONS) == load.dialled


def test_the_supervisor_is_killed_and_another_adopts(host: Host, origin: Origin) -> None:
    first = origin.serve("orders", "--set", "orphan_grace=30s")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        first.kill()
        until(lambda: host.orphaned("orders"))
        host.start("run", "--name", "orders", "--app-port", str(free_port()), "--", "another", "command")
        until(lambda: host.ready("orders"))
    load.assert_all_answered()
    after = host.pids("orders")
    assert {**after, "supervisor": 0} == {**before, "supervisor": 0}
    assert after["supervisor"] != before["supervisor"]
    assert host.metric("orders", CONNECTIONS) == load.dialled


def test_the_supervisor_is_killed_under_dev(host: Host, origin: Origin) -> None:
    process = origin.serve("orders")
    with Load(host.urls("orders")["inbound"], "orders"):
        process.kill()
        process.wait()
        until(lambda: host.nothing_left() and not host.survivors(), within=2.0)
        assert not list(host.runtime.rglob("*.json"))


def test_nobody_is_killed_while_the_supervisor_sleeps_or_when_it_wakes(host: Host, origin: Origin) -> None:
    """It sleeps for longer than a sidecar may be silent, beside an app that fills its pipe many times over."""
    process = origin.serve("orders", talks=True)
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders", rate=300) as load:
        process.send_signal(signal.SIGSTOP)
        asleep = time.monotonic()
        until(lambda: time.monotonic() > asleep + 5.5)
        process.send_signal(signal.SIGCONT)
        until(lambda: host.ready("orders"))
        awake = time.monotonic()
        until(lambda: time.monotonic() > awake + 1.0)
    load.assert_all_answered()
    assert host.pids("orders") == before


def test_a_sidecar_that_hangs_is_replaced(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for name in SIDECARS:
            os.kill(before[name], signal.SIGSTOP)
        until(lambda: host.ready("orders") and not _same(host.pids("orders"), before, SIDECARS))
    load.assert_all_answered()
    assert {**host.pids("orders"), **dict.fromkeys(SIDECARS, 0)} == {**before, **dict.fromkeys(SIDECARS, 0)}
    assert host.metric("orders", CONNECTIONS) == load.dialled


def test_the_proxy_is_killed(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        counted = host.metric("orders", REQUESTS)
        os.kill(before["proxy"], signal.SIGKILL)
        assert host.metric("orders", REQUESTS) >= counted
        until(lambda: host.ready("orders") and host.pids("orders")["proxy"] != before["proxy"], within=5.0)
        assert host.metric("orders", REQUESTS) >= counted
    assert load.failed <= load.connections
    assert (load.refused, load.answered + load.failed) == (0, load.issued), load
    assert load.slowest_s < 1.0
    assert {**host.pids("orders"), "proxy": 0} == {**before, "proxy": 0}
    until(lambda: host.metric("orders", REQUESTS) >= load.answered - load.connections)
    assert host.metric("orders", REQUESTS) <= load.issued


def test_the_keeper_is_killed(host: Host, origin: Origin) -> None:
    process = origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        os.kill(before["keeper"], signal.SIGKILL)
        until(lambda: any(each.state == "degraded" for each in host.processes("orders")))
        assert {**host.pids("orders"), "keeper": 0, "zygote": 0} == {**before, "keeper": 0, "zygote": 0}
    load.assert_all_answered()
    assert "degraded" in host.run("ps").stdout
    assert host.run("down").returncode == 0
    assert process.wait(PATIENCE) == 0
    assert host.nothing_left()
    assert not host.survivors()


def test_a_full_disk_costs_lines_of_the_access_log(host: Host, origin: Origin) -> None:
    process = origin.serve("orders", "--set", "sidecars.observability.access_log.path=/dev/full")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        until(lambda: host.metric("orders", "pannier_access_log_errors_total") > load.rate)
    load.assert_all_answered()
    until(lambda: host.metric("orders", REQUESTS) == load.answered)
    until(lambda: host.metric("orders", "pannier_access_log_errors_total") == load.answered)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert [line for line in said.splitlines() if "access log" in line and "cannot be written" in line] == [
        line for line in said.splitlines() if "access log" in line
    ]
    assert said.count("access log") == 1


def test_a_drain_answers_what_is_in_flight_and_whoever_still_comes(host: Host, port: int) -> None:
    (host.folder / "slow.py").write_text(SLOW_APP)
    command = (sys.executable, str(host.folder / "slow.py"), str(port), str(host.folder))
    process = host.serve("orders", port, "--port", "0", command=command)
    public = urlsplit(host.urls("orders")["inbound"])
    with ExitStack() as stack:

        def call() -> Wire:
            return stack.enter_context(Wire(socket.create_connection((public.hostname, public.port), PATIENCE)))

        def answered(wire: Wire) -> tuple[int, bytes, str | None]:
            got = wire.read_answer()
            return got.status, got.body, got.get("connection")

        idle = call()
        idle.send(request())
        assert answered(idle) == (200, b"whole", None)
        busy = [call() for _ in range(4)]
        for wire in busy:
            wire.send(request("/slow"))
        until(lambda: len(list(host.folder.glob("slow-*"))) == len(busy))

        process.send_signal(signal.SIGTERM)
        assert idle.has_ended()
        for late in (call(), call()):
            late.send(request())
            assert answered(late) == (200, b"whole", "close")
            assert late.has_ended()
        assert process.poll() is None
        (host.folder / "gate").touch()
        for wire in busy:
            assert answered(wire) == (200, b"whole", "close")
            assert wire.has_ended()
    assert process.wait(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((public.hostname, public.port), PATIENCE)
    assert host.nothing_left()
    assert not host.survivors()


def test_a_service_is_replaced_instance_by_instance(host: Host, origin: Origin) -> None:
    """`shop` finds one instance of `orders` in the host's registry; the other one is registered with it."""
    host.start("run", "--name", "shop", "--outbound-port", "auto", "--", "sleep", "600")
    until(lambda: host.ready("shop"))
    first = origin.serve("orders")
    second = origin.serve("orders-two", "--set", 'inbound.hosts=["orders"]')
    until(lambda: _healthy(host) == 1)
    with Load(host.urls("shop")["outbound"], "orders", method="POST") as load:
        public = urlsplit(host.urls("orders-two")["inbound"])
        body = {"address": public.hostname, "port": public.port, "ttl": "1m"}
        assert _api(host, request("/v1/instances/orders/two", method="PUT", body=json.dumps(body).encode()))[0] == 201
        until(lambda: _healthy(host) == 2)
        first.terminate()
        assert first.wait(PATIENCE) == 0
        until(lambda: _healthy(host) == 1)
        origin.serve("orders")
        until(lambda: _healthy(host) == 2)
        assert _api(host, request("/v1/instances/orders/two", method="DELETE"))[0] == 200
        until(lambda: _healthy(host) == 1)
        taken = host.metric("orders-two", REQUESTS)
        second.terminate()
        assert second.wait(PATIENCE) == 0
    load.assert_all_answered()
    assert 0 < taken < load.answered


def _api(host: Host, asked: bytes) -> tuple[int, Any]:
    """What the registration socket of `shop` answers."""
    connection = socket.socket(socket.AF_UNIX)
    with Wire(connection) as wire:
        connection.connect(str(host.runtime / "shop" / "api.sock"))
        wire.send(asked)
        got = wire.read_answer()
    return got.status, json.loads(got.body)


def _healthy(host: Host) -> int:
    """How many instances of `orders` are known to `shop` and can be called."""
    status, found = _api(host, request("/v1/services/orders"))
    return sum(each["state"] == "UP" for each in found["endpoints"]) if status == 200 else 0


def test_ctrl_c_ends_a_project_that_is_under_load(host: Host, origin: Origin) -> None:
    public = {"one": free_port(), "two": free_port()}
    tables = []
    for name, at in public.items():
        port = free_port()
        tables.append(f"[apps.{name}]\ncommand = {json.dumps(origin.command(port))}\napp_port = {port}\nport = {at}\n")
    (host.folder / "pannier.toml").write_text("\n".join(tables))
    process = host.start("run", "-f", "pannier.toml")
    until(lambda: host.ready("one") and host.ready("two"))
    with Load(f"http://127.0.0.1:{public['one']}", "one"), Load(f"http://127.0.0.1:{public['two']}", "two"):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert host.nothing_left()
    assert not host.survivors()
    assert not list(host.runtime.rglob("*.json"))
