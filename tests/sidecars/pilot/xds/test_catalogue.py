"""What clients are told of a registry and its policies, and what is made anew for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.xds import catalogue
from pannier.sidecars.pilot.xds.ads import Refused
from pannier.sidecars.pilot.xds.catalogue import Catalogue, Offering, Shape
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.node import node_of
from pannier.sidecars.pilot.xds.resources import Resource, Response, Type, version_of
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.traffic.config import Config, Service

CDS, EDS, LDS, RDS = Type.CLUSTER, Type.ENDPOINTS, Type.LISTENER, Type.ROUTES
VERSIONED = Service(subsets={"v2": {"version": "2"}}, split={"v2": 1})


class Town:
    """Instances and policies, written down."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Instance]] = {}
        self.stages: dict[str, Policy] = {}
        self.catalogue = Catalogue(self, self)

    def endpoints(self, service: str) -> Sequence[Instance]:
        return list(self.there.get(service, {}).values())

    def policy(self, stage: str) -> Policy:
        return self.stages.get(stage, Policy())

    def put(self, service: str, name: str, **metadata: str) -> bool:
        there = self.there.setdefault(service, {})
        there[name] = Instance(service, name, f"10.0.0.{len(there) + 1}:80", State.UP, 1, 1, metadata)
        return self.catalogue.changed(service)

    def drop(self, service: str) -> bool:
        del self.there[service]
        return self.catalogue.changed(service)


@pytest.fixture
def town() -> Town:
    town = Town()
    town.put("orders", "a", version="1")
    town.put("orders", "b", version="2")
    town.put("stock", "a")
    return town


def message(kind: Type, resource: Resource | None) -> Any:
    """As a client reads it."""
    assert resource is not None
    wire = Response(kind, "1", "v", [resource]).as_state_of_the_world()
    (packed,) = MESSAGES.parse("envoy.service.discovery.v3.DiscoveryResponse", wire).resources
    assert packed.type_url == kind.url
    return MESSAGES.parse(kind.value, packed.value)


def hosts(offering: Offering, name: str = "outbound") -> Sequence[str]:
    return [one.name for one in message(RDS, offering.get(RDS, name)).virtual_hosts]


def test_an_envoy_has_one_listener_and_a_host_for_each_service(town: Town) -> None:
    offering = town.catalogue.offering(Shape(port=15009))
    listener = message(LDS, offering.get(LDS, "outbound"))
    assert listener.address.socket_address.port_value == 15009
    assert list(offering.names(LDS)) == ["outbound"]
    assert hosts(offering) == ["orders", "stock"]
    (orders, _) = message(RDS, offering.get(RDS, "outbound")).virtual_hosts
    assert list(orders.domains) == ["orders", "orders:*"]
    assert set(offering.names(CDS)) == {"orders", "stock"}
    assert (
        message(CDS, offering.get(CDS, "orders")).eds_cluster_config.eds_config.WhichOneof("config_source_specifier")
        == "ads"
    )


def test_an_envoy_may_want_some_services(town: Town) -> None:
    offering = town.catalogue.offering(Shape(services=frozenset({"stock", "later"})))
    assert (hosts(offering), set(offering.names(CDS))) == (["stock"], {"stock"})
    town.put("later", "a")
    assert (hosts(offering), set(offering.names(CDS))) == (["later", "stock"], {"later", "stock"})


@pytest.mark.parametrize(
    ("name", "is_there"), [("orders", True), ("orders:80", True), ("orders:http", False), ("no", False)]
)
def test_grpc_asks_for_a_listener_by_the_name_of_its_target(town: Town, name: str, is_there: bool) -> None:
    offering = town.catalogue.offering(Shape(Client.GRPC))
    found = offering.get(LDS, name)
    assert (found is not None) == is_there
    if found is not None:
        assert message(LDS, found).HasField("api_listener")
        assert hosts(offering, "orders") == ["orders"]


def test_a_subset_is_a_cluster_with_the_instances_of_its_metadata(town: Town) -> None:
    town.stages["staging"] = Policy(traffic=Config(services={"orders": VERSIONED}))
    town.catalogue.policy_changed("staging")
    offering = town.catalogue.offering(Shape(stage="staging"))
    assert set(offering.names(CDS)) == {"orders", "orders/v2", "stock"}
    ((zone,),) = (message(EDS, offering.get(EDS, "orders/v2")).endpoints,)
    assert [one.endpoint.address.socket_address.address for one in zone.lb_endpoints] == ["10.0.0.2"]
    assert town.catalogue.offering(Shape()).get(CDS, "orders/v2") is None


@pytest.mark.parametrize(
    ("said", "is_http2"), [(["h2", "grpc"], True), (["h2", ""], False), (["http1"], False), ([""], False)]
)
def test_a_service_takes_http2_if_all_of_it_does(town: Town, said: Sequence[str], is_http2: bool) -> None:
    for number, protocol in enumerate(said):
        town.put("quotes", str(number), protocol=protocol)
    options = message(CDS, town.catalogue.offering(Shape()).get(CDS, "quotes")).typed_extension_protocol_options
    assert bool(options) is is_http2


def test_what_has_changed_is_said_and_nothing_else_is_made_anew(town: Town) -> None:
    one, other = town.catalogue.offering(Shape()), town.catalogue.offering(Shape(port=1))
    before = {
        (kind, name): one.get(kind, name)
        for kind, name in ((CDS, "orders"), (EDS, "orders"), (EDS, "stock"), (RDS, "outbound"))
    }
    assert other.get(EDS, "stock") is before[EDS, "stock"], "it is shared"
    assert not town.put("orders", "c"), "its endpoints alone"
    after = {key: one.get(*key) for key in before}
    assert {key for key in before if after[key] is not before[key]} == {(EDS, "orders")}
    assert town.put("later", "a")
    assert one.get(CDS, "orders") is before[CDS, "orders"]
    assert hosts(one) == ["later", "orders", "stock"]
    assert town.drop("later")
    assert (one.get(CDS, "later"), one.get(EDS, "later"), hosts(one)) == (None, None, ["orders", "stock"])
    assert one.get(RDS, "outbound") == before[RDS, "outbound"], "the same content is the same version"


def test_names_that_clients_make_up_are_not_kept(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "NAMES", 10)
    offering = town.catalogue.offering(Shape(Client.GRPC))
    for number in range(100):
        assert offering.get(LDS, f"orders:{number}") is not None
        assert offering.get(LDS, f"none-{number}") is None
        assert offering.get(RDS, f"none-{number}") is None
    assert len(offering._own) <= 10
    assert offering.made == 100


def test_who_cannot_be_told_is_named_whatever_kind_of_client_asks_last(town: Town) -> None:
    town.there["stock"]["b"] = Instance("stock", "b", "unix:/run/b.sock", State.UP, 1, 1, {})
    town.catalogue.changed("stock")
    for client in (Client.GRPC, Client.ENVOY):
        town.catalogue.offering(Shape(client)).get(EDS, "stock")
        assert town.catalogue.left_out == {"stock": ["unix:/run/b.sock"]}
    del town.there["stock"]["b"]
    town.catalogue.changed("stock")
    assert town.catalogue.left_out == {}


def test_offerings_live_as_long_as_somebody_has_that_shape(town: Town) -> None:
    shape = Shape(services=frozenset({"stock"}))
    offering = town.catalogue.offering(shape)
    assert town.catalogue.offering(shape) is offering
    del offering
    assert shape not in town.catalogue._offerings


def test_both_forms_carry_the_same(town: Town) -> None:
    offering = town.catalogue.offering(Shape())
    resources = [found for name in ("orders", "stock") if (found := offering.get(EDS, name)) is not None]
    response = Response(EDS, "9", version_of(resources), resources, ["gone"])
    delta = MESSAGES.parse("envoy.service.discovery.v3.DeltaDiscoveryResponse", response.as_delta())
    whole = MESSAGES.parse("envoy.service.discovery.v3.DiscoveryResponse", response.as_state_of_the_world())
    assert (delta.nonce, delta.type_url, list(delta.removed_resources)) == ("9", EDS.url, ["gone"])
    assert (whole.nonce, whole.type_url, whole.version_info) == ("9", EDS.url, version_of(resources))
    assert [one.resource for one in delta.resources] == list(whole.resources)
    assert [(one.name, one.version) for one in delta.resources] == [(one.name, one.version) for one in resources]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"services": "orders"}, "services"),
        ({"services": ["Orders"]}, "services"),
        ({"outbound_port": 0}, "outbound_port"),
        ({"outbound_port": "http"}, "outbound_port"),
        ({"stage": "../production"}, "stage"),
        ({"anything": float("nan")}, "metadata"),
        ({"anything": [float("inf")]}, "metadata"),
    ],
)
def test_metadata_that_means_nothing_is_refused_by_name(metadata: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        node_of(MESSAGES["envoy.config.core.v3.Node"](id="a", metadata=metadata))


def test_what_a_node_says_of_itself() -> None:
    said = {"services": ["orders"], "stage": "staging", "outbound_port": 15005, "anything": {"else": True}}
    node = node_of(
        MESSAGES.from_json("envoy.config.core.v3.Node", {"id": "a", "user_agent_name": "gRPC C-core", "metadata": said})
    )
    assert node.shape == Shape(Client.GRPC, "staging", frozenset({"orders"}), 15005)
