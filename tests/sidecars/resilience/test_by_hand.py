from __future__ import annotations

import pytest
from pannier.shared.errors import UsageError
from pannier.sidecars.resilience.by_hand import meant
from pannier.sidecars.resilience.inventory import Member

ONE, TWO = Member("payments", "10.0.0.1:80", (0, 1)), Member("payments", "10.0.0.2:80", (1, 1))
MEMBERS = {"payments": (ONE, TWO), "stock": ()}


def test_an_endpoint_or_all_of_a_service_with_its_own_word() -> None:
    assert meant(MEMBERS, {}, "payments", "10.0.0.2:80") == [TWO]
    assert meant(MEMBERS, {}, "payments", None) == [ONE, TWO]
    assert meant(MEMBERS, {"payments": (3584, 1)}, "payments", None) == [ONE, TWO, Member("payments", "", (3584, 1))]


@pytest.mark.parametrize(
    ("service", "endpoint", "message", "hint"),
    [
        ("paymets", None, "no service paymets is called from here", "did you mean payments?"),
        ("zzz", None, "no service zzz is called from here", "there are: payments, stock"),
        ("payments", "10.0.0.3:80", "payments has no endpoint 10.0.0.3:80", "did you mean 10.0.0."),
        ("stock", "x:1", "stock has no endpoint x:1", "there are none"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    service: str, endpoint: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        meant(MEMBERS, {}, service, endpoint)
    assert caught.value.hint.startswith(hint)
