"""The words of `--bridge`: what they mean, and what is wrong with those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from pannier.shared.errors import PannierError, Unreachable, UsageError
from pannier.sidecars.pilot.bridges import dns as bridges_dns
from pannier.sidecars.pilot.bridges.file import FileSource
from pannier.sidecars.pilot.bridges.opening import Bridge, Place, understood
from pannier.sidecars.pilot.bridges.source import Look
from pannier.sidecars.pilot.dns.answer import zone_name
from pannier.sidecars.pilot.service import InZooKeeper, Kept
from pannier.supervisor.cli.pilot import _store

from tests.sidecars.pilot.paper import World
from tests.system.host import PATIENCE


@pytest.mark.parametrize(
    ("url", "place", "name"),
    [
        (
            "zookeeper://10.0.0.2:2182,10.0.0.1/services/",
            Place("zookeeper", "/services", [("10.0.0.2", 2182), ("10.0.0.1", 2181)]),
            "zookeeper://10.0.0.1:2181,10.0.0.2:2182/services",
        ),
        ("zookeeper://[::1]:2181", Place("zookeeper", "/services", [("::1", 2181)]), "zookeeper://::1:2181/services"),
        ("file:/etc/pannier/static.toml", Place("file", "/etc/pannier/static.toml"), "file:/etc/pannier/static.toml"),
        (
            "dns://orders.example:8080?service=orders",
            Place("dns", "orders.example", service="orders", port=8080),
            "dns:orders=orders.example:8080",
        ),
        (
            "dns://_http._tcp.orders.example?service=orders&server=10.0.0.53&every=2s",
            Place("dns", "_http._tcp.orders.example", [("10.0.0.53", 53)], "orders", every=2.0),
            "dns:orders=_http._tcp.orders.example:SRV",
        ),
    ],
)
def test_a_bridge_is_understood_and_has_one_name_everywhere(url: str, place: Place, name: str) -> None:
    assert understood(url) == place
    bridge = Bridge(place)
    assert bridge.name == name
    assert not bridge.statistics().reachable, "it does not run yet"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "no such kind"),
        ("consul://x", "no such kind"),
        ("file:relative", "no such kind"),
        ("file://host/path", "no such kind"),
        ("zookeeper:///services", "is no host"),
        ("zookeeper://:x/services", "is no host"),
        ("zookeeper://a:99999/services", "ort"),
        ("zookeeper://a/services?ways=out", "an option that it does not have"),
        ("dns://orders.example", "it lacks 'service'"),
        ("dns://orders.example?service=Not+A+Name", "no service name"),
        ("dns://orders..example?service=orders", "empty"),
        ("dns://orders.example?service=orders&every=often", "often"),
        ("dns://orders.example?service=orders&server=localhost", "localhost"),
        ("dns://orders.example?service=orders&port=1", "an option that it does not have"),
    ],
)
def test_what_means_nothing_is_said_with_what_would(url: str, complaint: str) -> None:
    with pytest.raises(PannierError, match=complaint) as caught:
        understood(url)
    assert repr(url) in caught.value.message and "zookeeper://" in caught.value.hint


async def test_a_bridge_with_an_error_of_ours_is_unreachable_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "static.toml").write_text('[services]\norders = [{address = "10.0.0.1:80"}]\n')
    bridge, look, told = Bridge(understood(f"file:{tmp_path}/static.toml")), FileSource.look, trio.Event()
    shown: list[bool] = []

    async def fails(source: FileSource) -> Look:
        if len(shown) < 3:
            shown.append(bridge.statistics().reachable)
            raise RuntimeError("an error of ours")
        told.set()
        return await look(source)

    monkeypatch.setattr(FileSource, "look", fails)
    (pilot,) = World("one").pilots
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run, pilot.registry)
        with trio.fail_after(PATIENCE):
            await told.wait()
            while not bridge.statistics().reachable:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert shown == [False] * 3 and pilot.ids() == ["10.0.0.1-80"]
    assert caplog.text.count("RuntimeError: an error of ours") == 3


async def test_a_machine_without_a_resolver_is_one_whose_dns_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridges_dns, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    source = bridges_dns.DnsSource("orders.example", "orders", name="dns:orders", port=80)
    for _ in range(2):
        with pytest.raises(Unreachable, match="does not say"):
            await source.look()


def test_a_zone_that_is_no_name_is_refused() -> None:
    with pytest.raises(PannierError, match="is no DNS name"):
        zone_name("a..b")


@pytest.mark.parametrize(
    ("text", "store"),
    [
        ("zookeeper://10.0.0.1", InZooKeeper([("10.0.0.1", 2181)], "/pannier")),
        ("zookeeper://10.0.0.1:2182,[::1]/mesh/", InZooKeeper([("10.0.0.1", 2182), ("::1", 2181)], "/mesh")),
        ("etcd://10.0.0.1,10.0.0.2:2380", [("10.0.0.1", 2379), ("10.0.0.2", 2380)]),
        ("/var/lib/pannier.sqlite", Path("/var/lib/pannier.sqlite")),
    ],
)
def test_a_store_has_the_same_words_as_a_bridge(text: str, store: Kept) -> None:
    assert _store(text) == store


@pytest.mark.parametrize("text", ["zookeeper://", "zookeeper://a:b", "zookeeper://u@a", "etcd://a,", "etcd://a/b"])
def test_a_store_that_means_nothing_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="is no store"):
        _store(text)
