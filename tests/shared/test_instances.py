from __future__ import annotations

import pytest
from pannier.shared.instances import check_address


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("127.0.0.1:7777", "127.0.0.1:7777"),
        ("[127.0.0.1]:7777", "127.0.0.1:7777"),
        ("127.0.0.1:00080", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("[2001:DB8::A]:080", "[2001:db8::a]:80"),
        ("Orders.internal:080", "Orders.internal:80"),
        ("010.0.0.1:80", "010.0.0.1:80"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
    ],
)
def test_a_place_has_one_spelling(said: str, kept: str) -> None:
    assert check_address(said) == kept
    assert check_address(kept) == kept


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:0", "1 to 65535"),
        ("127.0.0.1:65536", "1 to 65535"),
        ("[1:2]:80", "brackets"),
        (f"unix:/{'a' * 200}", "at most"),
    ],
)
def test_what_nobody_can_connect_to_is_refused(address: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_address(address)
