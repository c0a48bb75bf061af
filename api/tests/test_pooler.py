"""Behind PgBouncer in transaction mode; `make pooler-test` runs the whole suite there."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from laptop.postgres import Cluster
from payments.config import Settings
from tests.conftest import Database, client, problem, serve, settings_for
from tests.pooler import Poolers, connect_query, example

pytestmark = pytest.mark.slow

CALLERS = 64


@pytest.fixture
def poolers(cluster: Cluster) -> Iterator[Poolers]:
    """PgBouncers that end with the test."""
    with ExitStack() as stack:
        yield Poolers(cluster, stack)


def test_the_documented_limits_are_the_services_own() -> None:
    settings = Settings(database_url="postgresql://nowhere")
    assert f"connect_query='{connect_query(settings)}'" in example()["databases"]["payments"]
    assert float(example()["pgbouncer"]["query_wait_timeout"]) < settings.command_timeout_seconds


async def test_many_callers_share_its_connections(database: Database, poolers: Poolers) -> None:
    settings = poolers.before(settings_for(database))
    async with serve(settings) as url, client(url, await database.key()) as api:
        assert (await api.send("GET", "/readyz")).status_code == 200

        async def call(number: int) -> None:
            body, key = {"payment": number}, f"key-{number}"
            made = await api.create(body, Idempotency_Key=key)
            again = await api.create(body, Idempotency_Key=key)
            assert made.status_code == again.status_code == 201
            assert made.content == again.content
            path = made.headers["Location"]
            assert (await api.send("GET", path)).content == made.content
            consumed = await api.send("PATCH", path, '{"status": "consumed"}')
            assert consumed.json()["status"] == "consumed"
            assert (await api.send("DELETE", path)).status_code == 204

        await asyncio.gather(*[call(number) for number in range(CALLERS)])
        page = await api.send("GET", "/v1/payments")
    assert page.json() == {"items": [], "next": None}
    [(rows, deleted)] = await database.fetch("SELECT count(*), count(deleted_at) FROM payments")
    assert rows == deleted == CALLERS


async def test_one_that_lets_payments_be_lost_is_told(
    database: Database, poolers: Poolers, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = connect_query(settings_for(database))
    weak = documented.replace("synchronous_commit = on", "synchronous_commit = off")
    monkeypatch.setattr("tests.pooler.connect_query", lambda settings: weak)
    settings = poolers.before(settings_for(database))
    async with serve(settings) as url, client(url, "none") as api:
        refusal = problem(await api.send("GET", "/readyz"), 503, "not-ready")
    assert "synchronous_commit is off" in refusal["detail"]


async def test_one_that_sets_other_limits_is_told(database: Database, poolers: Poolers) -> None:
    settings = poolers.before(settings_for(database))
    other = msgspec.structs.replace(settings, lock_timeout_seconds=1.9)
    async with serve(other) as url, client(url, "none") as api:
        refusal = problem(await api.send("GET", "/readyz"), 503, "not-ready")
    assert "lock_timeout" in refusal["detail"]
    assert "statement_timeout" not in refusal["detail"]
