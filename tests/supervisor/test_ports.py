from __future__ import annotations

import errno
import socket

import pytest
from pannier.shared.errors import PannierError, UsageError
from pannier.supervisor.keeper import KeeperError
from pannier.supervisor.plan import Listener
from pannier.supervisor.ports import bind, outward, split_address


class Keeper:
    def __init__(self, **refused: int) -> None:
        self.refused = {int(port.lstrip("p")): number for port, number in refused.items()}
        self.asked: list[tuple[str, str, int]] = []

    async def listen(self, name: str, address: str, count: int) -> int:
        self.asked.append((name, address, count))
        port = split_address(address)[1]
        if port in self.refused:
            raise KeeperError(self.refused[port], "no")
        return port or 40000


def wanted(port: int, *, exact: bool) -> Listener:
    return Listener("inbound", "127.0.0.1", port, 2, exact, "--port")


async def test_an_asked_port_that_is_taken_is_an_error_with_the_port_and_the_option() -> None:
    with pytest.raises(PannierError, match=r"port 80 \(inbound\) is taken") as caught:
        await bind(Keeper(p80=errno.EADDRINUSE), wanted(80, exact=True))
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 1


async def test_a_default_port_that_is_taken_gives_the_next_free_one() -> None:
    keeper = Keeper(p80=errno.EADDRINUSE, p81=errno.EADDRINUSE)
    assert await bind(keeper, wanted(80, exact=False)) == 82
    assert keeper.asked[-1] == ("inbound", "127.0.0.1:82", 2)


async def test_any_port_is_asked_for_once() -> None:
    assert await bind(Keeper(), wanted(0, exact=True)) == 40000


@pytest.mark.parametrize(("number", "hint"), [(errno.EACCES, "1024"), (errno.EADDRNOTAVAIL, "an address of this host")])
async def test_other_refusals_say_what_to_change(number: int, hint: str) -> None:
    with pytest.raises(PannierError, match="cannot listen on") as caught:
        await bind(Keeper(p80=number), wanted(80, exact=False))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "parts"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), (":0", ("", 0))]
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["80", "host:port", "host:99999", "host:"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        split_address(text)


def test_a_host_that_may_make_no_socket_has_no_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "no IPv4 here")

    monkeypatch.setattr(socket, "socket", refused)
    assert outward() == ""
