"""What it costs a creation to be counted, logged and traced: µs of the event loop's CPU.

Does what the service does for a batch of creations, and nothing of the creations themselves; the
lines of the log go to /dev/null. Prints one column for a batch as large as a busy service has them,
and one for a creation alone. In load/:

    PYTHONPATH=../api ../.venv/bin/python telemetry_cost.py
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from payments import logs, metrics, telemetry, tracing
from payments.batch import Call
from payments.config import Settings

SIZES = (32, 1)  # 64 connections make the first (docs/bottlenecks.md)
CREATIONS = 16_000
ROUNDS = 9  # the best counts: the others had company on the machine

COLLECTOR = Settings(database_url="postgresql://host/name", otlp_endpoint="http://127.0.0.1:9")
NO_HEADERS: dict[bytes, bytes] = {}
TRACED = {b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
UNTRACED = {b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


class Batch:
    """The callers of one statement."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.size = size
        self._loop = loop
        answer: asyncio.Future[None] = loop.create_future()
        self._calls = [Call(None, answer, time.perf_counter(), None) for _ in range(size)]

    def count(self) -> None:
        """Metrics: of each request, of the batch, of the pool, of the statement, of payments."""
        for _ in self._calls:
            metrics.Active.requests += 1
            time.perf_counter()  # when it began to wait
        with telemetry.batch("create", self._calls):
            asked = time.perf_counter()
            metrics.Active.waits += 1
            metrics.Active.waits -= 1
            metrics.connection_wait.observe(time.perf_counter() - asked)
            with telemetry.statement("create"):
                pass
        metrics.payments_created.inc(self.size)
        metrics.created_value.inc(sum(float("12345.67") for _ in self._calls))
        metrics.payments_consumed.inc(0)
        for _ in self._calls:
            metrics.Active.requests -= 1
            metrics.request_duration.observe(0.003, "POST", "/v1/payments", 201)

    def log(self) -> None:
        """A line each, and one write for all."""

        async def log() -> None:
            for _ in self._calls:
                logs.request("POST", "/v1/payments", 201, 0.003, client="shop", trace_id=None)
            await asyncio.sleep(0)  # the write

        self._loop.run_until_complete(log())

    def trace(self, headers: dict[bytes, bytes]) -> None:
        """A span each, one of the batch, one of the statement; or none of them."""
        for call in self._calls:
            call.span = tracing.begin(headers)
            tracing.current()
        spans = [call.span for call in self._calls]
        with tracing.batch("create", spans), tracing.statement("create"):
            pass
        for call in self._calls:
            if call.span is not None:
                tracing.end(call.span, "POST", "/v1/payments", 201)


def microseconds(size: int, work: Callable[[], None]) -> float:
    """Returns the CPU time of one creation."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CREATIONS // size):
            work()
        best = min(best, time.thread_time() - began)
    return best / CREATIONS * 1e6


def main() -> None:
    """Prints a table."""
    report = os.fdopen(os.dup(1), "w")
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - as long as the process
    logs.configure(COLLECTOR)
    loop = asyncio.new_event_loop()
    batches = [Batch(loop, size) for size in SIZES]

    def measure(what: str, work: Callable[[Batch], None]) -> None:
        costs = [microseconds(batch.size, partial(work, batch)) for batch in batches]
        report.write(f"| {what} | {' | '.join(f'{cost:.1f}' for cost in costs)} |\n")

    measure("metrics", Batch.count)
    measure("a line of the log", Batch.log)
    measure("traces off", lambda batch: batch.trace(NO_HEADERS))
    tracing.configure(COLLECTOR)
    measure("traces on, this request not traced", lambda batch: batch.trace(UNTRACED))
    measure("traced", lambda batch: batch.trace(TRACED))
    report.flush()
    os._exit(0)  # there is no collector to wait for


if __name__ == "__main__":
    main()
