"""What is read from the metadata of an instance by way of a Central."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.detours import HEADROOM, OF, WEIGHT, Share, detour, headroom, is_announced, is_detour, shares
from pannier.shared.instances import State
from pannier.shared.leases import Registration

GATEWAY = "10.77.0.2:15090"


def by_way(of: str, weight: str, *, at: str = GATEWAY, state: State = State.UP, service: str = "e") -> Registration:
    return Registration(service, f"{of}.{at[-5:]}", at, 1, 5, state, {OF: of, WEIGHT: weight})


@pytest.mark.parametrize(
    ("text", "weight"),
    [("0", 0), ("40", 40), ("100", 100), ("12.5", 12.5), ("33.33333333333333570180911920033395", 33.333333333333336)],
)
def test_a_weight_is_a_decimal_of_0_to_100(text: str, weight: float) -> None:
    assert detour({OF: "host-1", WEIGHT: text}) == ("host-1", weight)


@pytest.mark.parametrize(
    "text", ["", " 4", "-1", "100.1", "nan", "inf", "1e1", "1_0", "\uff14", "4%", "+4", ".5", "5."]
)
def test_what_is_no_weight_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=WEIGHT):
        detour({OF: "host-1", WEIGHT: text})


@pytest.mark.parametrize("of", ["", "/", "a b", "a\n", "x" * 129])
def test_what_is_no_instance_is_refused(of: str) -> None:
    with pytest.raises(ValueError, match=OF):
        detour({OF: of, WEIGHT: "4"})


def test_one_key_says_what_it_is() -> None:
    assert is_detour({OF: ""}) and is_announced({OF: ""})
    assert not is_detour({HEADROOM: "1"}) and is_announced({HEADROOM: "1"})
    assert not is_detour({WEIGHT: "1"}) and not is_announced({WEIGHT: "1"})
    assert (headroom({HEADROOM: "12000"}), headroom({HEADROOM: "lots"}), headroom({})) == (12000, None, None)


def test_shares_are_by_instance_and_in_order_and_what_cannot_be_read_is_named() -> None:
    found, refused = shares(
        [
            by_way("b", "10", at="10.0.0.9:15090"),
            by_way("b", "20", at="10.0.0.8:15090"),
            by_way("b", "5", at="10.0.0.8:15090"),
            by_way("a", "1", service="f"),
            by_way("none", "0"),
            by_way("leaves", "50", state=State.DRAINING),
            by_way("broken", "some"),
        ]
    )
    assert found == {
        ("e", "b"): (Share("10.0.0.8:15090", 20), Share("10.0.0.9:15090", 10)),
        ("f", "a"): (Share(GATEWAY, 1),),
    }
    assert refused == ["e/broken.15090: pannier-central-weight is 'some', and not 0 to 100"]


@pytest.mark.parametrize(
    "address",
    [
        "central.example:15090",
        "unix:/run/c.sock",
        "localhost:1",
        "[10.0.0.1]:1",
        "[fe80::1%eth0]:1",
        "1.2.3:1",
        "a",
        "",
    ],
)
def test_what_is_no_address_of_a_gateway_is_refused_and_harms_nobody(address: str) -> None:
    found, refused = shares([by_way("a", "40", at=address), by_way("a", "1", at="[fd00::1]:15090")])
    assert found == {("e", "a"): (Share("[fd00::1]:15090", 1),)}
    assert len(refused) == 1 and refused[0].startswith("e/a.")


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_shares_are_together_100_at_most_and_keep_their_proportion(weights: list[float]) -> None:
    ways = [by_way("a", f"{weight:.6f}", at=f"10.0.0.{n}:15090") for n, weight in enumerate(weights)]
    found = shares(ways)[0].get(("e", "a"), ())
    assert sum(share.weight for share in found) == pytest.approx(min(100, sum(round(w, 6) for w in weights)))
    assert found == shares(reversed(ways))[0].get(("e", "a"), ())
