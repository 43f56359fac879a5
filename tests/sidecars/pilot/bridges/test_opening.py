"""The words of `--bridge`: what they mean, and what is wrong with those that mean nothing."""

from __future__ import annotations

import pytest
from pannier.shared.errors import PannierError
from pannier.sidecars.pilot.bridges.opening import Bridge, Place, understood
from pannier.sidecars.pilot.dns.answer import zone_name


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
        ("dns://orders.example?service=orders&port=1", "an option that it does not have"),
    ],
)
def test_what_means_nothing_is_said_with_what_would(url: str, complaint: str) -> None:
    with pytest.raises(PannierError, match=complaint) as caught:
        understood(url)
    assert repr(url) in caught.value.message and "zookeeper://" in caught.value.hint


def test_a_zone_that_is_no_name_is_refused() -> None:
    with pytest.raises(PannierError, match="is no DNS name"):
        zone_name("a..b")
