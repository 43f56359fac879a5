"""Where a request comes from: what a stranger says of himself is left out, what trusted hops say is kept."""

from __future__ import annotations

import pytest

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy

CLAIMS = (
    "Forwarded: for=6.6.6.6;proto=https",
    "X-Forwarded-For: 6.6.6.6",
    "x-forwarded-proto: https",
    "X-Forwarded-Host: bank.example",
    "X-Forwarded-Client-Cert: By=spiffe://a/admin",
    "X-Real-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
    "X-Envoy-External-Address: 6.6.6.6",
    "l5d-client-id: admin",
    "X-Remote-User: admin",
)
DISGUISES = ("X_Forwarded_For: 6.6.6.6", "X-FORWARDED_FOR: 6.6.6.6", "x_real_ip: 6.6.6.6", "remote_user: admin")


@pytest.mark.parametrize("claim", [*CLAIMS, *DISGUISES])
def test_what_a_stranger_claims_is_left_out(proxy: Proxy, origin: Origin, claim: str) -> None:
    assert proxy.fetch("/", claim, "X-Kept: yes").status == 200
    sent = origin.only
    assert "6.6.6.6" not in str(sent) and "admin" not in str(sent) and "bank" not in str(sent)
    assert sent.all("x-forwarded-for") == ["127.0.0.1"]
    assert sent.all("forwarded") == ["for=127.0.0.1;proto=http"]
    assert (sent.all("x-forwarded-proto"), sent.get("x-kept")) == (["http"], "yes")


def test_a_claim_cannot_be_protected_by_naming_it_in_connection(proxy: Proxy, origin: Origin) -> None:
    """A known attack: `Connection: X-Forwarded-For` has the next hop remove what the proxy vouches for."""
    proxy.fetch("/", "Connection: x-forwarded-for, forwarded", "X-Forwarded-For: 6.6.6.6")
    assert origin.only.all("x-forwarded-for") == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("hops", "kept"), [(1, "10.0.0.1, 127.0.0.1"), (2, "1.2.3.4, 10.0.0.1, 127.0.0.1")], ids=["one hop", "two hops"]
)
def test_as_many_addresses_as_there_are_trusted_hops_are_believed(
    start_proxy: StartProxy, origin: Origin, hops: int, kept: str
) -> None:
    proxy = start_proxy(inbound={"hosts": [], "trusted_hops": hops})
    proxy.publish_telemetry()
    proxy.fetch("/", "X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https")
    sent = origin.only
    assert sent.all("x-forwarded-for") == [kept]
    assert sent.all("forwarded") == [", ".join(f"for={address}" for address in kept.split(", "))]
    assert sent.all("x-forwarded-proto") == ["https"], "the hop in front is responsible for it"
    [line], _ = proxy.drain(1)
    assert line["client"] == kept.split(", ", maxsplit=1)[0]


@pytest.mark.parametrize("disguise", DISGUISES[:3])
def test_a_disguise_is_left_out_behind_a_trusted_hop_too(
    start_proxy: StartProxy, origin: Origin, disguise: str
) -> None:
    proxy = start_proxy(inbound={"hosts": [], "trusted_hops": 1})
    proxy.fetch("/", "X-Forwarded-For: 1.2.3.4", disguise)
    assert "6.6.6.6" not in str(origin.only)


def test_the_apps_own_calls_say_what_they_like(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(clusters=[{"name": "orders", "endpoints": [{"address": origin.address}]}])
    proxy.publish_telemetry()
    got = proxy.fetch("/", "X-Forwarded-For: 1.2.3.4", host="orders", outbound=True)
    assert got.status == 200
    assert origin.only.all("x-forwarded-for") == ["1.2.3.4"]
    assert origin.only.all("forwarded") == []
    [line], _ = proxy.drain(1)
    assert "client" not in line


def test_the_log_says_who_called(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry()
    proxy.fetch("/")
    [line], _ = proxy.drain(1)
    assert line["client"] == "127.0.0.1"
