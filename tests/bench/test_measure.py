import pytest

from tests.bench import measure
from tests.bench.measure import Machine, Noise

STAT = """\
cpu  30 0 30 0 0 0 0 0 0 0
cpu0 10 1 2 100 50 3 4 5 6 7
cpu1 20 0 0 100 50 0 0 1 0 0
intr 12345
"""


def test_busy_is_what_ran_and_steal_is_apart() -> None:
    machine = measure.parse_stat(STAT)
    assert machine == Machine(busy={0: 200_000_000, 1: 200_000_000}, steal={0: 50_000_000, 1: 10_000_000})


def test_exact_times_replace_the_sampled_ones_of_the_whole_machine_only() -> None:
    ticks = measure.parse_stat(STAT)
    assert measure.with_exact_busy(ticks, "210000000 190000000 \n").busy == {0: 210_000_000, 1: 190_000_000}
    assert measure.with_exact_busy(ticks, "1000 1000 \n") == ticks
    assert measure.with_exact_busy(ticks, "") == ticks


def test_foreign_is_what_the_used_cores_did_beyond_our_own() -> None:
    before = Machine({0: 0, 1: 0, 2: 0}, {0: 0, 1: 0, 2: 0})
    after = Machine({0: 900, 1: 1000, 2: 1000}, {0: 0, 1: 20, 2: 500})
    assert measure.noise(before, after, own_ns=1800, wall_ns=1000, cpus={0, 1}) == Noise(steal=0.01, foreign=0.05)
    assert measure.noise(before, after, own_ns=5000, wall_ns=1000, cpus={0, 1}).foreign == 0.0


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (Noise(0.0, 0.0), None),
        (Noise(0.02, 0.02), None),
        (Noise(0.021, 0.0), "steal 2.1%"),
        (Noise(0.0, 0.5), "foreign CPU 50.0%"),
        (Noise(0.0, 0.0, 1.15), None),
        (Noise(0.0, 0.0, 1.5), "a core 1.50 times slower than it can be"),
    ],
)
def test_what_voids_a_run(noise: Noise, reason: str | None) -> None:
    assert noise.reason_to_void() == reason


def test_threads_that_are_new_count_and_those_that_ended_do_not() -> None:
    assert measure.ran_between({(1, 1): 100, (1, 2): 50}, {(1, 1): 130, (1, 3): 7}) == 37


def test_a_status_file_is_read() -> None:
    status = "Name:\tx\nVmRSS:\t    2048 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n"
    assert measure.switches_of(status) == 10
    assert measure.resident_of(status) == 2 * 1024 * 1024


def test_counts_of_client_and_origin_must_agree() -> None:
    assert measure.foreign_requests(100_000, 100_000) is None
    assert measure.foreign_requests(100_010, 100_000) is None
    assert measure.foreign_requests(50_000, 100_000) is not None
    assert measure.foreign_requests(100_500, 100_000) is not None
