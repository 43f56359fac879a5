"""A Central, and a service that begins to lean on one while it runs: what is published, steered and refused."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from pannier.shared.central import CentralForce, CentralStatus
from pannier.shared.messages import Nothing

from tests.system.host import Host, free_port, until
from tests.system.load import Load
from tests.system.origin import Origin

TLS = 'central.tls={ certificate = "/nowhere/c.pem", key = "/nowhere/k.pem", authority = "/nowhere/a.pem" }'


def status(host: Host, name: str) -> CentralStatus:
    return host.ask(name, "central.status", Nothing(), CentralStatus)


def test_a_service_begins_to_lean_on_a_central_under_load_and_its_supervisor_is_replaced(
    host: Host, origin: Origin
) -> None:
    central = host.start("central", "--listen", f"127.0.0.1:{free_port()}", "--capacity", "700")
    origin.serve("orders", "-p", "dev")
    until(lambda: central.poll() is not None or host.ready("central"))
    gateway = urlsplit(host.urls("central")["gateway"]).netloc
    assert status(host, "central").gateway == gateway
    with Load(host.urls("orders")["inbound"], "orders") as asked:
        settings = ('outbound.unknown="deny"', f'central.addresses=["{gateway}"]')
        done = host.run("profile", "set", "-n", "orders", *settings)
        assert done.returncode == 0, done.stderr
        assert "~ replace proxy: it listens for passthrough, too" in done.stderr
        place = urlsplit(host.urls("orders")["passthrough"]).netloc
        found = status(host, "orders")
        assert (found.addresses, found.passthrough, found.forced) == ([gateway], place, None)
        address, _, port = place.rpartition(":")
        socket.create_connection((address, int(port)), timeout=10).close()

        host.ask("orders", "central.force", CentralForce(40.0), CentralStatus)
        assert host.run("upgrade", "-n", "orders", "--only", "supervisor").returncode == 0
        assert status(host, "orders").forced == 40.0
        host.ask("orders", "central.force", CentralForce(None), CentralStatus)
        assert status(host, "orders").forced is None

        for setting, reason in (("central.leave.share=0.95", "PAN0501"), (TLS, "cannot read /nowhere/c.pem")):
            refused = host.run("profile", "set", "-n", "orders", setting)
            assert refused.returncode == 65
            assert reason in refused.stderr
        assert host.run("profile", "reset", "-n", "orders", "central").returncode == 0
        assert not status(host, "orders").configured
    asked.assert_all_answered()


def test_a_central_that_cannot_be_is_refused_before_it_starts(host: Host) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        for words, code, reason in (
            (("--set", TLS), 65, "central.tls.certificate: cannot read /nowhere/c.pem: No such file or directory"),
            (("--set", 'outbound.unknown="passthrough"'), 65, "PAN0502"),
            (("--listen", "127.0.0.1"), 2, "'127.0.0.1' is no address"),
            (("--listen", f"127.0.0.1:{port}"), 1, f"port {port} (gateway) is taken"),
        ):
            done = host.run("central", *words)
            assert (done.returncode, reason in done.stderr) == (code, True), done.stderr
    assert not Path(host.runtime / "central").exists()
