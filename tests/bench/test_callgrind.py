import pytest

from tests.bench import callgrind
from tests.bench.callgrind import Line

DUMP = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
positions: line
events: Ir
summary: 60

ob=(1) /usr/bin/prog
fl=(1) /src/a.rs
fn=(1) prog::run
10 5
+2 3
fi=(2) /src/b.rs
4 7
fe=(1)
-1 2
cob=(2) /lib/libc.so.6
cfi=(3) malloc.c
cfn=(2) malloc
calls=2 100
* 30
* 1

fl=(2)
fn=(3) prog::other
-1 12
cob=(2)
cfi=(3)
cfn=(2)
calls=1 100
+1 10

ob=(2)
fl=(3)
fn=(2)
100 30

totals: 60
"""


def test_costs_stand_at_their_line_and_not_at_the_call() -> None:
    dump = callgrind.parse(DUMP)
    assert dict(dump.costs) == {
        Line("prog", "/src/a.rs", "prog::run", "/src/a.rs", 10): 5,
        Line("prog", "/src/a.rs", "prog::run", "/src/a.rs", 12): 3,
        Line("prog", "/src/a.rs", "prog::run", "/src/b.rs", 4): 7,
        Line("prog", "/src/a.rs", "prog::run", "/src/a.rs", 3): 3,
        Line("prog", "/src/b.rs", "prog::other", "/src/b.rs", 2): 12,
        Line("libc.so.6", "malloc.c", "malloc", "malloc.c", 100): 30,
    }
    assert dump.total == 60


def test_calls_are_counted_by_caller_and_called() -> None:
    assert dict(callgrind.parse(DUMP).calls) == {("prog::run", "malloc"): 2, ("prog::other", "malloc"): 1}


def test_dumps_add_up() -> None:
    whole = callgrind.parse(DUMP)
    whole.add(callgrind.parse(DUMP))
    assert whole.total == 120
    assert whole.calls["prog::run", "malloc"] == 4


def test_a_dump_that_does_not_sum_up_is_refused() -> None:
    with pytest.raises(ValueError, match="sum up to 60"):
        callgrind.parse(DUMP.replace("totals: 60", "totals: 61"))
    with pytest.raises(ValueError, match="sum up to 60"):
        callgrind.parse(DUMP.replace("totals: 60\n", ""))
