"""`POST /v1/payments`: what makes a payment, and how a key makes it only once."""

import asyncio
import re
from datetime import datetime
from typing import Any

import pytest

from payments import metrics
from tests import PATIENCE_SECONDS
from tests.conftest import (
    CLIENT,
    IMPATIENT,
    Api,
    Database,
    Serve,
    client,
    problem,
    waits_for_a_lock,
)

KEY = "order-1"


async def test_the_answer(api: Api) -> None:
    answer = await api.create({"payment": 12345.67, "data": {"order": 1}})
    assert answer.status_code == 201
    assert answer.headers["Content-Type"] == "application/json"
    made = answer.json()
    assert [*made] == [
        "id",
        "status",
        "data",
        "payment",
        "created_at",
        "created_by",
        "updated_at",
        "consumed_at",
        "consumed_by",
    ]
    assert made["created_by"] == CLIENT
    assert made["consumed_at"] is made["consumed_by"] is None
    assert made["status"] == "inserted"
    assert made["data"] == {"order": 1}
    assert made["payment"] == 12345.67
    assert made["created_at"] == made["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", made["created_at"])
    age = datetime.now().astimezone() - datetime.fromisoformat(made["created_at"])
    assert abs(age.total_seconds()) < 60
    assert answer.headers["Location"] == f"/v1/payments/{made['id']}"
    assert re.fullmatch(r'"[^"]+"', answer.headers["ETag"])
    read = await api.send("GET", answer.headers["Location"])
    assert read.content == answer.content
    assert read.headers["ETag"] == answer.headers["ETag"]
    assert "Idempotent-Replayed" not in answer.headers


async def test_the_row_says_who(api: Api, database: Database) -> None:
    made = await api.payment()
    [row] = await database.fetch("SELECT * FROM payments")
    assert row["id"] == made["id"]
    assert row["created_by"] == CLIENT
    assert row["idempotency_key"] is None
    for column in ("consumed_at", "consumed_by", "deleted_at", "deleted_by"):
        assert row[column] is None


async def test_data_is_an_empty_object_by_default(shared: Api) -> None:
    assert (await shared.create({"payment": 1})).json()["data"] == {}


async def test_null_is_data_too(shared: Api) -> None:
    assert (await shared.create({"payment": 1, "data": None})).json()["data"] is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "payment"),
        ({"data": {}}, "payment"),
        ({"payment": None}, "payment"),
        ({"payment": 1, "status": "inserted"}, "status"),
        ({"payment": 1, "status": "consumed"}, "status"),
        ({"payment": 1, "id": 7}, "id"),
        ({"payment": 1, "created_at": "2026-01-01T00:00:00Z"}, "created_at"),
        ({"payment": 1, "Data": {}}, "Data"),
        ({"payment": 1, "": {}}, "unknown"),
    ],
    ids=str,
)
async def test_refused(shared: Api, body: Any, says: str) -> None:
    assert says in problem(await shared.create(body), 422, "invalid-request")["detail"]


async def test_ids_grow(api: Api) -> None:
    ids = [(await api.payment())["id"] for _ in range(3)]
    assert ids == sorted(set(ids))


async def test_128_at_once(api: Api, database: Database) -> None:
    answers = await asyncio.gather(*(api.create({"payment": n, "data": n}) for n in range(128)))
    assert {answer.status_code for answer in answers} == {201}
    for number, answer in enumerate(answers):
        assert (answer.json()["payment"], answer.json()["data"]) == (number, number)
    rows = await database.fetch("SELECT id, payment FROM payments")
    assert {row["id"]: int(row["payment"]) for row in rows} == {
        answer.json()["id"]: number for number, answer in enumerate(answers)
    }


# Idempotency-Key


async def test_a_replay_is_the_first_answer(api: Api, database: Database) -> None:
    body = {"payment": "1.234,50", "data": {"a": [1, "é"]}}
    first = await api.create(body, Idempotency_Key=KEY)
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers

    async def check_replay() -> None:
        again = await api.create(body, Idempotency_Key=KEY)
        assert again.status_code == 201
        assert again.content == first.content
        assert again.headers["Idempotent-Replayed"] == "true"
        for name in ("Location", "ETag", "Content-Type"):
            assert again.headers[name] == first.headers[name]

    path = first.headers["Location"]
    await check_replay()
    assert (await api.send("PATCH", path, '{"status": "consumed"}')).status_code == 200
    await check_replay()
    assert (await api.send("DELETE", path)).status_code == 204
    await check_replay()
    assert len(await database.fetch("SELECT FROM payments")) == 1
    assert (await api.send("GET", path)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        '{"payment": 2, "data": {"a": 1.0, "b": [true]}}',
        '{"payment": 1, "data": {"a": 1.0, "b": [false]}}',
        '{"payment": 1, "data": {"a": "1.0", "b": [true]}}',
        '{"payment": 1, "data": {"a": 1.0}}',
        '{"payment": 1}',
    ],
)
async def test_a_key_with_another_body(shared: Api, body: str) -> None:
    first = '{"payment": 1, "data": {"a": 1.0, "b": [true]}}'
    key = f"another-{hash(body)}"
    made = await shared.send("POST", "/v1/payments", first, Idempotency_Key=key)
    assert made.status_code == 201
    answer = await shared.send("POST", "/v1/payments", body, Idempotency_Key=key)
    problem(answer, 422, "idempotency-key-reused")
    assert "Location" not in answer.headers
    again = await shared.send("POST", "/v1/payments", first, Idempotency_Key=key)
    assert again.content == made.content


@pytest.mark.parametrize(
    "body",
    [
        '{"data": {"b": [true], "a": 1.0}, "payment": 1}',
        '{"payment": 1.00, "data": {"a": 1.00, "b": [true]}}',
        '{"payment": 1, "data": {"a": 10e-1, "b": [true]}}',
        '{"payment": 1, "data": {"\\u0061": 1, "b": [true]}}',
        ' {\n"payment"\t:1 ,"data":{"a":1.0,"b":[ true ]}}\r\n',
    ],
)
async def test_a_key_with_the_same_value_spelled_otherwise(shared: Api, body: str) -> None:
    first = '{"payment": 1, "data": {"a": 1.0, "b": [true]}}'
    key = f"spelled-{hash(body)}"
    made = await shared.send("POST", "/v1/payments", first, Idempotency_Key=key)
    answer = await shared.send("POST", "/v1/payments", body, Idempotency_Key=key)
    assert answer.status_code == 201
    assert answer.content == made.content
    assert answer.headers["Idempotent-Replayed"] == "true"


async def test_each_client_has_keys_of_its_own(api: Api, database: Database) -> None:
    first = await api.create({"payment": 1}, Idempotency_Key=KEY)
    async with client(api.url, await database.key("other")) as other:
        answer = await other.create({"payment": 2}, Idempotency_Key=KEY)
    assert answer.status_code == 201
    assert answer.json()["id"] != first.json()["id"]
    assert "Idempotent-Replayed" not in answer.headers


async def test_a_refused_request_does_not_use_its_key_up(shared: Api) -> None:
    problem(await shared.create({"payment": -1}, Idempotency_Key="free"), 422, "invalid-request")
    assert (await shared.create({"payment": 1}, Idempotency_Key="free")).status_code == 201


async def test_64_at_once_with_one_key(start: Serve, database: Database) -> None:
    # Two processes, each with batches of its own, as behind a load balancer.
    key = await database.key()
    apis = [Api(await start(batch_size=5), key), Api(await start(), key)]
    async with apis[0].http, apis[1].http:
        answers = await asyncio.gather(
            *(apis[n % 2].create({"payment": 5}, Idempotency_Key=KEY) for n in range(64))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert len(await database.fetch("SELECT FROM payments")) == 1


# Long enough for two statements to meet on every key.
SLOW_ROWS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_sleep(0.01);
  RETURN NEW;
END
$$;
CREATE TRIGGER slow BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION slow();
"""


async def test_statements_that_meet_on_several_keys(start: Serve, database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute(SLOW_ROWS)
    key = await database.key()
    apis = [Api(await start(), key), Api(await start(), key)]
    keys = [f"order-{number:02}" for number in range(20)]
    async with apis[0].http, apis[1].http:
        answers = await asyncio.gather(
            *(apis[0].create({"payment": 1}, Idempotency_Key=key) for key in keys),
            *(apis[1].create({"payment": 1}, Idempotency_Key=key) for key in reversed(keys)),
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == len(keys)
    [row] = await database.fetch(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert row["deadlocks"] == 0


async def test_at_once_with_one_key_and_different_bodies(api: Api, database: Database) -> None:
    answers = await asyncio.gather(
        *(api.create({"payment": n % 4}, Idempotency_Key=KEY) for n in range(32))
    )
    [row] = await database.fetch("SELECT payment FROM payments")
    for number, answer in enumerate(answers):
        if number % 4 == row["payment"]:
            assert answer.json()["payment"] == row["payment"]
        else:
            problem(answer, 422, "idempotency-key-reused")


INSERT = """
INSERT INTO payments (payment, data, created_by, idempotency_key) VALUES (1, '{}', $1, $2)
"""


async def test_the_second_waits_while_the_first_runs(api: Api, database: Database) -> None:
    async with database.connect() as first:
        transaction = first.transaction()
        await transaction.start()
        await first.execute(INSERT, CLIENT, KEY)
        second = asyncio.create_task(api.create({"payment": 1}, Idempotency_Key=KEY))
        await waits_for_a_lock(database)
        assert not second.done()
        await transaction.commit()
    answer = await second
    assert answer.status_code == 201
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert len(await database.fetch("SELECT FROM payments")) == 1


async def test_the_second_makes_the_payment_if_the_first_fails(
    api: Api, database: Database
) -> None:
    async with database.connect() as first:
        transaction = first.transaction()
        await transaction.start()
        await first.execute(INSERT, CLIENT, KEY)
        second = asyncio.create_task(api.create({"payment": 2}, Idempotency_Key=KEY))
        await waits_for_a_lock(database)
        await transaction.rollback()
    answer = await second
    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers


async def test_the_second_does_not_wait_for_ever(start: Serve, database: Database) -> None:
    async with (
        client(await start(**IMPATIENT), await database.key()) as api,
        database.connect() as first,
        first.transaction(),
    ):
        await first.execute(INSERT, CLIENT, KEY)
        answer = await api.create({"payment": 1}, Idempotency_Key=KEY)
        problem(answer, 503, "database-unavailable")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_who_waits_for_a_key_does_not_fail_the_others(
    start: Serve, database: Database
) -> None:
    async with (
        client(await start(**IMPATIENT), await database.key()) as api,
        database.connect() as first,
        first.transaction(),
    ):
        await first.execute(INSERT, CLIENT, KEY)
        keys = [None, "free", KEY, None, "another", KEY]
        answers = await asyncio.gather(
            *(
                api.create({"payment": 1}, **({} if key is None else {"Idempotency_Key": key}))
                for key in keys
            )
        )
    for key, answer in zip(keys, answers, strict=True):
        assert answer.status_code == (503 if key == KEY else 201), (key, answer.text)
    assert len(await database.fetch("SELECT FROM payments")) == 5


@pytest.mark.in_process  # reads a gauge
@pytest.mark.slow
async def test_a_replay_that_fails_makes_nobodys_payment_twice(
    start: Serve, database: Database
) -> None:
    # Has each creation wait for a lock that the test holds.
    await database.fetch("""
        CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END'
    """)
    url = await start(lock_timeout_seconds=10.0)
    async with (
        client(url, await database.key()) as api,
        database.connect() as holder,
        database.connect() as other,
    ):
        assert (await api.create({"payment": 1}, Idempotency_Key=KEY)).status_code == 201
        await holder.execute("SELECT pg_advisory_lock(1)")
        await database.fetch(
            "CREATE TRIGGER held BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION held()"
        )
        first = asyncio.create_task(api.create({"payment": 2}))
        await waits_for_a_lock(database)
        # The next two share a statement, which begins when the first one ends.
        replay = asyncio.create_task(api.create({"payment": 1}, Idempotency_Key=KEY))
        free = asyncio.create_task(api.create({"payment": 3}))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while metrics.Active.requests < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await holder.execute("SELECT pg_advisory_unlock(1), pg_advisory_lock(1)")
        assert (await first).status_code == 201
        await waits_for_a_lock(database)
        # What the used key was answered first is looked up after the creation: not any more.
        async with other.transaction():
            locking = asyncio.create_task(
                other.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
            )
            await waits_for_a_lock(database, 2)
            await holder.execute("SELECT pg_advisory_unlock(1)")
            await locking
            problem(await replay, 503, "database-unavailable")
        assert (await free).status_code == 201
    rows = await database.fetch("SELECT payment::int FROM payments ORDER BY 1")
    assert [row["payment"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    "key", ["x" * 255, "a", "~!#$%&'()*+,-./:;<=>?@[]^_`{|}", "with space", '"quoted"']
)
async def test_keys_that_are_taken(shared: Api, key: str) -> None:
    first = await shared.create({"payment": 1}, Idempotency_Key=key)
    assert first.status_code == 201
    again = await shared.create({"payment": 1}, Idempotency_Key=key)
    assert again.content == first.content
    assert (await shared.create({"payment": 2}, Idempotency_Key=key)).status_code == 422


@pytest.mark.parametrize("key", [b"x" * 256, b"", "é".encode(), b"\xff", b"a\tb"], ids=repr)
async def test_keys_that_are_refused(shared: Api, key: bytes) -> None:
    headers = {b"Idempotency-Key": key}
    answer = await shared.http.post("/v1/payments", content=b'{"payment": 1}', headers=headers)
    assert "Idempotency-Key" in problem(answer, 422, "invalid-request")["detail"]
