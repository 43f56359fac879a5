from __future__ import annotations

from pathlib import Path

import pytest
from pannier.shared.errors import UsageError
from pannier.supervisor.live import write_live
from pannier.supervisor.plan import Said
from pannier.supervisor.planning import profile_of
from pannier.supervisor.request import Asked, app_address, default_name, option_words, request_for, runs_many


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PANNIER_STATE_DIR", str(tmp_path / "state"))
    found = tmp_path / "My Shop_2"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


def test_addresses_of_the_app(folder: Path) -> None:
    assert app_address("8080") == "127.0.0.1:8080"
    assert app_address("unix:/run/app.sock") == "unix:/run/app.sock"
    assert app_address("unix:app.sock") == f"unix:{folder}/app.sock"


@pytest.mark.parametrize("text", ["0", "65536", "http", "unix:", "-1", ""])
def test_what_is_no_address_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--app-port"):
        app_address(text)


def test_without_a_name_it_is_the_folders() -> None:
    assert default_name() == "my-shop-2"


def test_ports_auto_given_and_not_given() -> None:
    asked = Asked(command=("x",), outbound_port="auto", metrics_port="9000")
    arguments = request_for(asked, {}).arguments
    assert (arguments.port, arguments.outbound_port, arguments.metrics_port) == (None, 0, 9000)
    with pytest.raises(UsageError, match="--outbound-port"):
        request_for(Asked(command=("x",), outbound_port="many"), {})


def test_sockets_instead_of_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Asked(command=("x",), port="unix:/run/a.sock", outbound_port="unix:sub/../b.sock")
    arguments = request_for(asked, {}).arguments
    assert (arguments.port, arguments.outbound_port) == ("unix:/run/a.sock", f"unix:{tmp_path}/b.sock")
    assert request_for(Asked(command=("x",), port="18080"), {}).arguments.port == 18080


@pytest.mark.parametrize("text", ["unix:", "unix:/a b", "unix:/a\n", "unix:/\udcff", "auto", "65536", "-1", "http", ""])
def test_what_is_no_place_for_callers_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--port"):
        request_for(Asked(command=("x",), port=text), {})


def test_a_socket_has_a_path_of_107_bytes_at_most() -> None:
    longest = "/" + "x" * 106
    assert request_for(Asked(command=("x",), port=f"unix:{longest}"), {}).arguments.port == f"unix:{longest}"
    with pytest.raises(UsageError, match="takes 108 bytes"):
        request_for(Asked(command=("x",), port=f"unix:{longest}x"), {})
    with pytest.raises(UsageError, match="takes 108 bytes"):
        request_for(Asked(command=("x",), port=f"unix:{longest[:-1]}é"), {})


def test_sockets_of_a_project_are_seen_from_their_apps_folder(tmp_path: Path) -> None:
    (tmp_path / "pannier.toml").write_text(
        """
        [apps.orders]
        command = ["serve"]
        cwd = "sub"
        socket = "orders.sock"
        outbound_socket = "/run/out.sock"
        [apps.shop]
        command = ["shop"]
        """
    )
    file = str(tmp_path / "pannier.toml")
    orders = request_for(Asked(file=file, app="orders"), {}).arguments
    assert (orders.port, orders.outbound_port) == (f"unix:{tmp_path}/sub/orders.sock", "unix:/run/out.sock")
    assert request_for(Asked(file=file, app="orders", port=1), {}).arguments.port == 1
    shop = request_for(Asked(file=file, app="shop"), {})
    assert [each.address for each in shop.profile.services["orders"]] == [f"unix:{tmp_path}/sub/orders.sock"]


def test_durations_name_their_option() -> None:
    with pytest.raises(UsageError, match="--ready-timeout"):
        request_for(Asked(command=("x",), ready_timeout="soon"), {})
    assert request_for(Asked(command=("x",), duration="1500ms"), {}).seconds == 1.5


def test_nothing_to_run_says_how() -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        request_for(Asked(), {})


def project(folder: Path) -> None:
    (folder / "pannier.toml").write_text(
        """
        [apps.orders]
        command = ["serve"]
        app_port = 8080
        port = 18080
        cwd = "sub"
        [apps.orders.env]
        COLOUR = "blue"
        [apps.orders.outbound]
        unknown = "deny"
        [apps.stock]
        app_socket = "stock.sock"
        port = 18081
        """
    )


def test_an_app_of_a_project(folder: Path) -> None:
    project(folder)
    request = request_for(Asked(file="pannier.toml", app="orders"), {"PATH": "/bin"})
    arguments = request.arguments
    assert (arguments.name, arguments.command, arguments.app) == ("orders", ("serve",), "127.0.0.1:8080")
    assert (arguments.port, arguments.cwd) == (18080, str(folder / "sub"))
    assert request.environment == {"PATH": "/bin", "COLOUR": "blue"}
    assert request.profile.outbound.unknown == "deny"
    assert [endpoint.address for endpoint in request.profile.services["stock"]] == ["127.0.0.1:18081"]


def test_options_win_over_the_project(folder: Path) -> None:
    project(folder)
    asked = Asked(name="orders", app_port="9999", port=1, command=("other",))
    arguments = request_for(asked, {}).arguments
    assert (arguments.app, arguments.port, arguments.command) == ("127.0.0.1:9999", 1, ("other",))


@pytest.mark.parametrize(
    ("asked", "many"),
    [
        (Asked(), True),
        (Asked(file="pannier.toml"), True),
        (Asked(file="pannier.toml", app="orders"), False),
        (Asked(name="orders", port=1), False),
        (Asked(command=("x",)), False),
        (Asked(app_port="8080"), False),
    ],
)
def test_when_a_whole_project_is_meant(folder: Path, asked: Asked, many: bool) -> None:
    project(folder)
    assert runs_many(asked) is many


def test_options_of_one_app_are_not_dropped_for_all(folder: Path) -> None:
    project(folder)
    with pytest.raises(UsageError) as caught:
        runs_many(Asked(name="other", port=1, outbound_port="auto", metrics_port="9000"))
    assert caught.value.message.startswith("--name, --port, --outbound-port, --metrics-port: ")
    assert "orders, stock" in caught.value.message


def test_each_app_gets_the_options_of_all() -> None:
    asked = Asked(file="a.toml", profile="dev", duration="20s", assignments=("a=1", "b=2"), workers=2)
    assert list(option_words(asked, "orders")) == (
        [
            "--app",
            "orders",
            "--file",
            "a.toml",
            "--profile",
            "dev",
            "--for",
            "20s",
            "--workers",
            "2",
            "--set",
            "a=1",
            "--set",
            "b=2",
        ]
    )


def test_what_was_removed_live_does_not_run_and_keeps_its_settings_for_an_add() -> None:
    write_live("orders", {"sidecars": {"observability": False}})
    asked = Asked(name="orders", command=("x",), assignments=("sidecars.observability.max_series=77",))
    request = request_for(asked, {})
    assert "observability" not in request.profile.sidecars
    assert request.said.live == {"sidecars": {"observability": False}}
    added = profile_of("dev", Said(request.said.below), request.installation)
    assert added.sidecars["observability"].max_series == 77


def test_what_another_profile_can_be_laid_under_is_kept(folder: Path) -> None:
    project(folder)
    asked = Asked(file="pannier.toml", app="orders", assignments=("proxy.balance=round_robin",))
    request = request_for(asked, {"PANNIER__PROXY__WORKERS": "2"})
    arguments = request.arguments
    assert (arguments.project, arguments.entry) == (str(folder / "pannier.toml"), "orders")
    assert arguments.assignments == ("proxy.balance=round_robin",)
    assert profile_of("dev", request.said, request.installation) == request.profile
    assert request_for(Asked(command=("x",)), {}).arguments.entry is None
