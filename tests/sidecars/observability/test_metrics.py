from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from pannier.shared.messages import Ejection
from pannier.sidecars.observability.cardinality import Cap, labels_of
from pannier.sidecars.observability.exemplars import Exemplars
from pannier.sidecars.observability.metrics import Exposition, Sources
from pannier.sidecars.observability.tally import Tally
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


@pytest.fixture
def exposition(fakes: Any) -> Exposition:
    counters = fakes.Counters(
        all=[
            fakes.Series(route="/orders/{id}", seconds=[0.003, 0.02, 99.0]),
            fakes.Series(status=503, flag="UH", seconds=[0.001]),
            fakes.Series(status=0, flag="DC", method="BREW", seconds=[0.001]),
            fakes.Series(direction="outbound", service='pay"ments\\\n', status=404, protocol="1.0"),
        ],
        cells={"ring_dropped": 4, "connects_failed": 2},
        processes=[
            fakes.Enrolment({"base": 3, "telemetry": 1}, rejected_tables=2),
            fakes.Enrolment({"base": 2}),
            fakes.Enrolment({"base": 1}, alive=False, rejected_tables=1),
        ],
        limits=[
            fakes.Gauge("payments", "requests", 3, 1024),
            fakes.Gauge("payments", "requests", 2, 1024),
            fakes.Gauge("", "shedding", 9, 200),
        ],
    )
    exemplars = Exemplars(fakes.BOUNDS, 10)
    exemplars.learn([fakes.Span(end_ns=fakes.Span.start_ns + ms * 1_000_000) for ms in (4, 3, 20)])
    return Exposition(
        Sources(
            counters=counters,
            bounds=fakes.BOUNDS,
            tables={"base": fakes.Table(3, 95_500), "endpoints": fakes.Table()},
            cap=Cap(10_000),
            exemplars=exemplars,
            tally=Tally(spans_exported=7, spans_dropped=8, spans_failed=9, log_errors=5),
            resource={"service.name": "orders", "deployment.environment.name": "dev"},
            now=lambda: 100.0,
            restarts=lambda: {"discovery": 2},
            ejections=lambda: [
                Ejection("payments", "10.0.0.1:80", "open", "7 failures in a row", 0, 1),
                Ejection("stock", "", "half_open", "failures 60 %", 0, 1),
            ],
        )
    )


def samples(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, content_type = exposition.render("text/plain")
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(exposition: Exposition, name: str, **labels: str) -> float:
    return samples(exposition)[name, tuple(sorted(labels.items()))]


@pytest.mark.semantics("observability", "Durations have the names, labels and buckets of OpenTelemetry's conventions")
def test_server_durations_carry_the_attributes_of_the_conventions(exposition: Exposition) -> None:
    labels = {
        "http_request_method": "GET",
        "http_response_status_code": "200",
        "http_route": "/orders/{id}",
        "network_protocol_version": "1.1",
        "url_scheme": "http",
    }
    name = "http_server_request_duration_seconds"
    assert value(exposition, f"{name}_count", **labels) == 3
    assert value(exposition, f"{name}_sum", **labels) == pytest.approx(99.023)
    edges = [
        (dict(key[1])["le"], number)
        for key, number in samples(exposition).items()
        if key[0] == f"{name}_bucket" and dict(key[1]).get("http_route")
    ]
    assert edges == [
        *[("0.005", 1), ("0.01", 1), ("0.025", 2), ("0.05", 2), ("0.075", 2), ("0.1", 2), ("0.25", 2), ("0.5", 2)],
        *[("0.75", 2), ("1.0", 2), ("2.5", 2), ("5.0", 2), ("7.5", 2), ("10.0", 2), ("+Inf", 3)],
    ]


def test_an_absent_attribute_is_an_absent_label_and_failures_name_their_reason(exposition: Exposition) -> None:
    name = "http_server_request_duration_seconds_count"
    common = {"network_protocol_version": "1.1", "url_scheme": "http"}
    assert (
        value(
            exposition,
            name,
            http_request_method="GET",
            http_response_status_code="503",
            error_type="UH",
            **common,
        )
        == 1
    )
    assert value(exposition, name, http_request_method="_OTHER", error_type="DC", **common) == 1


def test_client_durations_name_the_server_whatever_it_is_called(exposition: Exposition) -> None:
    labels = {
        "error_type": "404",
        "http_request_method": "GET",
        "http_response_status_code": "404",
        "network_protocol_version": "1.0",
        "server_address": 'pay"ments\\\n',
        "url_scheme": "http",
    }
    assert value(exposition, "http_client_request_duration_seconds_count", **labels) == 1


def test_tables_show_generation_age_and_what_is_in_force(exposition: Exposition) -> None:
    assert value(exposition, "pannier_table_generation", table="base") == 3
    assert value(exposition, "pannier_table_generation", table="endpoints") == 0
    assert value(exposition, "pannier_table_age_seconds", table="base") == pytest.approx(4.5)
    assert ("pannier_table_age_seconds", (("table", "endpoints"),)) not in samples(exposition)
    assert value(exposition, "pannier_table_generation_in_force", table="base") == 2
    assert value(exposition, "pannier_table_rejected_total") == 3, "of the dead, too: totals never go back"


def test_our_own_totals(exposition: Exposition) -> None:
    assert value(exposition, "pannier_ring_dropped_total") == 4
    assert value(exposition, "pannier_proxy_connects_failed_total") == 2
    assert value(exposition, "pannier_sidecar_restarts_total", sidecar="discovery") == 2
    assert value(exposition, "pannier_spans_exported_total") == 7
    assert value(exposition, "pannier_spans_dropped_total") == 8
    assert value(exposition, "pannier_spans_failed_total") == 9
    assert value(exposition, "pannier_access_log_errors_total") == 5
    assert value(exposition, "target_info", service_name="orders", deployment_environment_name="dev") == 1


def test_who_is_out_is_a_gauge_while_they_are(exposition: Exposition) -> None:
    assert value(exposition, "pannier_endpoint_ejected", service="payments", endpoint="10.0.0.1:80") == 1
    assert value(exposition, "pannier_endpoint_ejected", service="stock") == 1


def test_limits_show_what_is_in_use_and_what_can_be_over_all_processes(exposition: Exposition) -> None:
    assert value(exposition, "pannier_limit_used", service="payments", limit="requests") == 5
    assert value(exposition, "pannier_limit_max", service="payments", limit="requests") == 2048
    assert value(exposition, "pannier_limit_used", limit="shedding") == 9


def test_openmetrics_is_served_to_who_prefers_it(exposition: Exposition) -> None:
    body, content_type = exposition.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["http_server_request_duration_seconds"].type == "histogram"
    assert families["http_server_request_duration_seconds"].unit == "seconds"
    assert families["target"].type == "info"
    assert families["pannier_ring_dropped"].type == "counter"
    assert body.endswith(b"# EOF\n")


@pytest.mark.semantics("observability", "A bucket links to the newest trace that fell into it")
def test_a_bucket_links_to_the_newest_trace_that_fell_into_it(exposition: Exposition) -> None:
    body, _ = exposition.render(OPENMETRICS)
    examples = {
        sample.labels["le"]: (
            sample.exemplar.labels["trace_id"],
            sample.exemplar.value,
            float(sample.exemplar.timestamp),
        )
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar
    }
    trace = "0102030405060708090a0b0c0d0e0f10"
    assert examples == {"0.005": (trace, 0.003, 1_700_000_000.003), "0.025": (trace, 0.02, 1_700_000_000.02)}


def test_no_more_label_sets_are_remembered_than_the_limit(fakes: Any) -> None:
    exemplars = Exemplars(fakes.BOUNDS, 2)
    exemplars.learn([fakes.Span(route=f"/{number}") for number in range(5)])
    found = [bool(exemplars.find(labels_of(fakes.Span(route=f"/{number}")))) for number in range(5)]
    assert found == [True, True, False, False, False]


def test_what_was_merged_is_reported(fakes: Any) -> None:
    sources = Sources(
        counters=fakes.Counters(all=[fakes.Series(method="GET"), fakes.Series(method="PUT")]),
        bounds=fakes.BOUNDS,
        tables={},
        cap=Cap(1),
        exemplars=Exemplars(fakes.BOUNDS, 10),
        tally=Tally(),
        resource={},
        now=lambda: 0.0,
    )
    exposition = Exposition(sources)
    assert value(exposition, "pannier_series_merged", dimension="method") == 1


def test_names_follow_the_rules_that_promtool_checks(exposition: Exposition) -> None:
    body, _ = exposition.render("text/plain")
    for family in parse_text(body.decode()):
        name = family.samples[0].name if family.samples else family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
        assert family.documentation, family.name
        assert (family.type == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis|milliseconds|minutes|hours|kb|mb)(_|$)", family.name), family.name
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels), sample


def test_promtool_has_nothing_to_say(exposition: Exposition, require_peer: Callable[[str], str]) -> None:
    promtool = require_peer("promtool")
    body, _ = exposition.render("text/plain")
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_service_without_a_central_mesh_says_nothing_of_it(exposition: Exposition) -> None:
    assert not [name for name, _ in samples(exposition) if name.startswith("pannier_central")]


HOST = {
    "state": "shifted",
    "weight": 60.0,
    "limit": 80.0,
    "reason": "host-pressure",
    "inputs": {"host_pressure": 61.0, "throttled": 12.0, "queue_wait_ms": 22.0},
    "moved_rps": 420.0,
    "saved_cores": 0.8,
    "granted_rps": 1200.0,
    "reversals": 1,
    "since_ms": 2,
    "centrals": [
        {"address": "10.77.0.2:15090", "up": True, "granted_rps": 1200.0, "rtt_ms": 0.5, "trouble": ""},
        {"address": "10.77.0.3:15090", "up": False, "granted_rps": 0.0, "rtt_ms": 0.0, "trouble": "refused"},
    ],
}
OF_HOST = {
    ("pannier_central_weight_ratio", ()): 0.6,
    ("pannier_central_limit_ratio", ()): 0.8,
    ("pannier_central_state", (("state", "local"),)): 0.0,
    ("pannier_central_state", (("state", "shifted"),)): 1.0,
    ("pannier_central_state", (("state", "returning"),)): 0.0,
    ("pannier_central_forced", ()): 0.0,
    ("pannier_central_shedding", ()): 0.0,
    ("pannier_central_moved_requests", ()): 420.0,
    ("pannier_central_tokens", ()): 1200.0,
    ("pannier_central_saved_cores", ()): 0.8,
    ("pannier_central_reversals_total", ()): 1.0,
    ("pannier_central_pressure_ratio", (("source", "host"),)): 0.61,
    ("pannier_central_pressure_ratio", (("source", "throttled"),)): 0.12,
    ("pannier_central_queue_wait_seconds", ()): 0.022,
    ("pannier_central_up", (("address", "10.77.0.2:15090"),)): 1.0,
    ("pannier_central_up", (("address", "10.77.0.3:15090"),)): 0.0,
    ("pannier_central_rtt_seconds", (("address", "10.77.0.2:15090"),)): 0.0005,
}
GATEWAY = {
    "gateway": {
        "hosts": 3,
        "capacity": 20000.0,
        "granted_rps": 1200.0,
        "served_rps": 1100.0,
        "served": 77,
        "pressed": True,
        "strangers": 2,
    }
}
OF_GATEWAY = {
    ("pannier_central_hosts", ()): 3.0,
    ("pannier_central_capacity", ()): 20000.0,
    ("pannier_central_granted", ()): 1200.0,
    ("pannier_central_served_requests_total", ()): 77.0,
    ("pannier_central_strangers_total", ()): 2.0,
    ("pannier_central_pressed", ()): 1.0,
}


@pytest.mark.parametrize(
    ("bulletins", "expected"),
    [([HOST], OF_HOST), ([{"state": "local", "since_ms": 1}, HOST], OF_HOST), ([GATEWAY], OF_GATEWAY)],
    ids=["a host", "a host whose proxy is replaced", "a Central"],
)
def test_what_the_proxy_says_of_the_central_mesh(
    fakes: Any, bulletins: list[dict[str, Any]], expected: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> None:
    counters = fakes.Counters(bulletins=[msgpack.packb(each) for each in bulletins])
    sources = Sources(counters, fakes.BOUNDS, {}, Cap(10), Exemplars(fakes.BOUNDS, 10), Tally(), {}, lambda: 0.0)
    found = samples(Exposition(sources))
    assert {key: value for key, value in found.items() if key[0].startswith("pannier_central")} == expected
