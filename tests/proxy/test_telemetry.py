"""What is left of a request: a count always; a line and a span if somebody observes."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest
from pannier import _native

from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Wire, answer, request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def key(series: _native.Series) -> tuple[str, str, str, str, int, str, str]:
    s = series
    return (s.direction, s.service, s.route, s.method, s.status, s.flag, s.protocol)


@pytest.mark.semantics("observability", "Each request is counted once")
def test_each_request_is_counted_once_under_its_labels(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry(routes=("/orders/{id}", "/static/*"))
    proxy.fetch("/orders/1?x=y")
    proxy.fetch("/orders/2")
    proxy.fetch("/orders/1/items", method="POST", body=b"x")
    proxy.fetch("/static/a/b.css", method="BREW")
    proxy.fetch("/orders/3", version="1.0")
    proxy.fetch("/orders/4", host="up", outbound=True)
    proxy.fetch("/orders/5", host="nobody", outbound=True)
    proxy.fetch("/orders/6", host="evil")
    proxy.fetch("/orders/7", "X : y")
    counted = {key(s): s.count for s in proxy.wait_counted(9)}
    assert counted == {
        ("inbound", "svc", "/orders/{id}", "GET", 200, "", "1.1"): 2,
        ("inbound", "svc", "", "POST", 200, "", "1.1"): 1,
        ("inbound", "svc", "/static/*", "_OTHER", 200, "", "1.1"): 1,
        ("inbound", "svc", "/orders/{id}", "GET", 200, "", "1.0"): 1,
        ("outbound", "up", "/orders/{id}", "GET", 200, "", "1.1"): 1,
        ("outbound", "_unknown", "/orders/{id}", "GET", 404, "NR", "1.1"): 1,
        ("inbound", "svc", "/orders/{id}", "GET", 404, "NR", "1.1"): 1,
        ("inbound", "svc", "", "_OTHER", 400, "DPE", "1.1"): 1,
    }


def test_names_that_nobody_published_make_no_series(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(outbound={"unknown": "passthrough"})
    for i in range(20):
        proxy.fetch(f"/{i}", host=f"n{i}.invalid", outbound=True, method=f"M{i}")
        proxy.fetch(f"/{i}", host=f"n{i}", method=f"M{i}")
    assert len(proxy.wait_counted(40)) == 2


def test_a_series_sums_times_and_bytes(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda r: answer(r.body * 2)
    sent = [request(method="POST", body=b"x" * size) for size in (0, 10, 5000, 300_000)]
    got = 0
    with proxy.call() as caller:
        for one in sent:
            caller.send(one)
            got += len(caller.read_answer().body)
    (series,) = proxy.wait_counted(4)
    assert series.count == sum(series.buckets) == sum(series.fine) == 4
    assert len(series.buckets) == len(_native.BUCKET_BOUNDS_SECONDS) + 1
    assert len(series.fine) == len(_native.FINE_BOUNDS_SECONDS) + 1
    assert 0 < series.sum_seconds < 10
    assert series.request_bytes == sum(map(len, sent))
    assert got < series.response_bytes < got + 1000


def test_a_slow_answer_falls_into_its_bucket(proxy: Proxy, origin: Origin) -> None:
    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.socket.settimeout(0.26)
        with pytest.raises(TimeoutError):
            wire.fill()
        wire.send(answer())

    origin.converse = converse
    assert proxy.fetch().status == 200
    (series,) = proxy.wait_counted(1)
    assert 0.25 < series.sum_seconds < 10
    assert sum(series.buckets[: _native.BUCKET_BOUNDS_SECONDS.index(0.25) + 1]) == 0


def test_fixed_counters_move(proxy: Proxy, origin: Origin) -> None:
    proxy.fetch()
    proxy.fetch()
    proxy.publish_endpoints(up=[{"address": "127.0.0.1:1"}])
    proxy.fetch(host="up", outbound=True)
    proxy.fetch("/", "X : y")
    wait_until(lambda: proxy.totals("connections_closed") == 4)
    totals = proxy.counters.totals()
    assert set(totals) == set(_native.CELLS)
    moved = {name: count for name, count in totals.items() if count}
    assert moved == {
        "connections_accepted": 4,
        "connections_closed": 4,
        "connects": 2,
        "connects_failed": 1,
        "pool_reused": 1,
        "requests_malformed": 1,
    }


@pytest.mark.semantics("observability", "One request is one line of the access log", "access_log.enabled")
def test_one_request_is_one_line(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry(routes=("/orders/{id}",))
    origin.answer = lambda _: answer(b"x" * 100, status="201 Created")
    began = datetime.datetime.now(datetime.UTC)
    proxy.fetch(
        "/orders/7?a=b", "X-Request-ID: mine", f"Traceparent: 00-{TRACE}-{PARENT}-01", method="POST", body=b"abc"
    )
    lines, spans = proxy.drain(1)
    (line,) = lines
    (span,) = spans
    assert abs(datetime.datetime.fromisoformat(line.pop("time")) - began) < datetime.timedelta(seconds=10)
    assert 0 <= line.pop("duration_ms") < 10_000
    assert line.pop("request_bytes") > 100
    assert line.pop("response_bytes") > 100
    assert line == {
        "direction": "inbound",
        "service": "svc",
        "method": "POST",
        "path": "/orders/7?a=b",
        "authority": "localhost",
        "route": "/orders/{id}",
        "protocol": "HTTP/1.1",
        "status": 201,
        "flags": "-",
        "upstream": origin.address,
        "client": "127.0.0.1",
        "request_id": "mine",
        "trace_id": TRACE,
        "span_id": f"{span.span_id:016x}",
    }
    assert f"{span.trace_id:032x}" == TRACE
    assert f"{span.parent_id:016x}" == PARENT
    assert span.span_id == int((origin.only.get("traceparent") or "").split("-")[2], 16)
    assert (span.direction, span.method, span.route, span.path) == ("inbound", "POST", "/orders/{id}", "/orders/7?a=b")
    assert (span.status, span.flag, span.protocol, span.request_id) == (201, "", "1.1", "mine")
    assert (span.service, span.upstream, span.authority, span.sampled) == ("svc", origin.address, "localhost", True)
    assert began.timestamp() - 10 < span.start_ns / 1e9 <= span.end_ns / 1e9 < began.timestamp() + 10


@pytest.mark.semantics("observability", "Every kind of end has its line, with Envoy's flag")
def test_every_kind_of_end_is_a_line(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(timeouts={"request_ms": 60, "header_ms": 60})
    proxy.publish_telemetry()

    def converse(origin: Origin, wire: Wire) -> None:
        asked = origin.take(wire.read_request())
        if asked.target == "/silent":
            return
        if asked.target == "/late":
            wire.read_to_end()
        wire.send(b"nonsense\r\n\r\n")

    origin.converse = converse
    for target in ("/silent", "/late", "/nonsense"):
        proxy.fetch(target)
    proxy.fetch("/none", host="nobody", outbound=True)
    with proxy.call() as caller:
        caller.send(b"GET /slow")
        assert caller.read_answer().status == 408
    proxy.fetch("/odd", "X : y")
    proxy.publish_base(app="127.0.0.1:1")
    proxy.fetch("/refused")
    lines, _ = proxy.drain(7)
    assert [(line["path"], line["status"], line["flags"]) for line in lines] == [
        ("/silent", 502, "UC"),
        ("/late", 504, "UT"),
        ("/nonsense", 502, "UPE"),
        ("/none", 404, "NR"),
        ("", 408, "DT"),
        ("", 400, "DPE"),
        ("/refused", 503, "UF"),
    ]


def test_a_truncated_answer_is_recorded_as_its_caller_saw_it(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry()

    def converse(origin: Origin, wire: Wire) -> None:
        origin.take(wire.read_request())
        wire.send(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\n\r\nabc")

    origin.converse = converse
    with proxy.call() as caller:
        caller.send(request("/cut"))
        assert caller.read_head().status == 206
        with pytest.raises(ConnectionError):
            caller.read(100)
    (series,) = proxy.wait_counted(1)
    assert (series.status, series.flag) == (206, "UC")
    (line,), _ = proxy.drain(1)
    assert (line["path"], line["status"], line["flags"]) == ("/cut", 206, "UC")


def test_a_target_without_a_path_has_the_path_of_the_root(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry(routes=("/",))
    assert proxy.fetch("http://localhost").status == 200
    assert origin.only.target == "/"
    (line,), (span,) = proxy.drain(1)
    assert (line["path"], line["route"], span.path) == ("/", "/", "/")


def test_a_request_whose_first_chunk_is_malformed_is_recorded_by_name(proxy: Proxy) -> None:
    proxy.publish_telemetry()
    with proxy.call() as caller:
        caller.send(request("/odd", "Transfer-Encoding: chunked", method="POST") + b"bad\n")
        assert caller.read_answer().status == 400
    (line,), _ = proxy.drain(1)
    assert (line["method"], line["path"], line["status"], line["flags"]) == ("POST", "/odd", 400, "DPE")


def test_no_request_can_forge_a_line(proxy: Proxy) -> None:
    proxy.publish_telemetry()
    targets = ['/"},{"status":200', "/\\u0022\\", "/%0a%0d", "/\xc2\x85\xe2\x80\xa8", "/" + "x" * 8000]
    for target in targets:
        proxy.fetch(target)
    lines, _ = proxy.drain(len(targets))
    assert [line["path"] for line in lines[:3]] == targets[:3]
    assert (lines[3]["path"], lines[3]["status"]) == ("", 400), "bytes beyond ASCII are no target"
    assert targets[4].startswith(lines[4]["path"])
    assert len(lines[4]["path"]) >= 100
    assert lines[4]["truncated"] is True


def test_two_workers_write_every_line(start_proxy: StartProxy) -> None:
    proxy = start_proxy(workers=2)
    proxy.publish_telemetry()
    for i in range(100):
        proxy.fetch(f"/{i}")
    lines, spans = proxy.drain(100)
    assert {line["path"] for line in lines} == {f"/{i}" for i in range(100)}
    assert len({span.span_id for span in spans}) == 100
    assert len({line["request_id"] for line in lines}) == 100


@pytest.mark.semantics(
    "observability", "New traces are sampled by a ratio; a caller's decision wins over it", "traces.sample_ratio"
)
@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 20)])
def test_new_traces_are_sampled_by_the_ratio(proxy: Proxy, ratio: float, expected: int) -> None:
    proxy.publish_telemetry(sample_ratio=ratio)
    for _ in range(20):
        proxy.fetch()
    lines, spans = proxy.drain(20)
    assert (len(lines), len(spans)) == (20, expected)
    assert all(span.parent_id is None for span in spans)


@pytest.mark.semantics("observability", "New traces are sampled by a ratio; a caller's decision wins over it")
def test_a_parents_decision_wins_over_the_ratio(proxy: Proxy) -> None:
    proxy.publish_telemetry(sample_ratio=0.0, access_log=False)
    proxy.fetch("/no", f"Traceparent: 00-{TRACE}-{PARENT}-00")
    proxy.fetch("/none")
    proxy.fetch("/yes", f"Traceparent: 00-{TRACE}-{PARENT}-01", "Tracestate: a=1")
    proxy.wait_counted(3)
    lines, spans = proxy.drain(1)
    assert [(span.path, span.trace_state) for span in spans] == [("/yes", "a=1")]
    assert len(lines) == 1, "the sampled request's record has a line as well; whoever drains decides where it goes"


@pytest.mark.semantics("observability", "Without observability nothing is recorded")
def test_nothing_is_recorded_without_telemetry(proxy: Proxy) -> None:
    proxy.fetch("/before")
    proxy.wait_counted(1)
    proxy.publish_telemetry()
    proxy.fetch("/observed")
    proxy.withdraw("telemetry")
    proxy.fetch("/after")
    assert {key(s)[2] for s in proxy.wait_counted(3)} == {""}
    lines, _ = proxy.drain(1)
    assert [line["path"] for line in lines] == ["/observed"]
    assert proxy.totals("ring_records") == 1


@pytest.mark.semantics("observability", "A ring that nobody drains drops and counts; requests do not wait")
def test_a_ring_that_nobody_drains_drops_and_counts(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_telemetry()
    offered = 0
    with proxy.call() as caller:
        while proxy.totals("ring_dropped") == 0:
            assert offered < 100_000
            caller.send(request("/" + "x" * 1000) * 100)
            for _ in range(100):
                assert caller.read_answer().status == 200
            offered += 100
    proxy.wait_counted(offered)
    kept = proxy.totals("ring_records")
    assert kept + proxy.totals("ring_dropped") == offered
    lines, _ = proxy.drain(kept)
    assert len(lines) == kept


def test_a_dead_process_leaves_its_records(proxy: Proxy, start_origin: Callable[..., Origin]) -> None:
    proxy.publish_telemetry()
    proxy.fetch("/before")
    proxy.wait_counted(1)
    proxy.kill()
    proxy.start()
    proxy.fetch("/after")
    lines, _ = proxy.drain(2)
    assert [line["path"] for line in lines] == ["/before", "/after"]
