"""The shop: its services as plain WSGI callables, its load against a stand-in, and the verdict on ledgers."""

from __future__ import annotations

import io
import json
import random
import select
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import calls
import catalog
import ledger
import load
import mix
import orders
import payments
import pytest
import run
import shop
import summary
import table
import trio
from calls import Answer, CallFailed
from client import Broken, Request, Response, open_pool
from ledger import Entry, Failure
from mesh import HERE
from pannier.shared.messages import Process, StatRow, Status
from screen import Screen
from stages import Moment

APPS: dict[str, WSGIApplication] = {
    "shop": shop.app,
    "orders": orders.app,
    "payments": payments.app,
    "catalog": catalog.app,
}


def ask_app(
    app: WSGIApplication, method: str, path: str, body: bytes = b"", *, number: int = 0
) -> tuple[int, dict[str, str], bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_X_SHOP_NUMBER": str(number)}
    environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    seen: dict[str, Any] = {}

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
        seen["status"], seen["headers"] = int(status[:3]), {name.lower(): value for name, value in headers}
        return lambda _: None

    whole = b"".join(app(environ, start))
    return seen["status"], seen["headers"], whole


@pytest.fixture
def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SHOP_LEDGERS", str(tmp_path))
    ledger._open.cache_clear()
    yield tmp_path
    ledger._open.cache_clear()


@pytest.fixture
def mesh(ledgers: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Answer]]:
    """A mesh in process: a call by name reaches the service of that name. An entry put in takes a service's place."""
    instead: dict[str, Callable[..., Answer]] = {}

    def call(service: str, method: str, path: str, number: int, body: bytes | None = None, **_: str) -> Answer:
        if service in instead:
            return instead[service](method, path, number, body)
        status, headers, answer = ask_app(APPS[service], method, path, body or b"", number=number)
        return Answer(status, answer, headers["content-type"])

    monkeypatch.setattr(shop, "call", call)
    monkeypatch.setattr(orders, "call", call)
    monkeypatch.setenv("PAYMENTS_FAIL_PERCENT", "0")
    instead["httpbin"] = lambda _method, _path, _number, body: Answer(
        200, json.dumps({"data": body.decode()}).encode(), "application/json"
    )
    return instead


def as_response(answer: tuple[int, dict[str, str], bytes]) -> Response:
    return Response(*answer)


# services


def test_an_order_travels_through_all_services_and_can_be_looked_up(
    mesh: dict[str, Callable[..., Answer]], ledgers: Path
) -> None:
    status, headers, body = ask_app(shop.app, "POST", "/orders", b'{"item": "mug", "quantity": 3}', number=17)

    expected = {"number": 17, "item": "mug", "quantity": 3, "paid": 3750}
    assert (status, json.loads(body), headers["x-shop-number"]) == (201, expected, "17")
    assert json.loads(ask_app(shop.app, "GET", "/orders/17")[2]) == expected
    assert ledger.read("orders", ledgers) == [Entry(17, "arrived")]
    assert ledger.read("payments", ledgers) == [Entry(17, "charged")]


def test_an_injected_failure_is_in_the_ledger_and_reaches_the_customer_as_503(
    mesh: dict[str, Callable[..., Answer]], ledgers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENTS_FAIL_PERCENT", "100")

    assert ask_app(shop.app, "POST", "/orders", b'{"item": "mug", "quantity": 1}', number=9)[0] == 503
    assert ledger.read("payments", ledgers) == [Entry(9, "injected")]
    assert ask_app(shop.app, "GET", "/orders/9")[0] == 404


@pytest.mark.parametrize(
    ("service", "answer", "path", "body"),
    [
        ("catalog", {"item": "lamp", "cents": 1}, "/orders", b'{"item": "mug", "quantity": 1}'),
        ("payments", {"number": 1, "cents": 1}, "/orders", b'{"item": "mug", "quantity": 1}'),
        ("httpbin", {"data": "something else"}, "/mirror", b"hello"),
    ],
)
def test_a_wrong_answer_from_upstream_is_never_passed_on(
    mesh: dict[str, Callable[..., Answer]], service: str, answer: object, path: str, body: bytes
) -> None:
    status = 201 if service == "payments" else 200
    mesh[service] = lambda *_: Answer(status, json.dumps(answer).encode(), "application/json")

    assert ask_app(shop.app, "POST", path, body, number=4)[0] == 502


def test_a_call_that_a_fault_was_injected_into_is_in_the_ledger_of_the_front(
    mesh: dict[str, Callable[..., Answer]], ledgers: Path
) -> None:
    mesh["catalog"] = lambda *_: Answer(503, b"{}", "application/json", "FI")
    assert ask_app(shop.app, "GET", "/catalog/mug", number=3)[0] == 503
    assert ask_app(shop.app, "POST", "/orders", b'{"item": "mug", "quantity": 1}', number=4)[0] == 503

    mesh["catalog"] = lambda *_: Answer(503, b"{}", "application/json", "UH")
    assert ask_app(shop.app, "GET", "/catalog/mug", number=5)[0] == 503
    assert ledger.read("shop", ledgers) == [Entry(3, "injected"), Entry(4, "injected")]


def test_an_instance_with_a_plan_fails_by_it_and_writes_down_whom(
    ledgers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ill = [second for second in range(70) if catalog.is_ill("5-8", second)]
    assert ill == [5, 6, 7, 35, 36, 37, 65, 66, 67]
    assert not catalog.is_ill("", 6.0)

    monkeypatch.setattr(catalog, "_begun", [])
    monkeypatch.setenv("CATALOG_FAILS", "0-30")
    monkeypatch.setenv("SHOP_INSTANCE", "catalog-2")
    assert ask_app(catalog.app, "GET", "/items/mug", number=8)[0] == 503
    assert ask_app(catalog.app, "GET", "/items/mug")[0] == 200
    assert ledger.read("catalog-2", ledgers) == [Entry(8, "injected")]


def test_a_service_that_cannot_be_reached_is_a_502(mesh: dict[str, Callable[..., Answer]]) -> None:
    def refuse(*_: object) -> Answer:
        raise CallFailed("payments: ConnectionRefusedError")

    mesh["payments"] = refuse

    status, _, body = ask_app(shop.app, "POST", "/orders", b'{"item": "mug", "quantity": 1}', number=5)
    assert (status, b"ConnectionRefusedError" in body) == (502, True)


@pytest.mark.parametrize("service", ["shop", "orders", "payments", "catalog"])
def test_nonsense_is_refused(mesh: dict[str, Callable[..., Answer]], service: str) -> None:
    app = APPS[service]

    assert ask_app(app, "GET", "/nowhere/at/all")[0] == 404
    assert ask_app(app, "DELETE", "/orders")[0] == 404
    if service != "catalog":
        path = "/payments" if service == "payments" else "/orders"
        for body in (b"", b"{", b"[]", b"{}", b'{"item": null, "quantity": [], "cents": {}}'):
            assert ask_app(app, "POST", path, body)[0] == 400


@pytest.mark.parametrize("service", ["shop", "orders", "payments", "catalog"])
def test_the_services_keep_to_wsgi(mesh: dict[str, Callable[..., Answer]], service: str) -> None:
    checked = validator(APPS[service])
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": "", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    answer: Iterable[bytes] = checked(environ, lambda *_: lambda _: None)

    assert b"".join(answer)
    answer.close()  # type: ignore[attr-defined]


def test_head_tells_the_length_and_sends_nothing(mesh: dict[str, Callable[..., Answer]]) -> None:
    whole = ask_app(shop.app, "GET", "/catalog/mug")[2]
    status, headers, body = ask_app(shop.app, "HEAD", "/catalog/mug")

    assert (status, headers["content-length"], body) == (200, str(len(whole)), b"")


class _Neighbour(BaseHTTPRequestHandler):
    """Answers with the connection it came on; closes after `/last` without a word; `/stray` is for another number."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.headers['Host']} {self.client_address[1]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-shop-number", "0" if self.path == "/stray" else self.headers["x-shop-number"])
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path == "/last"

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_thread_keeps_its_connection_and_replaces_one_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Neighbour) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setenv("PANNIER_OUTBOUND", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr(calls, "_of_this_thread", threading.local())
        try:
            first, second = calls.call("orders", "GET", "/", 1), calls.call("orders", "GET", "/last", 2)
            assert first.body == second.body
            assert first.body.startswith(b"orders ")
            select.select([calls._of_this_thread.connection.sock], [], [], 5)
            third = calls.call("orders", "GET", "/", 3)
            assert third.body != second.body
            with pytest.raises(CallFailed, match="came for 4"):
                calls.call("orders", "GET", "/stray", 4)
        finally:
            calls._of_this_thread.connection.close()
            server.shutdown()
    with pytest.raises(CallFailed, match="orders"):
        calls.call("orders", "GET", "/", 5)


# the mix


def test_every_kind_of_request_accepts_the_right_answer_and_no_other(mesh: dict[str, Callable[..., Answer]]) -> None:
    placed: list[int] = []
    kinds = set()
    for number in range(1, 200):
        ask = mix.ask(number, placed)
        if ask.service != "shop":
            continue
        kinds.add(ask.kind)
        request = ask.request
        right = as_response(ask_app(shop.app, request.method, request.path, request.body, number=number))
        assert ask.wrong(right) == ""
        other = Response(right.status, {**right.headers, "x-shop-number": "0", "content-length": "1"}, right.body)
        assert ask.wrong(other)
        assert ask.wrong(Response(right.status, right.headers, right.body + b"x")) or request.method == "HEAD"
        assert "503 UH" in ask.wrong(Response(503, {"x-pannier-reason": "UH"}, b"{}"))
        if not ask.idempotent:
            placed.append(number)
    assert kinds == {"place", "look", "item", "head", "mirror"}


@pytest.mark.parametrize("kind", ["post", "chunked"])
def test_what_httpbin_says_it_saw_is_compared_whole(kind: str) -> None:
    ask = next(ask for ask in (mix.ask(number, []) for number in range(1, 500)) if ask.kind == kind)
    seen = {"data": ask.request.body.decode(), "headers": {"X-Shop-Number": str(ask.number)}}

    assert ask.wrong(Response(200, {}, json.dumps(seen).encode())) == ""
    assert "wrong body" in ask.wrong(Response(200, {}, json.dumps({**seen, "data": "x"}).encode()))
    assert "number" in ask.wrong(Response(200, {}, json.dumps({**seen, "headers": {}}).encode()))
    for body in (b"", b"[]", b"{}", b'{"data": 1, "headers": {}}'):
        assert ask.wrong(Response(200, {}, body))


def test_bodies_reach_from_one_byte_to_64_kib() -> None:
    sizes = sorted(len(mix.body_of(number, random.Random(number))) for number in range(3000))

    assert sizes[0] == 1
    assert 60 * 1024 < sizes[-1] <= mix.LARGEST
    assert sizes[len(sizes) // 2] < 1024


# the load


def _item(number: int, _placed: object) -> mix.Ask:
    return mix.Ask(number, "item", "shop", Request("GET", "/"), lambda answer: answer.body.decode())


async def test_the_load_is_open_loop_and_latency_counts_from_the_due_moment(autojump_clock: trio.abc.Clock) -> None:
    arrivals: list[float] = []

    async def slow(ask: mix.Ask) -> Response:
        arrivals.append(trio.current_time())
        await trio.sleep(0.5)
        return Response(200, {}, b"")

    notes, start = load.Notes(), trio.current_time()
    await load.drive(slow, notes, until=trio.CancelScope(deadline=start + 1.05), rate=10, ask=_item)

    assert [round(at - start, 3) for at in arrivals] == [round(tick / 10, 3) for tick in range(11)]
    assert list(notes.latencies) == pytest.approx([0.5] * 11)
    assert notes.seconds == pytest.approx(1.05)
    assert notes.failures == {}


async def test_late_broken_and_wrong_answers_fail_each_once(autojump_clock: trio.abc.Clock) -> None:
    async def answer(ask: mix.Ask) -> Response:
        match ask.number:
            case 1:
                await trio.sleep(2.1)
            case 2:
                raise Broken("ConnectionResetError")
            case 3:
                return Response(503, {}, b"not this")
        return Response(200, {}, b"")

    notes = load.Notes()
    await load.drive(answer, notes, until=trio.CancelScope(deadline=trio.current_time() + 0.35), rate=10, ask=_item)

    assert notes.failures == {
        1: Failure("no answer in 2 s"),
        2: Failure("ConnectionResetError"),
        3: Failure("item: not this", 503),
    }
    assert len(notes.latencies) == 4


async def test_notes_know_the_orders_placed_and_the_last_ten_seconds(autojump_clock: trio.abc.Clock) -> None:
    notes = load.Notes()
    order = mix.Ask(1, "place", "shop", Request("POST", "/"), lambda _: "", idempotent=False)

    notes.take(order, 0.0, 0.1, None)
    notes.take(
        mix.Ask(2, "place", "shop", Request("POST", "/"), lambda _: "", idempotent=False), 11.0, 0.2, Failure("x")
    )

    assert list(notes.placed) == [1]
    assert notes.window(11.0) == [(0.2, False)]


# the client


async def test_the_client_keeps_connections_and_gives_up_broken_ones() -> None:
    accepted = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal accepted
        accepted += 1
        received = b""
        while data := await stream.receive_some():
            received += data
            if received.endswith((b"\r\n\r\n", b"hello")):
                if b"/break" in received:
                    return
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                received = b""

    async with trio.open_nursery() as nursery:
        listener = (
            await nursery.start(
                trio.serve_tcp,
                serve,
                0,
            )
        )[0]
        port = listener.socket.getsockname()[1]
        async with open_pool("127.0.0.1", port, limit=1) as pool:
            for request in (Request("GET", "/"), Request("POST", "/", (), b"hello"), Request("HEAD", "/")):
                response = await pool.exchange(request)
                assert (response.status, response.body) == (200, b"" if request.method == "HEAD" else b"ok")
                if request.method == "POST":
                    assert accepted == 1
            with pytest.raises(Broken):
                await pool.exchange(Request("GET", "/break"))
        nursery.cancel_scope.cancel()


async def test_a_refused_connection_is_broken_too() -> None:
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with open_pool("127.0.0.1", port) as pool:
        with pytest.raises(Broken, match="connect"):
            await pool.exchange(Request("GET", "/"))


# ledgers


def test_a_503_that_a_service_wrote_down_is_explained_and_nothing_else() -> None:
    verdict = ledger.judge(
        {1: Failure("503", 503), 2: Failure("503", 503), 3: Failure("reset"), 4: Failure("502", 502)},
        [],
        {
            "orders": [Entry(number, "arrived") for number in (1, 2, 3, 4)],
            "payments": [Entry(1, "injected"), Entry(3, "injected"), Entry(4, "injected")],
        },
    )

    assert verdict.injected == {1}
    assert set(verdict.unexplained) == {2, 3, 4}


def test_what_a_further_instance_wrote_down_counts_like_what_the_first_did() -> None:
    ledgers = {
        "payments": [Entry(1, "charged"), Entry(2, "charged")],
        "payments-v2": [Entry(3, "charged"), Entry(4, "injected"), Entry(2, "charged")],
        "catalog-2": [Entry(5, "injected")],
    }
    verdict = ledger.judge({4: Failure("503", 503), 5: Failure("503", 503)}, [1, 3], ledgers)

    assert verdict.injected == {4, 5}
    assert verdict.unexplained == {2: Failure("seen 2 times by payments")}


def test_an_order_seen_twice_fails_even_if_a_fault_was_injected() -> None:
    twice = [Entry(1, "arrived"), Entry(1, "arrived")]
    verdict = ledger.judge({1: Failure("503", 503)}, [], {"orders": twice, "payments": [Entry(1, "injected")]})
    assert verdict.unexplained == {1: Failure("seen 2 times by orders")}

    paid = [Entry(1, "injected"), Entry(1, "charged")]
    verdict = ledger.judge({}, [1], {"orders": [Entry(1, "arrived")], "payments": paid})
    assert verdict.unexplained == {1: Failure("seen 2 times by payments")}


def test_an_order_confirmed_but_never_charged_fails_and_strangers_without_number_do_not_count() -> None:
    stranger = [Entry(0, "arrived"), Entry(0, "arrived")]
    verdict = ledger.judge({}, [5, 6], {"orders": stranger, "payments": [Entry(5, "charged")]})

    assert set(verdict.unexplained) == {6}


def test_a_torn_last_line_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_bytes(b'{"number": 1, "outcome": "arrived"}\n{"number": 2, "ou')

    assert ledger.read("orders", tmp_path) == [Entry(1, "arrived")]
    assert ledger.read("payments", tmp_path) == []


# summary and view


def status(service: str = "orders") -> Status:
    def process(name: str, kind: str, restarts: int = 0) -> Process:
        return Process(name, kind, 7, "ready", restarts, 30 << 20, 1.5, True)

    processes = [process("proxy", "proxy"), process("discovery", "sidecar", 2), process("app", "app")]
    return Status(service, "dev", 6, processes)


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.95, 10), (0.99, 10), (0.1, 1), (0.0, 1), (1.0, 10)])
def test_percentiles_are_nearest_rank(share: float, value: float) -> None:
    assert summary.percentile([float(number) for number in range(1, 11)], share) == value
    assert summary.percentile([], share) == 0


def test_the_summary_has_the_shape_that_others_rely_on(tmp_path: Path) -> None:
    notes = load.Notes(seconds=20.0)
    notes.latencies.extend([0.010, 0.020, 0.030, 0.040])
    written = {"payments": [Entry(1, "injected"), Entry(9, "injected")]}
    verdict = ledger.judge({1: Failure("503", 503), 2: Failure("reset")}, [], written)
    moment = Moment(7.5, "orders", "canary.aborted", "payments/v2: aborted")

    document = summary.summarise("dev", notes, verdict, [status()], moments=[moment], missing=["more"])
    summary.write(tmp_path / "summary.json", document)

    sidecar = {"service": "orders", "name": "discovery", "state": "ready", "restarts": 2, "pss_bytes": 30 << 20}
    assert json.loads((tmp_path / "summary.json").read_bytes()) == {
        "profile": "dev",
        "seconds": 20.0,
        "requests": 4,
        "failed": 2,
        "injected": 1,
        "unexplained": 1,
        "success_rate": 0.5,
        "p50_ms": 20.0,
        "p99_ms": 40.0,
        "sidecars": [sidecar],
        "moments": [{"at": 7.5, "service": "orders", "kind": "canary.aborted", "text": "payments/v2: aborted"}],
        "missing": ["more"],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_the_end_names_the_unexplained_by_number() -> None:
    verdict = ledger.judge({number: Failure("reset") for number in range(12)}, [], {})
    document = summary.summarise("dev", load.Notes(seconds=1.0), verdict, [])

    lines = summary.closing_lines(document, verdict, Path("summary.json"))
    assert "12 unexplained" in lines[0]
    assert lines[2:] == [*(f"  request {number}: reset" for number in range(10)), "  and 2 more"]


def test_the_golden_table_shows_what_was_asked_for_inbound() -> None:
    rows = [
        StatRow("shop", "/orders", "inbound", 600, 0.99, 60.0, 8.0, 12.25, 20.0),
        StatRow("shop", "/orders", "outbound", 600, 1.0, 60.0, 8.0, 12.0, 20.0),
        StatRow("shop", "/mirror", "inbound", 0, None, 0.0, None, None, None),
        StatRow("catalog", "", "inbound", 1, 1.0, 0.1, None, None, None),
    ]
    figures = table.load_figures([(0.010, True), (0.020, False)], 10.0, 1)

    lines = [line.split() for line in table.golden_lines(figures, rows)]
    assert lines[1][-5:] == ["0.2", "50.00%", "10.0", "20.0", "20.0"]
    assert lines[2:] == [
        ["catalog", "-", "0.1", "100.00%", "-", "-", "-"],
        ["shop", "/orders", "60.0", "99.00%", "8.0", "12.2", "20.0"],
    ]


def test_every_process_is_shown_with_state_memory_and_restarts() -> None:
    lines = table.process_lines([status("shop"), status("orders")])

    assert lines[0].split() == ["SERVICE", "PROXY", "DISCOVERY", "APP"]
    assert "ready 30M restarts=2" in lines[1]
    assert lines[-1] == "180 MiB in all"


def test_the_urls_to_open_are_the_public_side_and_metrics() -> None:
    found = {"shop": {"inbound": "http://127.0.0.1:18080", "metrics": "http://127.0.0.1:9", "api": "x"}, "new": {}}

    lines = [line.split() for line in table.url_lines(found)]
    assert lines == [["shop", "http://127.0.0.1:18080", "http://127.0.0.1:9"], ["new", "-", "-"]]


def test_a_piped_screen_gets_plain_blocks() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.show(["one", "two"])

    assert (stream.getvalue(), screen.every) == ("one\ntwo\n\n", 5.0)


# the command


def test_the_options_have_defaults_and_refuse_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.parse([]) == run.Options("dev", None, load.RATE)
    assert run.parse(["--profile", "staging", "--for", "1m30s"]) == run.Options("staging", 90.0, load.RATE)
    for nonsense in (["--for", "soon"], ["--rate", "0"]):
        with pytest.raises(SystemExit) as end:
            run.parse(nonsense)
        assert end.value.code == 2
    capsys.readouterr()


def test_the_shop_offers_a_port_for_all_that_is_called() -> None:
    apps = tomllib.loads((HERE / "pannier.toml").read_text())["apps"]

    assert set(mix.SERVICES) | set(APPS) <= set(apps)
    ports = [app[kind] for app in apps.values() for kind in ("port", "app_port")]
    assert len(set(ports)) == len(ports)
    assert all(f"127.0.0.1:{app['app_port']}" in app["command"] for app in apps.values())
