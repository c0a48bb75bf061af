"""What is said of each request, batch and statement: metrics, a line of the log, a span."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from opentelemetry.trace import Span

from payments import logs, metrics, tracing


def observe(
    method: str,
    route: str,
    status: int,
    seconds: float,
    client: str | None,
    *,
    span: Span | None = None,
) -> None:
    """Says that a request was answered."""
    known = method if method in metrics.METHODS else metrics.OTHER_METHOD
    trace_id = exemplar = None
    if span is not None:
        tracing.end(span, known, route, status)
        trace_id = tracing.trace_id(span)
        exemplar = trace_id if span.get_span_context().trace_flags.sampled else None
    metrics.request_duration.observe(seconds, known, route, status, trace_id=exemplar)
    logs.request(known, route, status, seconds, client=client, trace_id=trace_id)


class Rider(Protocol):
    """A call that rides in a batch."""

    since: float  # when it began to wait, on time.perf_counter's clock
    span: Span | None


def batch(operation: str, riders: Sequence[Rider]) -> AbstractContextManager[object]:
    """Says that these calls share what follows."""
    metrics.batch_size.observe(len(riders), operation)
    now = time.perf_counter()
    for rider in riders:
        metrics.batch_queue_wait.observe(now - rider.since, operation)
    return tracing.batch(operation, [rider.span for rider in riders])


@contextmanager
def statement(name: str) -> Iterator[None]:
    """Says that what follows is one statement."""
    began = time.perf_counter()
    try:
        with tracing.statement(name):
            yield
    finally:
        metrics.operation_duration.observe(time.perf_counter() - began, name)
