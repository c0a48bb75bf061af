"""What the service says of itself: one JSON line a request, and metrics on a port of their own.

Metric names follow OpenTelemetry's semantic conventions for HTTP; a route is its template, never
the path, so that no caller can make new series.
"""

import asyncio
import contextvars
import logging
import math
import random
import re
import sys
import traceback
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import asyncpg
import msgspec
from prometheus_client import REGISTRY, Counter, Gauge, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from payments.config import Settings

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "_OTHER"

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

_access = logging.getLogger("payments.access")

# Seconds, inclusive upper bounds; 0.25 is the latency objective's.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class _Durations(Collector):
    """The histogram of how long requests take.

    prometheus_client's own takes a lock twice for each observation and walks the buckets; this one
    is written by the event loop's thread alone, and costs a request a third of that.
    """

    class Series:
        """How often each bucket was met, the last for what is longer; and the sum of seconds."""

        def __init__(self) -> None:
            self.counts = [0] * (len(_BUCKETS) + 1)
            self.seconds = 0.0

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], _Durations.Series] = {}
        REGISTRY.register(self)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request."""
        series = self._series.get((method, route, status))
        if series is None:
            series = self._series[method, route, status] = self.Series()
        series.counts[bisect_left(_BUCKETS, seconds)] += 1
        series.seconds += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Gives what there is to scrape."""
        family = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "Time from a request's first event to the end of its answer.",
            labels=["http_request_method", "http_route", "http_response_status_code"],
        )
        bounds = [*map(floatToGoString, (*_BUCKETS, math.inf))]
        for (method, route, status), series in [*self._series.items()]:
            buckets = [*zip(bounds, accumulate(series.counts), strict=True)]
            family.add_metric([method, route, str(status)], buckets, series.seconds)
        yield family


_durations = _Durations()
active_requests = Gauge("http_server_active_requests", "Requests that are being answered.")
payments_created = Counter("payments_created", "Payments made.")
payments_consumed = Counter("payments_consumed", "Payments consumed.")
payments_deleted = Counter("payments_deleted", "Payments deleted.")
idempotent_replays = Counter(
    "payments_idempotent_replays", "Creations answered from the first one with their key."
)
old_route_calls = Counter(
    "payments_old_route_calls", "Calls of the old routes.", ["http_route", "client"]
)


class Active:
    """How many requests are being answered: a plain number, read when the metric is."""

    requests = 0


active_requests.set_function(lambda: Active.requests)


class JsonFormatter(logging.Formatter):
    """A log record as a line of JSON: time, level, logger, message, request id, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _traceback(record.exc_info[1])
        return msgspec.json.encode(line, enc_hook=str).decode()


def _traceback(error: BaseException) -> str:
    """Returns where an exception and its causes come from, and what they are, not what they say.

    PostgreSQL quotes whole rows, and others the value that they failed at: somebody's payment.
    """
    parts = []
    following: BaseException | None = error
    while following is not None:
        frames = "".join(traceback.format_tb(following.__traceback__))
        name = type(following).__name__
        if isinstance(following, asyncpg.PostgresError):
            name += f" (SQLSTATE {following.sqlstate}, constraint {following.constraint_name})"
        parts.append(f"Traceback (most recent call last):\n{frames}{name}")
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
    return "\n\n".join(reversed(parts))


def configure_logging(settings: Settings) -> None:
    """Sends every logger's records to standard output as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    logging.captureWarnings(True)


def serve_metrics(settings: Settings) -> int:
    """Serves `/metrics` from a thread of its own; returns the port."""
    server, _ = start_http_server(settings.metrics_port, addr=settings.http_host)
    return server.server_port


def take_request_id(sent: bytes | None) -> str:
    """Returns the caller's request id if it is short and printable, and a new one otherwise."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        current = sent.decode()
    else:
        current = f"{random.getrandbits(128):032x}"
    request_id.set(current)
    return current


class AccessLine(msgspec.Struct):
    """The log line of one answered request.

    Written without `logging`, whose record costs more than all else that a request does here
    (docs/bottlenecks.md); it looks the same, and its logger's level holds for it too.
    """

    time: datetime
    request_id: str | None
    method: str
    route: str
    status: int
    duration_ms: float
    client: str | None
    level: str = "INFO"
    logger: str = _access.name
    message: str = "request"


def observe(method: str, route: str, status: int, seconds: float, client: str | None) -> None:
    """Counts and logs one answered request."""
    known = method if method in METHODS else OTHER_METHOD
    _durations.observe(known, route, status, seconds)
    if _access.isEnabledFor(logging.INFO):
        milliseconds = round(seconds * 1000, 3)
        now = datetime.now(UTC)
        line = AccessLine(now, request_id.get(), known, route, status, milliseconds, client)
        if not _lines:
            # A batch answers many requests in one turn of the event loop: one write for all.
            asyncio.get_running_loop().call_soon(_write_lines)
        _lines.append(msgspec.json.encode(line))


_lines: list[bytes] = []


def _write_lines() -> None:
    text = b"\n".join([*_lines, b""]).decode()
    _lines.clear()
    sys.stdout.write(text)
    sys.stdout.flush()
