"""Traces, by OpenTelemetry, sent to a collector; without one nothing is traced.

A request's span is part of its caller's trace. Callers share statements, and a span has one parent:
so a batch is a trace of its own, and it and the requests that ride in it link to each other.
No span holds what a caller sent, nor what an exception says.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from payments import __version__
from payments.config import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult

# What the collector has to take a bundle of spans, and the end of the process waits for the last.
_EXPORT_SECONDS = 3

_PARENT = ("traceparent", "tracestate")  # W3C Trace Context

_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None
_NOTHING = nullcontext()


def configure(settings: Settings) -> None:
    """Traces from now on, if there is a collector; what is left is sent when the process ends."""
    global _tracer  # noqa: PLW0603 - one process, one collector
    if not settings.otlp_endpoint:
        return
    # Imported here: a quarter of a second and 10 MB of memory, for those who trace.
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # It would log what a caller sent as `tracestate`, if that is not well formed.
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
    service = {"service.name": "payments", "service.version": __version__}
    provider = TracerProvider(_sampler(settings.trace_sample_ratio), Resource.create(service))
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_EXPORT_SECONDS))
    )
    _tracer = provider.get_tracer("payments")


def _sampler(ratio: float) -> "Sampler":
    from opentelemetry.sdk.trace import sampling

    class Root(sampling.TraceIdRatioBased):
        """Takes a share of the requests, and each batch in which one of those rides."""

        def should_sample(self, *arguments: Any, **named: Any) -> "SamplingResult":
            if named["links"]:
                return sampling.ALWAYS_ON.should_sample(*arguments, **named)
            return super().should_sample(*arguments, **named)

    return sampling.ParentBased(Root(ratio))


def begin(headers: Mapping[bytes, bytes]) -> Span | None:
    """Begins a request's span in the trace that its headers name, for the rest of its task."""
    if _tracer is None:
        return None
    sent = {name: headers.get(name.encode(), b"").decode("latin-1") for name in _PARENT}
    parent = _propagator.extract(sent, context.Context())
    span = _tracer.start_span("request", parent, SpanKind.SERVER)
    context.attach(trace.set_span_in_context(span, parent))
    return span


def end(span: Span, method: str, route: str, status: int) -> None:
    """Ends a request's span."""
    span.update_name(f"{method} {route}".rstrip())
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", str(status))
    span.end()


def current() -> Span | None:
    """Returns the span under which this task works."""
    return None if _tracer is None else trace.get_current_span()


def trace_id(span: Span | None) -> str | None:
    """Returns the id of a span's trace in its usual form, 32 hexadecimal digits."""
    if span is None or not span.get_span_context().is_valid:
        return None
    return trace.format_trace_id(span.get_span_context().trace_id)


def batch(operation: str, riders: Sequence[Span | None]) -> AbstractContextManager[object]:
    """Gives a batch its span, linked with those of the requests that ride in it."""
    return _NOTHING if _tracer is None else _batch(_tracer, operation, riders)


def statement(name: str) -> AbstractContextManager[object]:
    """Gives a statement its span."""
    if _tracer is None:
        return _NOTHING
    attributes = {"db.system.name": "postgresql", "db.operation.name": name}
    return _span(_tracer, name, SpanKind.CLIENT, attributes)


@contextmanager
def _batch(tracer: trace.Tracer, operation: str, riders: Sequence[Span | None]) -> Iterator[None]:
    sampled = [span for span in riders if span is not None and span.is_recording()]
    links = [Link(span.get_span_context()) for span in sampled]
    size = {"payments.batch.size": len(riders)}
    name, alone = f"batch {operation}", context.Context()
    with _span(tracer, name, SpanKind.INTERNAL, size, alone, links) as span:
        for rider in sampled:
            rider.add_link(span.get_span_context())
        yield


@contextmanager
def _span(  # noqa: PLR0917 - OpenTelemetry's own order
    tracer: trace.Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, str | int],
    parent: context.Context | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name,
        parent,
        kind,
        attributes,
        links,
        record_exception=False,  # its message can quote a payment
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise
