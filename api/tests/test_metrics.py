"""`/metrics`: what is counted, under which names, and that no caller can make series."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from itertools import cycle

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from payments import __version__
from tests import PATIENCE_SECONDS
from tests.conftest import API_DIRECTORY, Api, Database, client, problem, serve_process

pytestmark = pytest.mark.usefixtures("command")

PAGE = API_DIRECTORY.parent / "docs" / "observability.md"

CONSUME = '{"status": "consumed"}'

Described = tuple[str, str, frozenset[str]]  # name, type, labels


async def everything_once(api: Api) -> None:
    """Does what is counted: all kinds of writes, some of them twice, and some that are refused."""
    made = await api.payment("12.34")
    await api.create({"payment": 1}, Idempotency_Key="a")
    await api.create({"payment": 1}, Idempotency_Key="a")
    await api.send("POST", "/v1/consumptions", "{}", Idempotency_Key="a")
    await api.send("POST", "/v1/consumptions", "{}", Idempotency_Key="a")
    await api.send("PATCH", f"/v1/payments/{made['id']}", CONSUME)
    await api.send("DELETE", f"/v1/payments/{made['id']}")
    await api.send("POST", "/create", CONSUME)
    await api.send("GET", "/v1/payments/424242")
    await api.send("GET", "/secret/424242")
    await api.send("PROPFIND", "/v1/payments")
    await api.send("BREW", "/v1/payments")  # the parser knows no such method
    await api.create({"payment": -1})
    await api.send("GET", "/v1/payments")
    await api.send("GET", "/v1/payments", Accept="application/x-ndjson")


async def scrape(url: str, accept: str = "text/plain") -> str:
    async with httpx.AsyncClient() as http:
        answer = await http.get(url, headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith(accept)
        return answer.text


async def test_what_is_counted(database: Database) -> None:
    async with (
        serve_process(database, {"PAYMENTS_REVISION": "c0ffee"}) as (url, metrics, _),
        client(url, await database.key()) as api,
    ):
        await everything_once(api)
        problem(await api.send("GET", "/metrics"), 404, "not-found")
        text = await scrape(metrics)
        for path in ("/", "/livez", "/v1/payments"):
            other = await api.http.get(metrics.replace("/metrics", path))
            assert not other.headers["Content-Type"].startswith("application/json")
    # No path, no key and no made-up method can make a series.
    assert "424242" not in text
    assert "secret" not in text
    assert "BREW" not in text
    assert "PROPFIND" not in text
    values = dict(re.findall(r"^(payments_\w+_total(?:\{.*\})?) (\S+)$", text, re.MULTILINE))
    assert values == {
        "payments_created_total": "3.0",
        "payments_created_value_total": "13.34",
        "payments_consumed_total": "2.0",
        "payments_deleted_total": "1.0",
        "payments_idempotent_replays_total": "2.0",
        'payments_old_route_calls_total{client="shop",http_route="/create"}': "1.0",
        'payments_refusals_total{reason="already-consumed"}': "1.0",
        'payments_refusals_total{reason="payment-not-found"}': "1.0",
        'payments_refusals_total{reason="not-found"}': "2.0",
        'payments_refusals_total{reason="method-not-allowed"}': "1.0",
        'payments_refusals_total{reason="malformed-request"}': "1.0",
        'payments_refusals_total{reason="invalid-request"}': "1.0",
    }
    routes = set(re.findall(r'http_route="([^"]*)"', text))
    assert routes == {
        "/v1/payments",
        "/v1/payments stream",
        "/v1/payments/{id}",
        "/v1/consumptions",
        "/create",
        "/livez",
        "",
    }
    assert (
        'http_server_request_duration_seconds_count{http_request_method="POST",'
        'http_response_status_code="201",http_route="/v1/payments"} 3.0' in text
    )
    assert f'payments_build_info{{revision="c0ffee",version="{__version__}"}} 1.0' in text


async def test_statements_and_batches(database: Database) -> None:
    async with (
        serve_process(database, {"PAYMENTS_POOL_SIZE": "5"}) as (url, metrics, _),
        client(url, await database.key()) as api,
    ):
        await asyncio.gather(*(api.payment() for _ in range(40)))
        await api.send("GET", "/v1/payments")
        text = await scrape(metrics)

    def value(series: str) -> float:
        return float(text.split(f"\n{series} ")[1].split("\n")[0])

    statements = value('db_client_operation_duration_seconds_count{db_operation_name="create"}')
    assert 1 <= statements <= 40
    assert value('payments_batch_size_count{operation="create"}') == statements
    assert value('payments_batch_size_sum{operation="create"}') == 40
    assert value('payments_batch_queue_wait_seconds_count{operation="create"}') == 40
    assert value('db_client_operation_duration_seconds_count{db_operation_name="list"}') == 1
    assert value("db_client_connection_max") == 5
    assert value('db_client_connection_count{db_client_connection_state="used"}') == 0
    assert value('db_client_connection_count{db_client_connection_state="idle"}') >= 1
    assert value("db_client_connection_pending_requests") == 0
    assert value("db_client_connection_wait_time_seconds_count") >= statements + 1
    assert value("db_client_connection_timeouts_total") == 0


async def test_a_pool_that_has_no_connection_left(database: Database) -> None:
    waits = {
        "PAYMENTS_POOL_SIZE": "1",
        "PAYMENTS_ACQUIRE_TIMEOUT_SECONDS": "6.0",
        "PAYMENTS_CONNECT_TIMEOUT_SECONDS": "5.9",
    }
    async with (
        serve_process(database, waits) as (url, metrics, _),
        client(url, await database.key()) as api,
        database.connect() as holder,
    ):
        await api.send("GET", "/v1/payments")
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE payments IN EXCLUSIVE MODE")
        creating = asyncio.create_task(api.create({"payment": 1}))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while 'state="used"} 1.0' not in await scrape(metrics):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            listing = asyncio.create_task(api.send("GET", "/v1/payments"))
            while "pending_requests 1.0" not in await scrape(metrics):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        problem(await listing, 503, "database-unavailable")
        await transaction.rollback()
        assert (await creating).status_code == 201
        text = await scrape(metrics)
    assert "db_client_connection_timeouts_total 1.0" in text
    assert 'payments_refusals_total{reason="database-unavailable"} 1.0' in text


def described() -> Iterator[Described]:
    """Gives what the page's tables say of each metric."""
    table = PAGE.read_text().split("## Metrics")[1].split("\n## ")[0]
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", table, re.MULTILINE):
        yield name, kind, frozenset(re.findall(r"`(\w+)`", labels))


def emitted(text: str) -> Iterator[Described]:
    """Gives what an exposition says of each metric that has a series."""
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            yield name, family.type, frozenset(sample.labels.keys() - {"le"})


async def test_the_page_has_every_metric_and_no_other(database: Database) -> None:
    async with (
        serve_process(database) as (url, metrics, _),
        client(url, await database.key()) as api,
    ):
        await everything_once(api)
        text = await scrape(metrics)
    rows = [*described()]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(emitted(text))


async def pour(url: str, requests: Iterable[bytes]) -> None:
    """Sends all requests over one connection without waiting, and reads the answers to the end."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    reading = asyncio.create_task(reader.read())
    for request in requests:
        writer.write(request)
        await writer.drain()
    writer.write_eof()
    await reading
    writer.close()
    await writer.wait_closed()


@pytest.mark.slow
async def test_ten_thousand_ids_paths_and_methods_make_few_series(database: Database) -> None:
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MERGE")
    paths = ("/v1/payments/{}", "/{}", "/delete/{}", "/v1/payments?limit={}")
    async with (
        serve_process(database) as (url, metrics, _),
        client(url, key := await database.key()) as api,
    ):
        await everything_once(api)
        before = (await scrape(metrics)).splitlines()
        await pour(
            url,
            (
                f"{method} {path.format(number)} HTTP/1.1\r\nHost: {number}.example\r\n"
                f"Authorization: Bearer {key}\r\nX-Request-Id: {number}\r\n\r\n".encode()
                for number, method, path in zip(range(10_000), cycle(methods), cycle(paths))
            ),
        )
        # The parser knows none of these, and ends the connection.
        for number in range(0, 10_000, 100):
            made_up = (b"M%d / HTTP/1.1\r\n\r\n" % (number + i) for i in range(100))
            await asyncio.gather(*(pour(url, [request]) for request in made_up))
        after = (await scrape(metrics)).splitlines()
    assert len(before) < len(after) <= 1000
