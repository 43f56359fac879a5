"""`pannier pilot` with what is optional: a store in a ZooKeeper, answers over DNS, a bridge; and to nonsense."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest
from kazoo.client import KazooClient

from tests.sidecars.pilot.real_zookeeper import running_zookeeper
from tests.system.host import PATIENCE, Host, free_port, until
from tests.system.test_pilot import HERE, A, ask, over_unix, start


def test_a_pilot_whose_store_is_a_zookeeper_answers_dns_and_bridges_a_file(
    host: Host, require_zookeeper: str, tmp_path: Path
) -> None:
    with running_zookeeper(require_zookeeper, tmp_path) as zookeeper:
        follow(host, zookeeper.port, tmp_path / "static.toml")


def follow(host: Host, store: int, static: Path) -> None:
    static.write_text('[[services.stock]]\naddress = "10.9.0.1:80"\n')
    words = ["--store", f"zookeeper://127.0.0.1:{store}/of/pilots", "--bridge", f"file:{static}"]
    pilot, said = start(host, *words, "--dns", "127.0.0.1:0", "--dns-zone", "mesh.example")
    assert "ZooKeeper at 127.0.0.1" in said
    port = int(re.findall(r"dns://127\.0\.0\.1:(\d+)", said)[0])
    assert ask(over_unix(host), "PUT", A, HERE)[0] == 201

    def addresses(service: str) -> list[str]:
        question = dns.message.make_query(f"{service}.mesh.example", "A")
        answer = dns.query.udp(question, "127.0.0.1", timeout=PATIENCE, port=port)
        return [record.address for found in answer.answer for record in found]

    until(lambda: addresses("orders") == ["10.0.0.1"] and addresses("stock") == ["10.9.0.1"])
    parts = ask(over_unix(host), "GET", "/v1/status")[1]["parts"]
    assert parts[f"bridge file:{static}"]["instances"] == 1
    assert parts[f"dns 127.0.0.1:{port}"]["answered"] >= 2
    pilot.terminate()
    assert pilot.wait(PATIENCE) == 0


def test_a_pilot_that_is_started_again_takes_none_of_its_instances_out_of_a_zookeeper(
    host: Host, require_zookeeper: str, tmp_path: Path
) -> None:
    with running_zookeeper(require_zookeeper, tmp_path) as server, closing_client(server.port) as client:
        words = ["--bridge", f"zookeeper://127.0.0.1:{server.port}/services"]
        pilot, _ = start(host, *words)
        assert ask(over_unix(host), "PUT", A, HERE | {"ttl": 600})[0] == 201
        until(lambda: client.exists("/services/orders/a") is not None)
        owner = client.exists("/services/orders/a").ephemeralOwner
        gone: list[object] = []
        client.get_children("/services/orders", watch=gone.append)
        pilot.terminate()
        assert pilot.wait(PATIENCE) == 0
        assert client.exists("/services/orders/a") is not None and gone == []
        start(host, *words)
        until(lambda: client.exists("/services/orders/a").ephemeralOwner not in {0, owner})


@contextmanager
def closing_client(port: int) -> Iterator[KazooClient]:
    client = KazooClient(f"127.0.0.1:{port}")
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bridge", "consul://x"], "'consul://x' is no bridge"),
        (["--dns", "192.0.2.1:5353"], "cannot answer DNS on 192.0.2.1:5353"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_starts(host: Host, words: list[str], complaint: str) -> None:
    done = host.run("pilot", *words)
    assert done.returncode not in {0, 75} and complaint in done.stderr
    assert "Traceback" not in done.stderr and "is ready" not in done.stderr


def test_a_store_that_is_not_there_is_said_and_nobody_is_kept_waiting_meanwhile(host: Host) -> None:
    store, listen, dns_port = free_port(), free_port(), free_port()
    words = [
        "--store",
        f"etcd://127.0.0.1:{store}",
        "--listen",
        f"127.0.0.1:{listen}",
        "--dns",
        f"127.0.0.1:{dns_port}",
    ]
    pilot = host.start("pilot", *words)
    assert pilot.stderr is not None
    said = ""
    while "waits for" not in said:
        line = pilot.stderr.readline()
        assert line, f"it ended: {said}"
        said += line
    assert f"etcd at 127.0.0.1:{store}" in said and "no etcd answers" in said
    for port in (listen, dns_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    pilot.terminate()
    assert pilot.wait(PATIENCE) == 0
    with socket.create_server(("127.0.0.1", listen)):
        refused = host.run("pilot", *words)
    assert f"cannot listen on 127.0.0.1:{listen}" in refused.stderr and "waits for" not in refused.stderr
