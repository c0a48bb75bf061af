"""The metrics, on a port of their own; docs/observability.md has their table, and a test holds it.

Their names follow OpenTelemetry's semantic conventions where those have one. A label is one of few
known words: a route is its template, never the path, so that no caller can make new series.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import asyncpg
from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

# When each counter began: twice the series, for a question that Prometheus answers by itself.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Histogram(Collector):
    """A histogram that the event loop's thread alone writes.

    prometheus_client's own takes a lock twice for each observation and walks the buckets; this one
    costs a third of that.
    """

    class Series:
        """How often each bucket was met, the last for what is larger; and the sum of all values."""

        def __init__(self, buckets: int) -> None:
            self.counts = [0] * (buckets + 1)
            self.sum = 0.0
            self.exemplars: dict[int, Exemplar] = {}  # by bucket

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
    ) -> None:
        """`buckets` are inclusive upper bounds, in the unit that ends the name."""
        self._name = name
        self._documentation = documentation
        self._buckets = buckets
        self._labels = labels
        self._series: dict[tuple[str | int, ...], Histogram.Series] = {}
        if not labels:
            self._series[()] = self.Series(len(buckets))
        REGISTRY.register(self)

    def observe(self, value: float, *labels: str | int, trace_id: str | None = None) -> None:
        """Counts one value, under the values of the labels; its trace is shown as an example."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self.Series(len(self._buckets))
        bucket = bisect_left(self._buckets, value)
        series.counts[bucket] += 1
        series.sum += value
        if trace_id is not None:
            series.exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Gives what there is to scrape, in the thread that serves it."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*map(floatToGoString, (*self._buckets, math.inf))]
        for labels, series in [*self._series.items()]:
            exemplars = map(series.exemplars.get, range(len(bounds)))
            buckets = [*zip(bounds, accumulate(series.counts), exemplars, strict=True)]
            family.add_metric([*map(str, labels)], buckets, series.sum)  # type: ignore[arg-type]
        yield family


# HTTP

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "_OTHER"

request_duration = Histogram(
    "http_server_request_duration_seconds",
    "Time from a request's first event to the end of its answer.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),  # 0.25: the objective's
    ["http_request_method", "http_route", "http_response_status_code"],
)
active_requests = Gauge("http_server_active_requests", "Requests that are being answered.")


class Active:
    """What goes on: plain numbers, read when the metrics are."""

    requests = 0  # that are being answered
    waits = 0  # for a connection


active_requests.set_function(lambda: Active.requests)

# The database

operation_duration = Histogram(
    "db_client_operation_duration_seconds",
    "Time of one statement, whose name it is; many callers share one.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),  # 2.5: the timeout
    ["db_operation_name"],
)
connection_count = Gauge(
    "db_client_connection_count",
    "Connections of the pool.",
    ["db_client_connection_state"],
)
connection_max = Gauge("db_client_connection_max", "Most connections that the pool may have.")
pending_requests = Gauge(
    "db_client_connection_pending_requests", "Statements that wait for a connection."
)
pending_requests.set_function(lambda: Active.waits)
connection_timeouts = Counter(
    "db_client_connection_timeouts", "Waits for a connection that were given up."
)
connection_wait = Histogram(
    "db_client_connection_wait_time_seconds",
    "Time until a connection was had, made where there was none, or given up.",
    (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2),
)


def watch(pool: asyncpg.Pool) -> None:
    """Reads the metrics of connections from this pool."""
    connection_max.set(pool.get_max_size())
    connection_count.labels("idle").set_function(pool.get_idle_size)
    connection_count.labels("used").set_function(lambda: pool.get_size() - pool.get_idle_size())


# Payments

payments_created = Counter("payments_created", "Payments made.")
created_value = Counter("payments_created_value", "Sum of the values of the payments made.")
payments_consumed = Counter("payments_consumed", "Payments consumed.")
payments_deleted = Counter("payments_deleted", "Payments deleted.")
idempotent_replays = Counter(
    "payments_idempotent_replays",
    "Creations and consumptions that were answered as before because of their key.",
)
refusals = Counter(
    "payments_refusals", "Requests answered with a problem, by its type.", ["reason"]
)
old_route_calls = Counter(
    "payments_old_route_calls", "Calls of the old routes.", ["http_route", "client"]
)
batch_size = Histogram(
    "payments_batch_size",
    "Calls that shared one statement.",
    (1, 2, 4, 8, 16, 32, 64, 128),
    ["operation"],
)
batch_queue_wait = Histogram(
    "payments_batch_queue_wait_seconds",
    "Time that a call waited for the statement before its own.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    ["operation"],
)
build_info = Gauge("payments_build_info", "What runs: always 1.", ["version", "revision"])
