from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pannier.shared.errors import PannierError, UsageError
from pannier.supervisor.ports import claim, is_free, split_address


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_reuseport_listener_of_our_own_user_is_seen(taken: int) -> None:
    assert not is_free("127.0.0.1", taken)
    assert not is_free("0.0.0.0", taken)


def test_an_asked_port_that_is_taken_is_an_error_with_the_port_and_the_option(taken: int) -> None:
    with pytest.raises(PannierError) as caught:
        claim("127.0.0.1", taken, what="inbound", option="--port", exact=True)
    assert str(taken) in caught.value.message
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 1


def test_a_default_port_that_is_taken_gives_the_next_free_one(taken: int) -> None:
    assert claim("127.0.0.1", taken, what="outbound", option="--outbound-port", exact=False) > taken


def test_any_port_stays_any() -> None:
    assert claim("127.0.0.1", 0, what="metrics", option="--metrics-port", exact=True) == 0


def test_a_foreign_address_is_an_error_of_its_own() -> None:
    with pytest.raises(PannierError, match=r"cannot listen on 192\.0\.2\.1"):
        is_free("192.0.2.1", 8080)


@pytest.mark.parametrize(
    ("text", "parts"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), (":0", ("", 0))]
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["80", "host:port", "host:99999", "host:"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        split_address(text)
