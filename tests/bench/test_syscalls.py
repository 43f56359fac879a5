import pytest

from tests.bench.processes import BenchmarkError
from tests.bench.syscalls import total_calls

HEADER = "% time     seconds  usecs/call     calls    errors syscall\n"


def test_the_total_is_read_with_and_without_errors() -> None:
    assert total_calls(HEADER + "100.00    0.08    9    8522    1 total\n") == 8522
    assert total_calls(HEADER + "100.00    0.08    9    8522      total\n") == 8522


def test_a_summary_without_a_total_is_refused() -> None:
    with pytest.raises(BenchmarkError):
        total_calls("")
