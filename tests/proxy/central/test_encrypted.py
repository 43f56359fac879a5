"""Encrypted connections between hosts and Centrals: whoever has no certificate of the right name gets nothing."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.proxy.central.conftest import Meshed, StartMeshed
from tests.proxy.central.peers import (
    INBOUND,
    OUTBOUND,
    PASS_THROUGH,
    Central,
    Link,
    Preface,
    dial,
    is_accepted,
)
from tests.proxy.origin import Origin, pattern
from tests.proxy.process import wait_until
from tests.proxy.wire import Ended, Wire, answer, request

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SHOP = Preface()


@dataclass(frozen=True)
class Authority:
    """An authority and what it signs, as PEM files in one folder."""

    openssl: str
    folder: Path

    def sign(self, name: str) -> dict[str, str]:
        """A certificate for that DNS name: the paths of table `central`, key `tls`."""
        at = {kind: str(self.folder / f"{name}.{kind}") for kind in ("pem", "key")}
        if not Path(at["pem"]).exists():
            self._run(
                *("req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", at["key"], "-out", at["pem"]),
                *("-CA", self.authority, "-CAkey", str(self.folder / "ca.key")),
                *("-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"),
            )
        return {"certificate": at["pem"], "key": at["key"], "authority": self.authority}

    @property
    def authority(self) -> str:
        """Its own certificate."""
        return str(self.folder / "ca.pem")

    def create(self) -> Authority:
        """Makes its certificate."""
        self.folder.mkdir()
        key, certificate = str(self.folder / "ca.key"), self.authority
        self._run("req", "-x509", *KEY, "-days", "2", "-subj", "/CN=authority", "-keyout", key, "-out", certificate)
        return self

    def client(self, name: str | None, *, trusts: Authority | None = None) -> ssl.SSLContext:
        """Whoever calls, with a certificate of that name or with none."""
        context = ssl.create_default_context(cafile=(trusts or self).authority)
        context.check_hostname = False
        if name is not None:
            files = self.sign(name)
            context.load_cert_chain(files["certificate"], files["key"])
        return context

    def server(self, name: str) -> ssl.SSLContext:
        """Whoever is called, and wants to see a certificate."""
        files = self.sign(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files["certificate"], files["key"])
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _run(self, *arguments: str) -> None:
        subprocess.run([self.openssl, *arguments], check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path, require_peer: Callable[[str], str]) -> Authority:
    """The authority of all."""
    return Authority(require_peer("openssl"), tmp_path / "ours").create()


@pytest.fixture
def other_authority(tmp_path: Path, require_peer: Callable[[str], str]) -> Authority:
    """One whom nobody trusts."""
    return Authority(require_peer("openssl"), tmp_path / "others").create()


# --- a gateway ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(start_gateway: StartMeshed, authority: Authority, origin: Origin) -> Meshed:
    """A Central with a certificate, which knows the service `up`."""
    proxy = start_gateway(base={"service": "central"}, tls=authority.sign("central"))
    proxy.publish_endpoints(up=[{"address": origin.address}])
    return proxy


def link(gateway: Meshed, tls: ssl.SSLContext) -> Link:
    """A link on which something was granted."""
    linked = Link(gateway.door, SHOP, tls=tls)
    linked.hello()
    linked.policy()
    assert linked.ask()["knows_policy"]
    return linked


def test_a_host_with_its_own_certificate_is_served(gateway: Meshed, authority: Authority, origin: Origin) -> None:
    body = pattern(1 << 20)
    origin.answer = lambda message: answer(message.body[::-1])
    tls = authority.client("shop")
    with link(gateway, tls), dial(gateway.door, SHOP.encode(), tls=tls) as wire:
        assert is_accepted(wire)
        for _ in range(2):
            wire.send(request(host="up", method="POST", body=body))
            assert wire.read_answer().body == body[::-1]


def test_a_certificate_of_another_name_speaks_for_nobody_else(gateway: Meshed, authority: Authority) -> None:
    with link(gateway, authority.client("shop")):
        stock = authority.client("stock")
        with pytest.raises((Ended, OSError)):
            Link(gateway.door, SHOP, tls=stock)
        with dial(gateway.door, SHOP.encode(), tls=stock) as wire:
            assert not is_accepted(wire)


def test_calls_of_an_instance_may_be_anybodys_of_the_authority(
    gateway: Meshed, authority: Authority, origin: Origin
) -> None:
    with link(gateway, authority.client("shop")) as linked:
        linked.ask(inbound=True)
        begin = replace(SHOP, role=INBOUND).encode()
        with dial(gateway.door, begin, tls=authority.client("stock")) as wire:
            assert is_accepted(wire)


def test_who_has_no_certificate_or_one_of_another_authority_is_not_let_in(
    gateway: Meshed, authority: Authority, other_authority: Authority
) -> None:
    """By TLS 1.3 a client learns that only when it reads."""
    with link(gateway, authority.client("shop")):
        for tls in (authority.client(None), other_authority.client("shop", trusts=authority)):
            with dial(gateway.door, SHOP.encode(), tls=tls) as wire:
                assert not is_accepted(wire)


def test_a_certificate_does_not_make_up_for_hops(gateway: Meshed, authority: Authority) -> None:
    tls = authority.client("shop")
    with link(gateway, tls), dial(gateway.door, replace(SHOP, hops=1).encode(), tls=tls) as wire:
        assert wire.read_answer().status == 508


# --- a host ---------------------------------------------------------------------------------------------------------


def test_a_host_gives_its_calls_to_who_has_the_centrals_name(
    start_host: StartMeshed, start_central: Callable[..., Central], authority: Authority
) -> None:
    central = start_central(tls=authority.server("central"))
    central.answer = lambda message: answer(message.body[::-1], "X-By: central")
    host = start_host(addresses=[central.address], tls=authority.sign("shop"))
    host.wait_state(lambda state: state.granted_rps > 0)
    host.force(100.0)
    body = pattern(1 << 20)
    with host.call(outbound=True) as wire:
        for _ in range(2):
            wire.send(request(host="up", method="POST", body=body))
            assert wire.read_answer().body == body[::-1]
    assert {preface.role for preface in central.prefaces} == {OUTBOUND}


def test_a_host_gives_nothing_to_who_has_another_name(
    start_host: StartMeshed, start_central: Callable[..., Central], authority: Authority
) -> None:
    central = start_central(tls=authority.server("stock"))
    host = start_host(addresses=[central.address], tls=authority.sign("shop"))
    host.publish_central(forced={"weight": 100.0, "id": 1})
    state = host.wait_state(lambda state: bool(state.centrals and state.centrals[0].trouble))
    assert (state.weight, state.centrals[0].up, state.reason) == (0.0, False, "central-down")
    assert "no encrypted connection" in state.centrals[0].trouble
    assert host.fetch(host="up", outbound=True).status == 200
    assert central.said.hellos == []


def test_an_answer_that_is_cut_before_its_end_is_said_is_no_clean_end(
    start_host: StartMeshed, start_central: Callable[..., Central], authority: Authority
) -> None:
    """TCP's own end may be anybody's; TLS has one of its own."""

    def converse(_: Origin, wire: Wire) -> None:
        wire.read_request()
        wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")

    central = start_central(tls=authority.server("central"))
    central.serve = converse
    host = start_host(addresses=[central.address], tls=authority.sign("shop"))
    host.wait_state(lambda state: state.granted_rps > 0)
    host.force(100.0)
    with host.call(outbound=True) as wire:
        wire.send(request(host="up"))
        wire.read_head()
        assert wire.read(4) == b"half"
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()


OURS = Preface(PASS_THROUGH, hops=1)


@pytest.mark.parametrize(("name", "expected"), [("central", True), ("shop", False), (None, False)])
def test_only_the_centrals_name_passes_through_to_the_app(
    start_host: StartMeshed, authority: Authority, name: str | None, expected: bool
) -> None:
    """Wherever it is: the address says nothing then."""
    host = start_host(addresses=["127.0.0.3:9"], tls=authority.sign("shop"))
    tls = authority.client(name)
    with dial(host.door, OURS.encode(), tls=tls) as wire:
        assert is_accepted(wire) is expected
        if expected:
            wire.send(request())
            assert wire.read_answer().status == 200


def test_files_that_are_none_leave_the_table_before(
    start_host: StartMeshed, authority: Authority, tmp_path: Any
) -> None:
    host = start_host(tls=authority.sign("shop"))
    before = host.in_force()["central"]
    absent = authority.sign("shop") | {"key": str(tmp_path / "absent.key")}
    host.publish_unchecked("central", msgspec.msgpack.encode(host.central | {"tls": absent}))
    wait_until(lambda: host.rejected_tables() == 1)
    assert "absent.key" in host.stderr()
    assert host.in_force()["central"] == before
