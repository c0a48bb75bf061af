"""`POST /v1/consumptions`: each payment is given to one caller."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from payments import db, metrics, queries
from tests import PATIENCE_SECONDS
from tests.conftest import (
    CLIENT,
    Api,
    Database,
    Serve,
    client,
    problem,
    settings_for,
    waits_for_a_lock,
)

PATH = "/v1/consumptions"


async def _consume(api: Api, limit: int | None = None, **headers: str) -> httpx.Response:
    body = "{}" if limit is None else json.dumps({"limit": limit})
    answer = await api.send("POST", PATH, body, **headers)
    assert answer.status_code == 200, answer.text
    assert [*answer.json()] == ["items"]
    return answer


def _ids(answer: httpx.Response) -> list[int]:
    return [item["id"] for item in answer.json()["items"]]


async def _create(api: Api, count: int) -> list[int]:
    return [(await api.payment(data={"n": n}))["id"] for n in range(count)]


async def test_the_oldest_and_as_they_are_read(api: Api) -> None:
    first, second, third = await _create(api, 3)
    [item] = (await _consume(api)).json()["items"]
    assert item["id"] == first
    assert item["status"] == "consumed"
    assert item["consumed_by"] == CLIENT
    assert item["consumed_at"] == item["updated_at"]
    assert (await api.send("GET", f"/v1/payments/{first}")).json() == item
    assert _ids(await _consume(api, 1000)) == [second, third]
    assert _ids(await _consume(api, 1000)) == []


async def test_what_is_consumed_or_deleted_is_left_out(api: Api) -> None:
    consumed, deleted, left = await _create(api, 3)
    await api.send("PATCH", f"/v1/payments/{consumed}", '{"status": "consumed"}')
    await api.send("DELETE", f"/v1/payments/{deleted}")
    assert _ids(await _consume(api, 10)) == [left]


async def test_consumptions_are_counted_once_for_each_payment(api: Api) -> None:
    await _create(api, 3)
    before = metrics.payments_consumed._value.get()
    await _consume(api, 2, Idempotency_Key="a")
    await _consume(api, 2, Idempotency_Key="a")
    await _consume(api, 2)
    assert metrics.payments_consumed._value.get() - before == 3


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        "1",
        '{"limit": 0}',
        '{"limit": 1001}',
        '{"limit": 1.5}',
        '{"limit": "1"}',
        '{"limit": null}',
        '{"limit": true}',
        '{"most": 1}',
        '{"limit": 1, "status": "inserted"}',
    ],
)
async def test_refused(api: Api, body: str) -> None:
    [id] = await _create(api, 1)
    problem(await api.send("POST", PATH, body), 422, "invalid-request")
    assert _ids(await _consume(api)) == [id]


async def test_an_empty_body_is_no_json(shared: Api) -> None:
    problem(await shared.send("POST", PATH, ""), 400, "malformed-request")


async def test_large_payments_end_an_answer_early(start: Serve, database: Database) -> None:
    url = await start(page_limit_bytes=5000)
    async with client(url, await database.key()) as api:
        ids = [(await api.payment(data="x" * 2000))["id"] for _ in range(5)]
        assert _ids(await _consume(api, 10, Idempotency_Key="a")) == ids[:3]
        assert _ids(await _consume(api, 10)) == ids[3:]
        assert _ids(await _consume(api, 10, Idempotency_Key="a")) == ids[:3]


# Idempotency-Key


async def _replays(first: httpx.Response, second: httpx.Response) -> None:
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.content == first.content


async def test_a_repeat_with_its_key_has_the_first_answer(api: Api, database: Database) -> None:
    ids = await _create(api, 5)
    first = await _consume(api, 3, Idempotency_Key="key")
    assert _ids(first) == ids[:3]
    await _replays(first, await _consume(api, 3, Idempotency_Key="key"))
    await api.send("DELETE", f"/v1/payments/{ids[1]}")
    await _replays(first, await _consume(api, 3, Idempotency_Key="key"))
    async with client(api.url, await database.key("other")) as other:
        assert _ids(await _consume(other, 3, Idempotency_Key="key")) == ids[3:]


async def test_another_limit_with_the_same_key(api: Api) -> None:
    ids = await _create(api, 5)
    await _consume(api, 3, Idempotency_Key="key")
    body = '{"limit": 2}'
    refusal = await api.send("POST", PATH, body, Idempotency_Key="key")
    problem(refusal, 422, "idempotency-key-reused")
    assert _ids(await _consume(api, 10)) == ids[3:]


async def test_an_empty_answer_is_not_remembered(api: Api) -> None:
    assert _ids(await _consume(api, 3, Idempotency_Key="key")) == []
    ids = await _create(api, 2)
    answer = await _consume(api, 5, Idempotency_Key="key")
    assert "Idempotent-Replayed" not in answer.headers
    assert _ids(answer) == ids


async def test_16_repeats_at_once_consume_once(start: Serve, database: Database) -> None:
    key = await database.key()
    apis = [Api(await start(), key), Api(await start(), key)]
    async with apis[0].http, apis[1].http:
        ids = await _create(apis[0], 30)
        answers = await asyncio.gather(
            *(_consume(apis[n % 2], 20, Idempotency_Key="key") for n in range(16))
        )
        assert {answer.content for answer in answers} == {answers[0].content}
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        assert _ids(answers[0]) == ids[:20]
        assert _ids(await _consume(apis[0], 1000)) == ids[20:]


async def test_a_repeat_waits_for_a_first_call_that_is_not_committed(
    api: Api, database: Database
) -> None:
    """It finds nothing left to consume, and must not answer that nothing was consumed."""
    ids = await _create(api, 2)
    async with database.connect("payments_app") as other:
        transaction = other.transaction()
        await transaction.start()
        call = queries.Dequeue(CLIENT, "key", 2, 1_000_000)
        await queries.dequeue(other, call, queries.FIRST)
        repeat = asyncio.create_task(_consume(api, 2, Idempotency_Key="key"))
        await waits_for_a_lock(database)
        await transaction.commit()
    answer = await repeat
    assert _ids(answer) == ids
    assert answer.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("consumer", [CLIENT, "other"])
@pytest.mark.parametrize("deleted", [False, True])
async def test_a_creation_after_the_consumption_began_is_replayed(
    api: Api, database: Database, consumer: str, deleted: bool
) -> None:
    """It is consumed at the very time of its creation, as one that an old client creates so."""
    await database.key("other")
    async with database.connect("payments_app") as early, early.transaction():
        await early.execute("SELECT")
        body = {"payment": 1}
        first = await api.send("POST", "/v1/payments", json.dumps(body), Idempotency_Key="key")
        call = queries.Dequeue(consumer, None, 1, 1_000_000)
        [consumed] = (await queries.dequeue(early, call, queries.FIRST)).payments
    assert consumed.consumed_at == consumed.created_at
    if deleted:
        await api.send("DELETE", f"/v1/payments/{consumed.id}")
    second = await api.send("POST", "/v1/payments", json.dumps(body), Idempotency_Key="key")
    assert second.status_code == 201, second.text
    await _replays(first, second)


# Many at once


async def test_each_payment_is_given_to_one_of_16_workers(start: Serve, database: Database) -> None:
    urls = [await start(), await start()]
    keys = [await database.key(f"worker-{n}") for n in range(4)]
    apis = [Api(urls[n % 2], keys[n % 4]) for n in range(16)]
    ids = await _create(apis[0], 200)
    given: list[int] = []

    async def work(api: Api) -> None:
        while found := _ids(await _consume(api, 7)):
            given.extend(found)

    try:
        await asyncio.gather(*map(work, apis))
        # The last ones can have been skipped while another worker had locked them.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(given) < len(ids):
                await work(apis[0])
    finally:
        for api in apis:
            await api.http.aclose()
    assert sorted(given) == ids


async def test_locked_payments_are_skipped_and_found_again(api: Api, database: Database) -> None:
    locked, *rest = await _create(api, 3)
    async with database.connect() as holder, holder.transaction():
        await holder.execute("SELECT FROM payments WHERE id = $1 FOR UPDATE", locked)
        assert _ids(await _consume(api, 10)) == rest
    await _until_consumed(api, [locked])


async def test_a_payment_that_appears_before_the_others_is_found(
    api: Api, database: Database
) -> None:
    """Its transaction was slower than theirs, or it was imported."""
    await _create(api, 3)
    await _consume(api, 2)
    [late] = await database.fetch(
        "INSERT INTO payments (created_by, created_at, updated_at)"
        " VALUES ('shop', '2026-01-01', '2026-01-01') RETURNING id"
    )
    await _consume(api, 1)
    await _until_consumed(api, [late["id"]])


async def _until_consumed(api: Api, ids: list[int]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := _ids(await _consume(api, 10))):  # noqa: ASYNC110 - the event
            await asyncio.sleep(0.01)
    assert found == ids


# The head of the queue

# The walk from the first payment on meets the one of January, and is cancelled.
SLOW_AT_THE_HEAD = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_sleep(60);
  RETURN NEW;
END
$$;
CREATE TRIGGER slow BEFORE UPDATE ON payments
FOR EACH ROW WHEN (OLD.created_at < '2026-02-01') EXECUTE FUNCTION slow();
"""

FILL = """
INSERT INTO payments (payment, created_by, created_at, updated_at)
SELECT 1, 'shop', at, at
FROM generate_series(1, $1::int) AS n
CROSS JOIN LATERAL (SELECT timestamptz '2026-01-01 00:00:00Z' + n * interval '1 ms' AS at) AS t
"""

# Of 10 payments: their rows, and their entries of each index.
BUFFERS = 400


@pytest.mark.parametrize("known", [True, False])  # a new table has no statistics for a minute
async def test_the_cost_does_not_grow_with_what_was_consumed(
    database: Database, known: bool
) -> None:
    """Also where vacuum may remove nothing: a transaction is older than all consumptions."""
    await database.key()
    async with (
        database.connect("payments_app") as connection,
        database.connect() as old,
        old.transaction(isolation="repeatable_read"),
    ):
        await old.execute("SELECT FROM payments LIMIT 1")
        await database.fetch(FILL, 20_000)
        if known:
            await database.fetch("ANALYZE payments")
        for name, value in db.session(settings_for(database)).items():
            await connection.execute(f"SET {name} = {value}")
        types = "text, text, bigint, timestamptz, bigint, bigint"
        await connection.execute(f"PREPARE dequeue ({types}) AS {queries.DEQUEUE}")

        async def buffers(limit: int, after: str) -> tuple[int, int]:
            explained = await connection.fetchval(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
                f" EXECUTE dequeue ('{CLIENT}', NULL, {limit}, {after}, 1000000)"
            )
            top: dict[str, Any] = json.loads(explained)[0]["Plan"]
            return top["Actual Rows"], top["Shared Hit Blocks"] + top["Shared Read Blocks"]

        rows, fresh = await buffers(10, "'-infinity', 0")
        assert (rows, fresh < BUFFERS) == (10, True), fresh
        await buffers(10_000, "'-infinity', 0")
        position = await queries.last_consumed(connection)
        rows, later = await buffers(10, f"'{position[0]}', {position[1]}")
        assert (rows, later < BUFFERS) == (10, True), later


async def test_a_walk_that_takes_too_long_does_not_fail_the_call(
    start: Serve, database: Database
) -> None:
    """A new process begins near what was consumed last, and the call consumes from there."""
    key = await database.key()
    async with client(await start(), key) as api:
        ids = await _create(api, 3)
        assert _ids(await _consume(api)) == ids[:1]
    await database.fetch(
        "INSERT INTO payments (created_by, created_at, updated_at)"
        " VALUES ('shop', '2026-01-01', '2026-01-01')"
    )
    async with database.connect() as connection:
        await connection.execute(SLOW_AT_THE_HEAD)
    url = await start(lock_timeout_seconds=0.2, statement_timeout_seconds=0.3)
    async with client(url, key) as api:
        assert _ids(await _consume(api, 2)) == ids[1:]
        # One is left that no call reaches: that none is, would be false.
        problem(await api.send("POST", PATH, "{}"), 503, "database-unavailable")


async def test_a_replay_locks_nothing(api: Api, database: Database) -> None:
    await _create(api, 3)
    call = queries.Dequeue(CLIENT, "key", 2, 1_000_000)
    await _consume(api, 2, Idempotency_Key="key")
    async with database.connect("payments_app") as replay, replay.transaction():
        assert (await queries.dequeue(replay, call, queries.FIRST)).first_limit == 2
        assert len(_ids(await _consume(api, 2))) == 1
