"""The observability sidecar: says what shall be recorded, and turns what was recorded into metrics, logs and spans.

| task | where | rhythm |
| --- | --- | --- |
| heartbeat of the table, reading of the counters | here | each second |
| rings → access log, spans | a thread (`drain`) | 20 to 250 ms |
| spans → collector | a thread (`export`), if there is a collector | when there are spans |
| `/metrics`, health | HTTP on the inherited listener | when asked |
| `lifecycle`, `ejections`, `stat` | the bus | when it speaks |

The table is not withdrawn at the end: a restart of this sidecar must not switch telemetry off and on. When the sidecar
is removed for good, the supervisor publishes the absence.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from pannier.shared.duration import seconds
from pannier.shared.errors import PannierError
from pannier.shared.http_server import serve_http
from pannier.shared.messages import (
    EJECTIONS,
    EVENTS,
    LIFECYCLE,
    Ejection,
    Ejections,
    Happening,
    Lifecycle,
    SidecarList,
    StatReply,
    StatRequest,
)
from pannier.shared.sidecar import Context
from pannier.shared.ticks import next_tick
from pannier.sidecars.observability.accesslog import AccessLogFile
from pannier.sidecars.observability.cardinality import Cap
from pannier.sidecars.observability.config import Config
from pannier.sidecars.observability.drain import Drain
from pannier.sidecars.observability.exemplars import Exemplars
from pannier.sidecars.observability.export import Export, Exporter
from pannier.sidecars.observability.health import Readiness
from pannier.sidecars.observability.messages import stat_reply, telemetry_table
from pannier.sidecars.observability.native import Counters, Span, TableWriter
from pannier.sidecars.observability.pages import Pages
from pannier.sidecars.observability.resource import resource_attributes, traces_endpoint
from pannier.sidecars.observability.tally import Tally
from pannier.sidecars.observability.window import Window

if TYPE_CHECKING:
    from pannier.sidecars.observability.metrics import Exposition

_log = logging.getLogger(__name__)
LISTENER: Final = "metrics.0"
TABLES: Final = ("base", "endpoints", "telemetry", "routes", "limits", "central")
_TICK_SECONDS = 1.0
_RESTARTS_TIMEOUT_SECONDS = 0.5
_DRAIN_STOP_SECONDS = 0.5
_EXPORT_STOP_SECONDS = 1.3


async def serve(context: Context[Config]) -> None:
    """Runs until cancelled; then the rings are drained once more and the spans flushed, within two seconds."""
    from pannier import _native

    config, fds = context.config, context.fds
    writer = _native.TableWriter("telemetry", fds["table.telemetry"])
    writer.publish(telemetry_table(config))
    counters = _native.Counters(fds["counters"])
    resource = resource_attributes(
        config.resource, context.service, context.directory, socket.gethostname(), os.environ
    )
    tally = Tally()
    window = Window(_native.FINE_BOUNDS_SECONDS)
    readiness = Readiness()
    exemplars = Exemplars(_native.BUCKET_BOUNDS_SECONDS, config.max_series)
    scrape = _Scrape(context, counters, exemplars, tally, resource)
    export = _export(config, tally, resource)
    drain = Drain(
        _native.Rings(fds["rings"], fds["counters"]),
        tally,
        log=_access_log(context) if config.access_log.enabled else None,
        sink=_both(exemplars, export) if export else None,
    )

    async def stat(request: StatRequest) -> StatReply:
        now = trio.current_time()
        window.tick(now, counters.series())
        return stat_reply(window, now, request.window_s)

    context.bus.serve("stat", StatRequest, stat)
    pages = Pages(readiness, scrape.render, lambda: context.bus.statistics().connected)
    window.tick(trio.current_time(), counters.series())
    async with AsyncExitStack() as stack:
        lifecycles = await stack.enter_async_context(context.bus.subscribe(LIFECYCLE, Lifecycle))
        ejections = await stack.enter_async_context(context.bus.subscribe(EJECTIONS, Ejections))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if (listener := _listener(fds)) is not None:
            nursery.start_soon(serve_http, listener, pages)
        nursery.start_soon(_each_second, writer, window, counters)
        nursery.start_soon(_run_threads, drain, export)
        nursery.start_soon(scrape.follow, ejections)
        await context.bus.ready()
        async for lifecycle in lifecycles:
            readiness.learn(lifecycle)


async def _each_second(writer: TableWriter, window: Window, counters: Counters) -> None:
    while True:
        await next_tick(_TICK_SECONDS)
        writer.heartbeat()
        window.tick(trio.current_time(), counters.series())


async def _run_threads(drain: Drain, export: Export | None) -> None:
    """The two threads; cancelled, they are told to end, the drain first, since it still feeds the export."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, drain.run, abandon_on_cancel=True))
            if export is not None:
                nursery.start_soon(partial(trio.to_thread.run_sync, export.run, abandon_on_cancel=True))
    finally:
        drain.stop()
        with trio.CancelScope(shield=True):
            if not await trio.to_thread.run_sync(drain.wait_stopped, _DRAIN_STOP_SECONDS):
                _log.warning("the last drain did not end in time; the access log's disk does not answer")
            if export is not None and not await trio.to_thread.run_sync(export.finish, _EXPORT_STOP_SECONDS):
                _log.warning("the trace collector did not take the last spans in time")


def _both(exemplars: Exemplars, export: Export) -> Callable[[Sequence[Span]], None]:
    def sink(spans: Sequence[Span]) -> None:
        export.offer(spans)
        exemplars.learn(spans)

    return sink


def _access_log(context: Context[Config]) -> AccessLogFile:
    settings = context.config.access_log
    return AccessLogFile(context.directory / (settings.path or "access.log"), settings.max_bytes)


def _export(config: Config, tally: Tally, resource: Mapping[str, str]) -> Export | None:
    endpoint = traces_endpoint(config.traces, os.environ)
    if endpoint is None:
        return None

    def make() -> Exporter:
        from pannier.sidecars.observability.otlp import OtlpExporter

        return OtlpExporter(endpoint, seconds(config.traces.timeout), resource)

    return Export(make, tally, queue=config.traces.queue, batch=config.traces.batch)


def _listener(fds: Mapping[str, int]) -> trio.SocketListener | None:
    if LISTENER not in fds:
        _log.warning("no listener %s was inherited: metrics and health are not served", LISTENER)
        return None
    inherited = socket.socket(fileno=os.dup(fds[LISTENER]))
    return trio.SocketListener(trio.socket.from_stdlib_socket(inherited))


class _Scrape:
    """Renders `/metrics` on a thread, one scrape at a time; prometheus-client is imported by the first."""

    def __init__(
        self,
        context: Context[Config],
        counters: Counters,
        exemplars: Exemplars,
        tally: Tally,
        resource: Mapping[str, str],
    ) -> None:
        self._context = context
        self._counters = counters
        self._exemplars = exemplars
        self._tally = tally
        self._resource = resource
        self._restarts: dict[str, int] = {}
        self._ejections: Sequence[Ejection] = ()
        self._cap = Cap(context.config.max_series)
        self._one = trio.CapacityLimiter(1)
        self._exposition: Exposition | None = None

    async def render(self, accept: str) -> tuple[bytes, str]:
        await self._ask_restarts()
        before = self._cap.merged
        rendered = await trio.to_thread.run_sync(self._render, accept, limiter=self._one)
        if self._cap.merged != before:
            await self._report_merged()
        return rendered

    async def follow(self, ejections: AsyncIterator[Ejections]) -> None:
        """Learns who is out; those last told hold while the bus is away."""
        async for told in ejections:
            self._ejections = told.endpoints

    async def _ask_restarts(self) -> None:
        """The supervisor's numbers; those of the last time when it does not answer at once."""
        try:
            listed = await self._context.bus.request(
                "supervisor", "sidecar.list", None, SidecarList, timeout=_RESTARTS_TIMEOUT_SECONDS
            )
        except PannierError as error:
            _log.debug("restarts are those last known: %s", error.message)
        else:
            self._restarts = {sidecar.name: sidecar.restarts for sidecar in listed.sidecars}

    async def _report_merged(self) -> None:
        message = (
            f"over {self._context.config.max_series} series: /metrics no longer tells apart by "
            f"{', '.join(self._cap.merged)} (max_series)"
        )
        _log.warning("%s", message)
        happening = Happening(self._context.name, "series.merged", message, "warning", int(time.time() * 1000))
        await self._context.bus.publish(EVENTS, happening)

    def _render(self, accept: str) -> tuple[bytes, str]:
        from pannier import _native
        from pannier.sidecars.observability.metrics import Exposition, Sources

        if self._exposition is None:
            self._exposition = Exposition(
                Sources(
                    counters=self._counters,
                    bounds=_native.BUCKET_BOUNDS_SECONDS,
                    tables={
                        name: _native.TableReader(name, self._context.fds[f"table.{name}"])
                        for name in TABLES
                        if f"table.{name}" in self._context.fds
                    },
                    cap=self._cap,
                    exemplars=self._exemplars,
                    tally=self._tally,
                    resource=self._resource,
                    now=time.time,
                    restarts=lambda: self._restarts,
                    ejections=lambda: self._ejections,
                )
            )
        return self._exposition.render(accept)
