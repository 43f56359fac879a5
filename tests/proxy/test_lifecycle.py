"""Draining, dying, starting again, and tables that change or break meanwhile."""

from __future__ import annotations

import mmap
import subprocess
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from pannier import _native

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, binary, wait_until
from tests.proxy.wire import PATIENCE_S, Message, answer, request

OK = answer()


def test_draining_serves_what_is_in_flight_and_then_says_so(proxy: Proxy, origin: Origin) -> None:
    gate = threading.Event()

    def hold(_: Message) -> bytes:
        assert gate.wait(PATIENCE_S)
        return OK

    origin.answer = hold
    with proxy.call() as busy, proxy.call() as idle, proxy.call() as late:
        busy.send(request("/busy"))
        origin.wait_requests(1)
        proxy.publish_base(lifecycle="draining")
        late.send(request("/late"))
        origin.wait_requests(2)
        assert idle.has_ended()
        gate.set()
        for caller in (busy, late):
            got = caller.read_answer()
            assert (got.status, got.get("connection")) == (200, "close")
            assert caller.has_ended()
        proxy.wait_notified("PANNIER_DRAINED=1")
        assert proxy.fetch().get("connection") == "close", "who still comes is served"


def test_a_drain_closes_what_is_idle_however_it_became_so(proxy: Proxy) -> None:
    with proxy.call() as fresh, proxy.call() as used:
        used.send(request())
        assert used.read_answer().get("connection") is None
        proxy.publish_base(lifecycle="draining")
        assert fresh.has_ended()
        assert used.has_ended()
    assert proxy.requests_counted() == 1


def test_an_upload_that_began_before_the_drain_is_finished(proxy: Proxy, origin: Origin) -> None:
    with proxy.call() as caller:
        caller.send(request("/", "Content-Length: 6", method="POST") + b"bef")
        origin.wait(lambda: origin.connections == 1)
        proxy.publish_base(lifecycle="draining")
        caller.send(b"ore")
        got = caller.read_answer()
        assert (got.status, got.get("connection")) == (200, "close")
    assert origin.only.body == b"before"


def test_a_drain_can_be_taken_back(proxy: Proxy) -> None:
    proxy.publish_base(lifecycle="draining")
    proxy.wait_notified("PANNIER_DRAINED=1")
    proxy.publish_base(lifecycle="serving")
    with proxy.call() as caller:
        for _ in range(2):
            caller.send(request())
            assert caller.read_answer().get("connection") is None
    proxy.publish_base(lifecycle="draining")
    proxy.wait_notified("PANNIER_DRAINED=1")


def test_a_proxy_that_starts_into_a_drain(start_proxy: StartProxy) -> None:
    proxy = start_proxy(lifecycle="draining")
    assert proxy.fetch().get("connection") == "close"
    proxy.wait_notified("PANNIER_DRAINED=1")


def test_it_says_again_and_again_that_it_lives(proxy: Proxy) -> None:
    for _ in range(2):
        proxy.wait_notified("WATCHDOG=1")


def test_it_says_that_it_serves_only_once_it_knows_what(short_path: Path, origin: Origin) -> None:
    """Whoever waits for READY sends requests next, and an app that nobody told it of cannot be reached."""
    with closing(Proxy(short_path)) as proxy:
        proxy.spawn()
        assert proxy.fetch().status == 503
        wait_until(lambda: proxy.pid in [e.pid for e in proxy.counters.enrolled()])
        proxy.publish_endpoints(up=[{"address": origin.address}])
        assert proxy.notified() == []
        proxy.publish_base(app=origin.address)
        proxy.wait_notified("READY=1")
        assert proxy.fetch().status == 200


def test_a_supervisor_that_does_not_listen_holds_nothing_up(proxy: Proxy) -> None:
    proxy.fill_notify_socket()
    before = proxy.heartbeat_ms()
    wait_until(lambda: proxy.heartbeat_ms() > before + 1_500)
    assert proxy.fetch().status == 200


def test_strangers_that_are_idle_do_not_starve_who_is_served(proxy: Proxy, origin: Origin) -> None:
    """Each caller may need an upstream; descriptors for these are never spent on further callers, who wait instead."""
    proxy.kill()
    proxy.start(descriptors=256)
    origin.answer = lambda _: answer(b"hello", "Connection: close")
    with ExitStack() as stack:
        caller = stack.enter_context(proxy.call())
        strangers = [stack.enter_context(proxy.call()) for _ in range(300)]
        wait_until(lambda: proxy.totals("connections_accepted") >= (256 - 64 - 256 // 32) // 2)
        for _ in range(30):
            caller.send(request(method="POST", body=b"x"))
            assert caller.read_answer().status == 200
        assert proxy.totals("accept_errors") == 0
        *leaving, last = strangers
        last.send(request())
        for stranger in leaving:
            stranger.close()
        assert last.read_answer().status == 200


def test_strangers_that_are_idle_leave_when_others_wait(proxy: Proxy) -> None:
    proxy.kill()
    proxy.start(descriptors=256)
    with ExitStack() as stack:
        strangers = [stack.enter_context(proxy.call()) for _ in range(200)]
        for stranger in strangers[:90]:
            stranger.send(request())
            assert stranger.read_answer().status == 200
        strangers[-1].send(request())
        assert strangers[-1].read_answer().status == 200
        assert strangers[0].has_ended()


def test_every_worker_accepts(start_proxy: StartProxy) -> None:
    """The kernel spreads connections over the listeners; one without a worker would keep some waiting."""
    proxy = start_proxy(workers=3)
    for listener in (False, True):
        with ExitStack() as stack:
            callers = [stack.enter_context(proxy.call(outbound=listener)) for _ in range(48)]
            for caller in callers:
                caller.send(request(host="up" if listener else "svc"))
            assert {caller.read_answer().status for caller in callers} == {200}


def test_fewer_workers_still_accept_on_every_listener(start_proxy: StartProxy) -> None:
    proxy = start_proxy(workers=4)
    proxy.kill()
    proxy.workers = 1
    proxy.start()
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call()) for _ in range(48)]
        for caller in callers:
            caller.send(request())
        assert {caller.read_answer().status for caller in callers} == {200}


def test_a_killed_proxy_refuses_no_connection_and_loses_no_count(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(workers=2)
    for _ in range(10):
        assert proxy.fetch().status == 200
    assert proxy.wait_counted(10)
    accepted = proxy.totals("connections_accepted")
    with ExitStack() as stack:
        idle = stack.enter_context(proxy.call())
        idle.send(request())
        assert idle.read_answer().status == 200
        proxy.wait_counted(11)
        proxy.kill()
        assert idle.has_ended()
        waiting = [stack.enter_context(proxy.call()) for _ in range(20)]
        for caller in waiting:
            caller.send(request("/while-dead"))
        assert proxy.requests_counted() == 11
        proxy.start()
        assert {caller.read_answer().status for caller in waiting} == {200}
    proxy.wait_counted(31)
    assert proxy.requests_counted() == 31
    assert proxy.totals("connections_accepted") == accepted + 21
    assert [e.pid for e in proxy.counters.enrolled() if e.alive] == [proxy.pid]


def test_tables_outlive_the_process(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_endpoints(found=[{"address": origin.address}])
    proxy.publish_telemetry()
    generations = proxy.in_force()
    proxy.kill()
    proxy.start()
    assert proxy.fetch(host="found", outbound=True).status == 200
    wait_until(lambda: proxy.in_force() == generations)


def test_a_death_within_an_answer_never_looks_like_its_end(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: OK[:-2]
    with proxy.call() as caller:
        caller.send(request())
        assert caller.read_head().get("content-length") == "5"
        assert caller.read(3) == b"hel"
        proxy.kill()
        assert caller.has_ended()


def test_it_starts_without_any_table(start_proxy: StartProxy, proxy: Proxy) -> None:
    proxy.withdraw("base")
    assert proxy.fetch().status == 503
    assert proxy.fetch(host="up", outbound=True).status == 404
    proxy.kill()
    proxy.start()
    assert proxy.fetch().status == 503
    proxy.publish_base()
    assert proxy.fetch().status == 200


def test_each_publication_is_in_force_everywhere_before_it_is_said_to_be(
    start_proxy: StartProxy, origin: Origin
) -> None:
    proxy = start_proxy(workers=3)
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call()) for _ in range(12)]
        for turn in range(10):
            name = f"name-{turn}"
            generation = proxy.publish_base(inbound={"hosts": [name]})
            assert proxy.in_force()["base"] == generation
            for caller in callers:
                caller.send(request(host=name) + request(host="name-x"))
                assert [caller.read_answer().status for _ in range(2)] == [200, 404]


BROKEN = {
    "no msgpack": b"\xc1garbage",
    "nothing": b"",
    "no map": msgspec.msgpack.encode([1, 2, 3]),
    "a field missing": msgspec.msgpack.encode({"service": "svc"}),
    "a field of another type": msgspec.msgpack.encode({"service": 7, "lifecycle": "serving", "app": None}),
    "an unknown word": msgspec.msgpack.encode({"service": "svc", "lifecycle": "sleeping", "app": None}),
    "no address": msgspec.msgpack.encode({"service": "svc", "lifecycle": "serving", "app": "nowhere"}),
    "a length beyond the payload": b"\xdf\xff\xff\xff\xff",
    "a nesting without end": b"\x81\xa7service" + b"\x91" * 50_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_does_not_hold_leaves_the_one_before(proxy: Proxy, name: str) -> None:
    before = proxy.in_force()
    with pytest.raises(ValueError, match=r"\w"):
        _native.validate("base", BROKEN[name])
    proxy.publish_unchecked("base", BROKEN[name])
    wait_until(lambda: proxy.rejected_tables() == 1)
    assert proxy.fetch().status == 200
    assert proxy.in_force() == before, "nothing else is said to be in force"
    assert "rejected" in proxy.stderr()
    proxy.publish_base(app=None)
    assert proxy.fetch().status == 503, "the next good one is taken"


def test_a_damaged_table_leaves_the_one_before(proxy: Proxy) -> None:
    good = msgspec.msgpack.encode(proxy.base | {"app": None})
    proxy.publish_unchecked("base", good, damage=True)
    wait_until(lambda: proxy.rejected_tables() == 1)
    assert proxy.fetch().status == 200
    generation = proxy.publish_unchecked("base", good)
    wait_until(lambda: proxy.in_force()["base"] == generation)
    assert proxy.fetch().status == 503
    assert proxy.rejected_tables() == 1


def test_damage_to_what_is_in_force_is_noticed_without_a_bell(proxy: Proxy) -> None:
    generation = proxy.in_force()["base"]
    with mmap.mmap(proxy.fds["table.base"], _native.SEGMENTS["table.base"]) as segment:
        segment[4096 + generation % 3 * (16 << 20)] ^= 1
    wait_until(lambda: proxy.rejected_tables() == 1)
    assert proxy.fetch().status == 200
    assert proxy.in_force()["base"] == generation


def test_a_head_that_was_wiped_is_no_absence(proxy: Proxy) -> None:
    """No writer goes back to where nothing was published."""
    with mmap.mmap(proxy.fds["table.base"], _native.SEGMENTS["table.base"]) as segment:
        segment[64:72] = bytes(8)
    wait_until(lambda: proxy.rejected_tables() == 1)
    assert proxy.fetch().status == 200


def test_damage_that_is_mended_is_read_after_all(proxy: Proxy) -> None:
    """Half of a snapshot may be on its way when it is looked at; no bell rings for the rest."""
    good = msgspec.msgpack.encode(proxy.base | {"app": None})
    generation = proxy.publish_unchecked("base", good, damage=True)
    wait_until(lambda: proxy.rejected_tables() == 1)
    assert proxy.fetch().status == 200
    proxy.mend("base", generation)
    wait_until(lambda: proxy.in_force()["base"] == generation)
    assert proxy.fetch().status == 503
    assert proxy.rejected_tables() == 1


def test_a_damaged_table_can_be_published_anew(proxy: Proxy) -> None:
    proxy.publish_unchecked("base", msgspec.msgpack.encode(proxy.base), damage=True)
    wait_until(lambda: proxy.rejected_tables() == 1)
    proxy.publish_base(app=None)
    assert proxy.fetch().status == 503


def test_publications_without_pause_end_with_the_last(start_proxy: StartProxy, origin: Origin) -> None:
    """Faster than any reader: snapshots may be skipped, never mixed, never refused."""
    proxy = start_proxy(workers=2)
    writer = _native.TableWriter("endpoints", proxy.fds["table.endpoints"])
    generation = 0
    for turn in range(500):
        clusters = [{"name": f"c{turn}-{i}", "endpoints": []} for i in range(turn % 50)]
        generation = writer.publish(msgspec.msgpack.encode({"clusters": clusters}))
    wait_until(lambda: proxy.in_force()["endpoints"] == generation)
    assert proxy.rejected_tables() == 0
    assert proxy.fetch().status == 200


@pytest.mark.parametrize("arguments", [[], ["--workers"], ["--workers", "0"], ["--workers", "99"], ["--workers", "x"]])
def test_arguments_that_make_no_sense(arguments: list[str]) -> None:
    done = subprocess.run([binary(), "proxy", *arguments], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pannierd proxy: usage:")


@pytest.mark.parametrize("held", [None, "", "inbound.0", "inbound.0=x", "inbound.0=1", "a=-1"])
def test_descriptors_that_make_no_sense(held: str | None) -> None:
    environment = {} if held is None else {"PANNIER_FDS": held}
    done = subprocess.run(
        [binary(), "proxy", "--workers", "1"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "PANNIER_FDS" in done.stderr
