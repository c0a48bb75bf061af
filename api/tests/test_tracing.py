"""Traces, as a collector gets them from a running service."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests import PATIENCE_SECONDS
from tests.collector import CLIENT, ERROR, SERVER, Collector, Link, Span, collecting
from tests.command import free_port
from tests.conftest import (
    API_DIRECTORY,
    Api,
    Database,
    client,
    serve_process,
)

CARD = "4111111111111111"

ALL = {"PAYMENTS_TRACE_SAMPLE_RATIO": "1"}
NONE = {"PAYMENTS_TRACE_SAMPLE_RATIO": "0"}


@asynccontextmanager
async def traced(
    database: Database, collector: Collector, variables: dict[str, str], log: Path | None = None
) -> AsyncIterator[tuple[Api, str]]:
    """Runs the service with a collector, which has every span when it has ended."""
    variables = {"PAYMENTS_OTLP_ENDPOINT": collector.url, **variables}
    with (log or Path("/dev/null")).open("wb") as file:
        async with (
            serve_process(database, variables, stdout=file) as (url, metrics, _),
            client(url, await database.key()) as api,
        ):
            yield api, metrics


def parent(number: int, *, sampled: bool = True) -> dict[str, str]:
    """Returns the header of a caller whose trace and span have this number."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-0{int(sampled)}"}


def of(collector: Collector, number: int) -> list[Span]:
    """Returns the spans of the caller's trace with this number."""
    return [span for span in collector.spans if int(span.trace_id, 16) == number]


def named(collector: Collector, name: str) -> list[Span]:
    """Returns the spans of this name."""
    return [span for span in collector.spans if span.name == name]


pytestmark = pytest.mark.usefixtures("command")


async def test_a_request_is_part_of_its_callers_trace(database: Database) -> None:
    async with collecting() as collector, traced(database, collector, NONE) as (api, _):
        await api.send("GET", "/v1/payments?limit=1", **parent(7))
        await api.send("GET", "/nowhere", **parent(8))
    spans = {span.name: span for span in of(collector, 7)}
    request, statement = spans["GET /v1/payments"], spans["list"]
    assert request.kind == SERVER
    assert int(request.parent_span_id, 16) == 7
    assert request.values == {
        "http.request.method": "GET",
        "http.route": "/v1/payments",
        "http.response.status_code": "200",
    }
    assert statement.kind == CLIENT
    assert statement.parent_span_id == request.span_id
    assert statement.values == {"db.system.name": "postgresql", "db.operation.name": "list"}
    assert (
        request.start_time_unix_nano
        <= statement.start_time_unix_nano
        <= statement.end_time_unix_nano
        <= request.end_time_unix_nano
    )
    [nowhere] = of(collector, 8)
    assert nowhere.name == "GET"
    assert collector.addresses == {"/v1/traces"}


async def test_a_batch_and_its_requests_link_to_each_other(database: Database) -> None:
    numbers = range(1, 31)
    async with (
        collecting() as collector,
        traced(database, collector, NONE) as (api, metrics),
        database.connect() as holder,
        httpx.AsyncClient() as http,
    ):
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK payments IN SHARE MODE")
        creating = [asyncio.create_task(api.create({"payment": n}, **parent(n))) for n in numbers]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "active_requests 30.0" not in (await http.get(metrics)).text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await transaction.rollback()
        assert {answer.status_code for answer in await asyncio.gather(*creating)} == {201}
    batches = {Link(span.trace_id, span.span_id): span for span in named(collector, "batch create")}
    assert len(batches) < len(numbers)
    assert sum(int(span.values["payments.batch.size"]) for span in batches.values()) == 30
    for number in numbers:
        [request] = [span for span in of(collector, number) if span.name == "POST /v1/payments"]
        [link] = request.links
        batch = batches[link]
        assert Link(request.trace_id, request.span_id) in batch.links
    for batch in batches.values():
        assert batch.parent_span_id == ""
        assert len(batch.links) == int(batch.values["payments.batch.size"])
        [statement] = [s for s in named(collector, "create") if s.trace_id == batch.trace_id]
        assert statement.parent_span_id == batch.span_id


async def test_the_caller_decides_and_else_the_ratio(database: Database) -> None:
    async with collecting() as collector, traced(database, collector, NONE) as (api, _):
        for number in range(1, 21):
            await api.create({"payment": 1}, **parent(number, sampled=number % 2 == 0))
            await api.payment()
    requests = named(collector, "POST /v1/payments")
    assert {int(span.trace_id, 16) for span in requests} == set(range(2, 21, 2))
    assert len(named(collector, "batch create")) == len(requests) == 10
    async with collecting() as collector:
        variables = {"PAYMENTS_TRACE_SAMPLE_RATIO": "0.5"}
        async with traced(database, collector, variables) as (api, _):
            for number in range(1, 201):
                await api.http.get("/livez")
                await api.send("GET", "/livez", **parent(number, sampled=False))
    assert 50 < len(named(collector, "GET /livez")) < 150


async def test_metrics_and_log_lead_to_the_trace(database: Database, tmp_path: Path) -> None:
    async with (
        collecting() as collector,
        httpx.AsyncClient() as http,
        traced(database, collector, NONE, tmp_path / "log") as (api, metrics),
    ):
        await api.send("GET", "/v1/payments", **parent(7))
        await api.send("GET", "/v1/payments", **parent(8, sampled=False))
        await database.fetch("DROP TABLE payments")
        await api.send("GET", "/v1/payments", **parent(9))
        open_metrics = await http.get(metrics, headers={"Accept": "application/openmetrics-text"})
        plain = await http.get(metrics)
    examples = [
        (family.name, int(sample.exemplar.labels["trace_id"], 16))
        for family in text_string_to_metric_families(open_metrics.text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    ]
    durations = "http_server_request_duration_seconds"
    assert sorted(examples) == [(durations, 7), (durations, 9)]
    assert "trace_id" not in plain.text
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    requests = [line for line in lines if line.get("route") == "/v1/payments"]
    assert [int(line["trace_id"], 16) for line in requests] == [7, 8, 9]
    [failed] = [line for line in lines if "exception" in line]
    assert int(failed["trace_id"], 16) == 9


async def test_no_header_is_logged(database: Database, tmp_path: Path) -> None:
    """OpenTelemetry warns of a `tracestate` that it cannot read, and quotes it."""
    log = tmp_path / "log"
    async with collecting() as collector, traced(database, collector, ALL, log) as (api, _):
        await api.send("GET", "/v1/payments", **parent(7), tracestate=f"card {CARD}")
    assert "/v1/payments" in log.read_text()
    assert CARD not in log.read_text()


async def test_a_failure_is_marked_and_says_nothing_of_the_payment(database: Database) -> None:
    await database.fetch("ALTER TABLE payments ADD CHECK (payment < 0) NOT VALID")
    async with collecting() as collector, traced(database, collector, ALL) as (api, _):
        body = {"payment": 1, "data": CARD}
        assert (await api.create(body, Idempotency_Key=CARD)).status_code == 500
    [request] = named(collector, "POST /v1/payments")
    [batch] = named(collector, "batch create")
    [statement] = named(collector, "create")
    assert {span.status["code"] for span in (request, batch, statement)} == {ERROR}
    assert request.values["error.type"] == "500"
    assert statement.values["error.type"] == "CheckViolationError"
    assert not any(span.events for span in collector.spans)
    assert not any(CARD.encode() in body for body in collector.bodies)


async def test_a_collector_that_is_away_costs_nobody_anything(database: Database) -> None:
    variables = ALL | {"PAYMENTS_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    async with serve_process(database, variables) as (url, _, process):
        async with client(url, await database.key()) as api:
            for _ in range(20):
                await api.payment()
        process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 0


@pytest.mark.in_process  # looks at its modules
def test_who_does_not_trace_loads_nothing_of_it() -> None:
    code = """
import sys
from payments import app, cli, config, server, tracing
tracing.configure(config.Settings(database_url="postgresql://host/name"))
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "urllib3"))])
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=API_DIRECTORY, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.in_process  # looks at its process
async def test_memory(database: Database) -> None:
    async with serve_process(database) as (url, _, process):
        async with client(url, await database.key()) as api:
            await api.payment()
        assert psutil.Process(process.pid).memory_info().rss < 80_000_000
