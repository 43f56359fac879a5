from tests.bench.scenarios import LARGE, SCENARIOS, SMALL, layouts


def test_names_and_sizes_are_the_pinned_ones() -> None:
    assert [one.name for one in SCENARIOS] == ["h1-keepalive-64c", "h1-uds-64c", "h1-1c", "h1-64k-body"]
    assert (len(SMALL), len(LARGE)) == (128, 65536)


def test_one_core_comes_first_and_two_need_two() -> None:
    assert [one.name for one in layouts([3])] == ["one-core"]
    assert [(one.name, one.load_cpu, one.proxy_cpu) for one in layouts([2, 5])] == [
        ("one-core", 2, 2),
        ("two-cores", 2, 5),
    ]
