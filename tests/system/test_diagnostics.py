"""What a bug report has in it, and what it must not have, while the service runs and when it has gone step by step."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.system.host import Host, free_port, until

SECRETS = {
    "variable": "plain-value-of-a-variable",
    "token": "T0ken-of-a-variable",
    "setting": "value-of-a-header",
    "live": "live-value-of-a-header",
    "metadata": "value-in-metadata",
    "url": "p4ss/w0rd",
    "printed": "printed-behind-a-name",
    "bearer": "printed-behind-bearer",
    "argument": "argument-of-the-app",
}
APP = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("variable is", os.environ["MY_SETTING"], "and", os.environ["DB_TOKEN"], flush=True)
print("header value-of-a-header, live-value-of-a-header, value-in-metadata", flush=True)
print("dial postgres://admin:p4ss/w0rd@db:5432/x", flush=True)
print("password: printed-behind-a-name", file=sys.stderr, flush=True)
print("Authorization: Bearer printed-behind-bearer", flush=True)
print("started with", sys.argv, flush=True)
print("-----BEGIN PRIVATE KEY-----\\nMIIsecretLINE\\n-----END PRIVATE KEY-----", flush=True)
while True:
    listener.accept()[0].close()
"""
PROFILE = """
extends = "staging"
[services]
stock = [{ address = "127.0.0.1:9", metadata = { note = "value-in-metadata" } }]
[[sidecars.traffic.routes]]
name = "stock"
hosts = ["stock"]
to = { stock = 100 }
request = { set = { x-tenant = "value-of-a-header" } }
"""
ALWAYS = {"settings.json", "history.json", "files.json", "versions.json", "machine.json", "missing.txt"}


@pytest.fixture
def orders(host: Host) -> subprocess.Popen[str]:
    (host.folder / "secretive.py").write_text(APP)
    (host.folder / "own.toml").write_text(PROFILE)
    host.environment |= {"MY_SETTING": SECRETS["variable"], "DB_TOKEN": SECRETS["token"]}
    port = free_port()
    command = (sys.executable, str(host.folder / "secretive.py"), str(port), f"--password={SECRETS['argument']}")
    process = host.serve(
        "orders",
        port,
        "-p",
        "./own.toml",
        "--port",
        "0",
        "--outbound-port",
        "auto",
        "--set",
        "orphan_grace=60s",
        command=command,
    )
    route = (
        '[{ name = "stock", hosts = ["stock"], to = { stock = 100 },'
        f' request = {{ set = {{ x-tenant = "{SECRETS["live"]}" }} }} }}]'
    )
    done = host.run("profile", "set", f"traffic.routes={route}")
    assert done.returncode == 0, done.stderr
    return process


def packed(host: Host, file: str) -> dict[str, str]:
    """The members of a dump, after each was looked through for secrets, as was all that the command said."""
    done = host.run("diagnostics", "dump", "--name", "orders", file)
    assert done.returncode == 0, done.stderr
    path = host.folder / file
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        members = {
            Path(member.name).name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    for name, text in {**members, "what was said": done.stdout + done.stderr}.items():
        found = [kind for kind, secret in SECRETS.items() if secret in text]
        assert (name, found, "MIIsecret" in text) == (name, [], False)
    return members


def test_a_dump_has_what_helps_and_no_secret_while_less_and_less_is_left(
    host: Host, orders: subprocess.Popen[str]
) -> None:
    until(lambda: "END PRIVATE KEY" in host.run("logs", "--name", "orders").stdout)
    printed = host.run("logs", "--name", "orders").stdout
    assert [kind for kind, secret in SECRETS.items() if secret not in printed] == [], (
        "else there is nothing to leave out"
    )
    whole = packed(host, "1.tar.gz")
    assert whole.keys() == ALWAYS | {"environment.json", "processes.json", "bus.json", "tables.json", "log.txt"}
    assert whole["missing.txt"] == "nothing\n"
    processes: list[dict[str, Any]] = json.loads(whole["processes.json"])["processes"]
    assert {process["kind"] for process in processes} == {"keeper", "supervisor", "sidecar", "proxy", "app"}
    assert {peer["role"] for peer in json.loads(whole["bus.json"])["peers"]} > {"traffic", "discovery"}
    tables = {table["kind"]: table for table in json.loads(whole["tables.json"])["tables"]}
    assert tables["routes"]["intact"] and tables["routes"]["writer_pid"] == host.pids("orders")["traffic"]
    assert json.loads(whole["settings.json"])["below"]["services"]["stock"][0]["address"] == "127.0.0.1:9"
    assert [each["state"] for each in json.loads(whole["history.json"])["revisions"]] == ["replaced", "in force"]
    assert "MY_SETTING" in whole["environment.json"], "names of variables say what a service was told"
    assert "app stdout | dial postgres://[redacted]@db:5432/x" in whole["log.txt"]

    orders.kill()
    until(lambda: host.orphaned("orders"))
    rest = packed(host, "2.tar.gz")
    assert rest.keys() == ALWAYS | {"environment.json", "tables.json"}
    assert "bus.json: the supervisor of orders does not answer" in rest["missing.txt"]
    kinds = {table["kind"]: table["generation"] for table in json.loads(rest["tables.json"])["tables"]}
    assert kinds == {kind: table["generation"] for kind, table in tables.items()}

    assert host.run("down", "--name", "orders").returncode == 0
    assert packed(host, "3.tar.gz").keys() == ALWAYS


def test_a_dump_overwrites_nothing_and_knows_whom_it_is_about(host: Host) -> None:
    (host.folder / "there").write_text("mine")
    assert host.run("diagnostics", "dump", "--name", "nobody", "there").returncode == 3
    assert (host.folder / "there").read_text() == "mine"
