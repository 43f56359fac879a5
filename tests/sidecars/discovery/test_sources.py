"""What is said of the places where endpoints come from."""

from pathlib import Path

from pannier.shared.endpoints import Endpoint, Source
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.sidecars.discovery.config import Config, Pilot
from pannier.sidecars.discovery.sources import sources

SOCKET = Path("/run/pannier/orders/api.sock")


def found(*kinds: str) -> list[Endpoint]:
    return [Endpoint("stock", str(number), f"h:{number}", "UP", kind) for number, kind in enumerate(kinds, 1)]


def test_a_service_on_its_own_has_its_socket_the_hosts_registry_and_its_profile() -> None:
    config = Config(services={"stock": (StaticEndpoint("h:9"), StaticEndpoint("h:8"))})
    told = sources(config, SOCKET, found("file", "lease", "registry", "lease"), written=0, trouble=lambda _: "")
    assert told.sources == [
        Source("lease", str(SOCKET), 2),
        Source("registry", "/run/pannier/registry", 1),
        Source("profile", "services of the profile", 2),
    ]


def test_a_file_and_a_pilot_are_named_with_what_is_wrong_with_them() -> None:
    config = Config(file="/etc/stock.toml", pilot=Pilot(["10.0.0.1:18800", "10.0.0.2:18800"]))
    said = {"file": "line 3", "pilot": "no pilot answers", "pilot.file": "no space"}
    told = sources(config, SOCKET, found("pilot", "pilot"), written=4, trouble=lambda subject: said.get(subject, ""))
    assert told.sources[2] == Source("pilot", "10.0.0.1:18800, 10.0.0.2:18800", 2, "no pilot answers; no space")
    assert told.sources[-1] == Source("file", "/etc/stock.toml", 4, "line 3")
