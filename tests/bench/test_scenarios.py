from tests.bench.peers import PEERS
from tests.bench.scenarios import LARGE, MEDIUM, QUICK_PEERS, SCENARIOS, SMALL, layouts

PINNED = {"h1-keepalive-64c", "h1-uds-64c", "h1-1c", "h1-64k-body"}
NAMES = {"direct", "relay", "nginx", "haproxy", "envoy", "pannier"}


def test_names_and_sizes_are_the_pinned_ones() -> None:
    assert {one.name for one in SCENARIOS} >= PINNED
    assert (len(SMALL), len(MEDIUM), len(LARGE)) == (128, 1024, 65536)
    assert {peer.name for peer in PEERS} == NAMES


def test_a_scenario_names_peers_that_there_are() -> None:
    keys = [peer.key for peer in PEERS]
    assert len(set(keys)) == len(keys)
    assert len({(peer.name, peer.features) for peer in PEERS}) == len(keys)
    for peers in (*(one.peers for one in SCENARIOS), QUICK_PEERS):
        assert set(peers) <= set(keys)


def test_a_scenario_differs_from_the_first_in_one_thing() -> None:
    first, *others = SCENARIOS
    for one in others:
        differs = [one.connections != first.connections, one.body != first.body, one.origin_over_unix]
        assert sum(differs) == 1, one.name


def test_one_core_comes_first_and_two_need_two() -> None:
    assert [one.name for one in layouts([3])] == ["one-core"]
    assert [(one.name, one.load_cpu, one.proxy_cpu) for one in layouts([2, 5])] == [
        ("one-core", 2, 2),
        ("two-cores", 2, 5),
    ]
