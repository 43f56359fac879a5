"""Unix sockets on both sides of a real service: what holds for ports holds for them, and their files come and go."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.system.host import PATIENCE, Host, free_port, until
from tests.system.load import Load, place
from tests.system.origin import Origin

REQUESTS = "http_server_request_duration_seconds_count"
ENVIRONMENT = "env | grep -iE '^(pannier_outbound|https?_proxy|no_proxy)=' | sort"


def url(path: Path) -> str:
    return "http+unix://" + str(path).replace("/", "%2F")


@pytest.fixture(params=["tcp", "unix"])
def legs(request: pytest.FixtureRequest, host: Host) -> tuple[int | str, str]:
    """Where the app listens, and where its callers do."""
    if request.param == "tcp":
        return free_port(), "0"
    return f"unix:{host.folder}/app.sock", f"unix:{host.folder}/public.sock"


def test_two_workers_answer_everybody_and_a_killed_proxy_refuses_nobody(
    host: Host, origin: Origin, legs: tuple[int | str, str]
) -> None:
    app, public = legs
    process = origin.serve("orders", "--port", public, "--workers", "2", port=app)
    at = host.urls("orders")["inbound"]
    with Load(at, "orders") as whole:
        until(lambda: host.metric("orders", REQUESTS) > whole.rate)
    whole.assert_all_answered()
    until(lambda: host.metric("orders", REQUESTS) == whole.answered)

    before = host.pids("orders")
    with Load(at, "orders", rate=200, connections=32) as load:
        for _ in range(2):
            victim = host.pids("orders")["proxy"]
            os.kill(victim, signal.SIGKILL)
            until(lambda: _connects(at) and _replaced(host, victim), within=5.0)  # noqa: B023
    assert (load.refused, load.answered + load.failed) == (0, load.issued), load
    assert load.failed <= 2 * load.connections
    assert {**host.pids("orders"), "proxy": 0} == {**before, "proxy": 0}
    lowest = whole.answered + load.answered - 2 * load.connections
    until(lambda: host.metric("orders", REQUESTS) >= lowest)
    assert host.metric("orders", REQUESTS) <= whole.issued + load.issued

    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert host.nothing_left()
    assert not (host.folder / "public.sock").exists()


def _replaced(host: Host, victim: int) -> bool:
    return host.ready("orders") and host.pids("orders")["proxy"] != victim


def _connects(at: str) -> bool:
    """Raises OSError if it does not."""
    where = place(at)
    path = where.removeprefix("unix:")
    with socket.socket(socket.AF_INET if path == where else socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(path if path != where else ("127.0.0.1", int(where.rpartition(":")[2])))
    return True


def test_a_successor_finds_the_sockets(host: Host, origin: Origin) -> None:
    public, outbound = host.folder / "public.sock", host.folder / "out.sock"
    options = ("--port", f"unix:{public}", "--outbound-port", f"unix:{outbound}", "--set", "orphan_grace=30s")
    first = origin.serve("orders", *options)
    assert [stat.S_IMODE(path.lstat().st_mode) for path in (public, outbound)] == [0o660, 0o600]
    files = [path.lstat().st_ino for path in (public, outbound)]
    before, urls = host.pids("orders"), host.urls("orders")
    assert (urls["inbound"], urls["outbound"]) == (url(public), url(outbound))
    with Load(urls["inbound"], "orders") as load:
        first.kill()
        until(lambda: host.orphaned("orders"))
        host.start("run", "--name", "orders", "--", "another", "command")
        until(lambda: host.ready("orders"))
    load.assert_all_answered()
    assert {**host.pids("orders"), "supervisor": 0} == {**before, "supervisor": 0}
    assert host.urls("orders") == urls
    assert f"inbound at {url(public)}" in host.run("check").stdout
    assert [path.lstat().st_ino for path in (public, outbound)] == files
    (service,) = json.loads(host.run("ps", "-o", "json").stdout)
    assert service["urls"] == urls
    assert host.run("down").returncode == 0
    assert not public.exists()
    assert not outbound.exists()


def test_services_find_each_other_by_socket(host: Host, origin: Origin) -> None:
    origin.serve("orders", "--port", f"unix:{host.folder}/orders.sock", port=f"unix:{host.folder}/app.sock")
    out = host.folder / "out.sock"
    words = ("--name", "shop", "--outbound-port", f"unix:{out}", "--", "sh", "-c", f"{ENVIRONMENT}; exec sleep 600")
    shop = host.start("run", *words)
    assert shop.stdout is not None
    assert shop.stdout.readline() == f"PANNIER_OUTBOUND={url(out)}\n", "and no proxy variable is set before it"
    until(lambda: host.ready("shop") and _called(out, "orders") == 200)
    with Load(host.urls("shop")["outbound"], "orders", method="POST") as load:
        until(lambda: host.metric("orders", REQUESTS) > load.rate)
    load.assert_all_answered()


def _called(path: Path, host: str) -> int:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(str(path))
        caller.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(caller.recv(64).split()[1])


def test_a_path_that_somebody_answers_on_is_refused_and_one_of_the_dead_is_not(host: Host, port: int) -> None:
    public = host.folder / "public.sock"
    first = host.serve("orders", port, "--port", f"unix:{public}")
    for option in ("--port", "--outbound-port"):
        late = host.run("run", "--name", "late", option, f"unix:{public}", "--", "sleep", "60")
        assert late.returncode == 1
        assert f"{public} is in use by another process" in late.stderr
        assert option in late.stderr
    late = host.run("run", "--name", "late", "--app-port", f"unix:{public}", "--", "sleep", "60")
    assert late.returncode == 1
    assert f"somebody answers on {public}" in late.stderr
    assert _accepts(public), "who was there first stays"

    first.kill()
    for pid in host.survivors():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not host.survivors())
    assert public.exists()
    second = host.serve("orders", port, "--port", f"unix:{public}")
    assert _accepts(public)
    os.kill(host.pids("orders")["keeper"], signal.SIGKILL)
    until(lambda: any(each.state == "degraded" for each in host.processes("orders")))
    assert _accepts(public)
    second.terminate()
    assert second.wait(PATIENCE) == 0
    assert not public.exists(), "without a keeper, too"


def _accepts(path: Path) -> bool:
    try:
        return _connects(url(path))
    except OSError:
        return False


def test_a_start_that_fails_leaves_no_socket(host: Host) -> None:
    folder = host.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    public = host.folder / "public.sock"
    options = ("--port", f"unix:{public}", "--outbound-port", f"unix:{folder}/out.sock")
    done = host.run("run", "--name", "orders", *options, "--", "sleep", "60")
    assert done.returncode == 1
    assert f"everybody may write in {folder}" in done.stderr
    assert f"chmod o-w {folder}" in done.stderr
    assert not public.exists()
    assert host.nothing_left()
