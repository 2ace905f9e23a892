"""`/metrics` in Prometheus' text form: requests, runs enqueued, streams, the pool, the build."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from litestar import Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from howdah.app.api.auth import Caller
from howdah.app.composition import Resources
from howdah.app.realtime.admission import Admission
from howdah.app.realtime.hub import Hub
from howdah.sql.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a cached lookup to a full wait of a minute.
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 60)
POOL_FIGURES = {
    "pool_size": "connections open",
    "pool_available": "connections idle",
    "requests_waiting": "callers waiting for a connection",
}
_STARTED = "howdah_started"


class Metrics:
    """The figures of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "howdah_http_request_seconds",
            "Time to the first byte of the answer, by route and status",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._enqueued = Counter(
            "howdah_runs_enqueued",
            "Runs asked for through this process, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        build = Gauge("howdah_build_info", "Always 1; the version is the label", ["version"], registry=self.registry)
        build.labels(version("howdah")).set(1)

    def enqueued(self, outcome: str) -> None:
        """Count a run that was asked for."""
        self._enqueued.labels(outcome).inc()

    def watch(self, resources: Resources) -> None:
        """Show how the pool and the streams stand whenever the figures are read."""
        self.registry.register(_PoolFigures(resources.pool))
        self.registry.register(_StreamFigures(resources.hub, resources.admission))

    async def observe(self, message: Message, scope: Scope) -> None:
        """Litestar hook: an answer begins."""
        if message["type"] != "http.response.start" or scope["type"] == ScopeType.WEBSOCKET:
            return
        # The pattern, not the path: a label for each run's id would never end. What has no route shares one.
        started = scope["state"].get(_STARTED)
        route = scope.get("path_template", "unmatched") if started is not None else "unmatched"
        seconds = 0.0 if started is None else time.perf_counter() - started
        self._requests.labels(scope["method"], route, str(message["status"])).observe(seconds)


def start_clock(app: ASGIApp) -> ASGIApp:
    """Middleware: remember when a request that has a route began."""

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        begin(scope)
        await app(scope, receive, send)

    return timed


def begin(scope: Scope) -> None:
    """Remember that a request that has a route begins now."""
    scope["state"][_STARTED] = time.perf_counter()


@get("/metrics", include_in_schema=False, sync_to_thread=False)
def read_metrics(state: State) -> Response[bytes]:
    """The figures of this process."""
    metrics: Metrics = state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE)


def provide_metrics(state: State, caller: NamedDependency[Caller]) -> Metrics:
    """What handlers receive as `metrics`; after `caller`, as that is after `resources`."""
    metrics: Metrics = state.metrics
    return metrics


class _StreamFigures(Collector):
    def __init__(self, hub: Hub, admission: Admission) -> None:
        self._hub = hub
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("howdah_streams", "Event streams open on this process", value=self._hub.readers)
        yield CounterMetricFamily(
            "howdah_stream_events", "Events fed to streams, once for each", value=self._hub.delivered
        )
        yield CounterMetricFamily(
            "howdah_streams_slow", "Streams ended as their clients took too little", value=self._hub.slow
        )
        refused = CounterMetricFamily("howdah_streams_refused", "Streams refused, by the limit", labels=["limit"])
        for limit in ("process", "tenant", "key"):
            refused.add_metric([limit], self._admission.refused[limit])
        yield refused


class _PoolFigures(Collector):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        stats: dict[str, Any] = self._pool.get_stats()
        for figure, meaning in POOL_FIGURES.items():
            name = f"howdah_database_{figure}"
            yield GaugeMetricFamily(name, f"Database pool: {meaning}", value=stats.get(figure, 0))
