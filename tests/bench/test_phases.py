from collections import Counter
from pathlib import Path

import pytest

from tests.bench import phases
from tests.bench.callgrind import Dump, Line

ROOT = Path(__file__).resolve().parents[2]
CORE = f"{ROOT}/shared/core"
CARGO = "/home/me/.cargo/registry/src/index.crates.io-0123abc"
RUSTC = "/rustc/0123abc/library"


def in_core(file: str, function: str | None = None) -> Line:
    """A line of our own source: inside a function, or the first of the file."""
    path = f"{CORE}/{file}"
    numbered = enumerate(Path(path).read_text().splitlines(), start=1)
    start = next(number for number, text in numbered if not function or f"fn {function}(" in text)
    return Line("pannierd", "elsewhere.rs", "some::closure", path, start + 1)


def inlined(home: str, symbol: str) -> Line:
    """A line of the standard library inside a function."""
    return Line("pannierd", home, symbol, f"{RUSTC}/alloc/src/vec/mod.rs", 7)


def in_libc(symbol: str) -> Line:
    return Line("libc.so.6", "x.c", symbol, "x.c", 1)


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        (in_core("http/src/request.rs", "refuse"), "parse"),
        (in_core("http/src/request.rs", "write"), "serialise"),
        (in_core("http/src/fields.rs", "write_decimal"), "serialise"),
        (in_core("decide/src/matching.rs"), "route"),
        (in_core("decide/src/balance.rs"), "balance"),
        (in_core("decide/src/breaker.rs"), "limits"),
        (in_core("decide/src/hex.rs"), "trace"),
        (in_core("table/src/clock.rs"), "clock"),
        (in_core("table/src/series.rs"), "account"),
        (in_core("proxy/src/account.rs"), "account"),
        (in_core("proxy/src/exchange.rs"), "exchange"),
        (in_core("proxy/src/timers.rs"), "reactor"),
        (Line("pannierd", "", "", f"{CARGO}/httparse-1.10.1/src/lib.rs", 5), "parse"),
        (Line("pannierd", "", "", f"{CARGO}/tokio-1.54.1/src/task/local.rs", 5), "reactor"),
        (Line("pannierd", "", "", f"{CARGO}/rustix-1.1.6/src/net/mod.rs", 5), "system calls"),
        (inlined(f"{CORE}/http/src/response.rs", "pannier_http::response::Response::write"), "serialise"),
        (inlined(f"{CORE}/http/src/response.rs", "pannier_http::response::parse"), "parse"),
        (inlined(f"{CORE}/proxy/src/attempts.rs", "pannier_proxy::attempts::run::{{closure}}"), "exchange"),
        (inlined(f"{RUSTC}/core/src/ptr/mod.rs", "core::ptr::drop_in_place"), "standard library"),
        (inlined("/rust/deps/hashbrown-0.16.1/src/map.rs", "hashbrown::map::insert"), "standard library"),
        (in_libc("malloc"), "allocator"),
        (in_libc("_int_free"), "allocator"),
        (in_libc("__memcpy_avx_unaligned_erms"), "copies"),
        (in_libc("epoll_wait"), "system calls"),
        (in_libc("clock_gettime@@GLIBC_2.17"), "clock"),
        (Line("pannierd", "", "", f"{CARGO}/something-1.0.0/src/lib.rs", 5), "other"),
        (Line("pannierd", "???", "0x1234", "???", 0), "other"),
    ],
)
def test_a_line_belongs_to_a_phase(line: Line, phase: str) -> None:
    assert phases.phase(line) == phase


def test_phases_sum_up_to_the_total() -> None:
    dump = Dump(Counter({in_core("http/src/request.rs", "refuse"): 50, in_libc("malloc"): 7, in_libc("write"): 43}))
    found = phases.phases(dump, 10)
    assert sum(found.values()) == dump.total / 10
    assert (found["parse"], found["allocator"], found["system calls"]) == (5.0, 0.7, 4.3)
    assert tuple(found) == phases.PHASES


def test_allocations_are_counted_where_they_are_asked_for() -> None:
    calls = Counter(
        {
            ("pannier_proxy::run", "malloc"): 20,
            ("tokio::x", "posix_memalign"): 3,
            ("alloc::grow", "realloc"): 5,
            ("alloc::grow", "calloc'2"): 1,
            ("realloc", "malloc"): 5,
            ("malloc", "_int_malloc"): 20,
            ("pannier_proxy::run", "free"): 28,
        }
    )
    assert phases.allocations(Dump(calls=calls), 10) == 2.9


def test_every_file_of_the_data_path_has_a_phase() -> None:
    for crate in ("http", "decide", "proxy", "table"):
        for path in (Path(CORE) / crate / "src").rglob("*.rs"):
            line = Line("pannierd", str(path), "", str(path), 1)
            assert phases.phase(line) not in ("other", "standard library"), path
