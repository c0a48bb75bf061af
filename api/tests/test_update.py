"""`PATCH /v1/payments/{id}`: a payment is consumed once."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.conftest import CLIENT, Api, Database, Serve, client, problem

CONSUME = '{"status": "consumed"}'
INSERT = '{"status": "inserted"}'
ALREADY = "already-consumed"


async def _row(database: Database, id: int) -> dict[str, Any]:
    [row] = await database.fetch("SELECT * FROM payments WHERE id = $1", id)
    return dict(row)


async def test_consume(api: Api, database: Database) -> None:
    made = await api.payment(12.5, {"a": 1})
    answer = await api.send("PATCH", f"/v1/payments/{made['id']}", CONSUME)
    assert answer.status_code == 200
    consumed = answer.json()
    assert consumed == made | {
        "status": "consumed",
        "updated_at": consumed["updated_at"],
        "consumed_at": consumed["updated_at"],
        "consumed_by": CLIENT,
    }
    assert consumed["updated_at"] > made["updated_at"]
    read = await api.send("GET", f"/v1/payments/{made['id']}")
    assert read.content == answer.content
    assert read.headers["ETag"] == answer.headers["ETag"]
    row = await _row(database, made["id"])
    assert row["consumed_by"] == CLIENT
    assert row["consumed_at"] == datetime.fromisoformat(consumed["updated_at"])


@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "other"}])
async def test_consume_twice_is_a_conflict(
    api: Api, database: Database, key: dict[str, str]
) -> None:
    path = f"/v1/payments/{(made := await api.payment())['id']}"
    consumed = (await api.send("PATCH", path, CONSUME, Idempotency_Key="key")).json()
    row = await _row(database, made["id"])
    async with client(api.url, await database.key("other")) as other:
        for again in (api, other):
            refusal = problem(await again.send("PATCH", path, CONSUME, **key), 409, ALREADY)
            assert refusal["consumed_at"] == consumed["consumed_at"]
            assert refusal["consumed_by"] == CLIENT
            assert CLIENT in refusal["detail"]
    assert await _row(database, made["id"]) == row


# Idempotency-Key


async def _replays(first: httpx.Response, second: httpx.Response) -> None:
    assert (second.status_code, second.content) == (200, first.content)
    assert second.headers["ETag"] == first.headers["ETag"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers


@pytest.mark.parametrize("condition", [False, True])
async def test_a_repeat_with_its_key_has_the_first_answer(
    api: Api, database: Database, condition: bool
) -> None:
    path = f"/v1/payments/{(await api.payment())['id']}"
    headers = {"Idempotency_Key": "key"}
    if condition:
        headers["If_Match"] = (await api.send("GET", path)).headers["ETag"]
    first = await api.send("PATCH", path, CONSUME, **headers)
    await _replays(first, await api.send("PATCH", path, CONSUME, **headers))
    async with client(api.url, await database.key("other")) as other:
        problem(await other.send("PATCH", path, CONSUME, Idempotency_Key="key"), 409, ALREADY)
    assert (await api.send("DELETE", path)).status_code == 204
    await _replays(first, await api.send("PATCH", path, CONSUME, **headers))
    problem(await api.send("PATCH", path, CONSUME), 404, "payment-not-found")


async def test_a_key_is_the_payments_own(api: Api) -> None:
    """It consumes each payment that is named with it."""
    for _ in range(2):
        path = f"/v1/payments/{(await api.payment())['id']}"
        first = await api.send("PATCH", path, CONSUME, Idempotency_Key="key")
        assert first.status_code == 200
        await _replays(first, await api.send("PATCH", path, CONSUME, Idempotency_Key="key"))


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_keys_that_are_refused(shared: Api, key: str) -> None:
    made = await shared.payment()
    path = f"/v1/payments/{made['id']}"
    refusal = problem(
        await shared.send("PATCH", path, CONSUME, Idempotency_Key=key), 422, "invalid-request"
    )
    assert "Idempotency-Key" in refusal["detail"]
    assert (await shared.send("GET", path)).json() == made


async def test_16_repeats_at_once_consume_once(start: Serve, database: Database) -> None:
    key = await database.key()
    apis = [Api(await start(batch_size=3), key), Api(await start(), key)]
    async with apis[0].http, apis[1].http:
        path = f"/v1/payments/{(await apis[0].payment())['id']}"
        answers = await asyncio.gather(
            *(apis[n % 2].send("PATCH", path, CONSUME, Idempotency_Key="k") for n in range(16))
        )
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (200, answers[0].content)
    }
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 15


async def test_insert_what_is_inserted_changes_nothing(api: Api, database: Database) -> None:
    made = await api.payment()
    row = await _row(database, made["id"])
    answer = await api.send("PATCH", f"/v1/payments/{made['id']}", INSERT)
    assert answer.status_code == 200
    assert answer.json() == made
    assert await _row(database, made["id"]) == row


async def test_back_to_inserted_is_a_conflict(api: Api, database: Database) -> None:
    path = f"/v1/payments/{(made := await api.payment())['id']}"
    await api.send("PATCH", path, CONSUME)
    row = await _row(database, made["id"])
    problem(await api.send("PATCH", path, INSERT), 409, "status-conflict")
    assert await _row(database, made["id"]) == row


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"status": null}',
        '{"status": ""}',
        '{"status": "Consumed"}',
        '{"status": "consumed "}',
        '{"status": "deleted"}',
        '{"status": 1}',
        '{"status": ["consumed"]}',
        '{"status": "consumed", "payment": 1}',
        '{"status": "consumed", "data": {}}',
        '{"payment": 1}',
    ],
)
async def test_refused(shared: Api, method: str, body: str) -> None:
    made = await shared.payment()
    prefix = "/v1/payments" if method == "PATCH" else "/update"
    problem(await shared.send(method, f"{prefix}/{made['id']}", body), 422, "invalid-request")
    assert (await shared.send("GET", f"/v1/payments/{made['id']}")).json() == made


async def test_no_such_payment(shared: Api) -> None:
    for body in (CONSUME, INSERT):
        answer = await shared.send("PATCH", "/v1/payments/999999999", body)
        problem(answer, 404, "payment-not-found")
        answer = await shared.send("PATCH", "/v1/payments/999999999", body, If_Match="*")
        problem(answer, 404, "payment-not-found")


async def test_a_deleted_payment(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    await shared.send("DELETE", path)
    for body in (CONSUME, INSERT):
        problem(await shared.send("PATCH", path, body), 404, "payment-not-found")


# If-Match


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ("{etag}", 200),
        ("*", 200),
        ('"other", {etag}', 200),
        ('W/"other",{etag} , "third"', 200),
        ('"other"', 412),
        ("W/{etag}", 412),
        ('"other", W/{etag}', 412),
        ("", 412),
        ("nonsense", 412),
        ("{bare}", 412),
        ('"{bare}', 412),
        ("x{etag}", 412),
        ("{etag}x", 412),
        ('"a" {etag}', 412),
        ("w/{etag}", 412),
        ("*, {etag}", 412),
    ],
)
@pytest.mark.parametrize("body", [CONSUME, INSERT])
async def test_if_match(shared: Api, names: str, status: int, body: str) -> None:
    path = f"/v1/payments/{(made := await shared.payment())['id']}"
    etag = (await shared.send("GET", path)).headers["ETag"]
    value = names.format(etag=etag, bare=etag.strip('"'))
    answer = await shared.send("PATCH", path, body, If_Match=value)
    if status == 412:
        assert etag in problem(answer, 412, "precondition-failed")["detail"]
        assert (await shared.send("GET", path)).json() == made
    else:
        assert answer.status_code == status


async def test_a_stale_etag(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    stale = (await shared.send("GET", path)).headers["ETag"]
    current = (await shared.send("PATCH", path, CONSUME)).headers["ETag"]
    for body in (CONSUME, INSERT):
        answer = await shared.send("PATCH", path, body, If_Match=stale)
        problem(answer, 412, "precondition-failed")
    problem(await shared.send("PATCH", path, CONSUME, If_Match=current), 409, ALREADY)
    answer = await shared.send("PATCH", path, INSERT, If_Match=current)
    problem(answer, 409, "status-conflict")


async def test_a_new_etag_also_when_the_clock_has_gone_back(api: Api, database: Database) -> None:
    made = await api.payment()
    path = f"/v1/payments/{made['id']}"
    await database.fetch("UPDATE payments SET updated_at = now() + interval '1 hour'")
    before = await api.send("GET", path)
    after = await api.send("PATCH", path, CONSUME)
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.json()["updated_at"] > before.json()["updated_at"]


@pytest.mark.parametrize(
    ("method", "body"), [("PATCH", CONSUME), ("PATCH", INSERT), ("DELETE", None)]
)
@pytest.mark.parametrize("names", ["{etag}", "W/{etag}", "*"])
async def test_if_none_match_on_a_write(
    shared: Api, method: str, body: str | None, names: str
) -> None:
    path = f"/v1/payments/{(made := await shared.payment())['id']}"
    value = names.format(etag=(await shared.send("GET", path)).headers["ETag"])
    answer = await shared.send(method, path, body, If_None_Match=value)
    problem(answer, 412, "precondition-failed")
    assert (await shared.send("GET", path)).json() == made
    answer = await shared.send(method, path, body, If_None_Match='"other"')
    assert answer.is_success


async def test_of_many_with_one_etag_one_wins(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    etag = (await shared.send("GET", path)).headers["ETag"]
    answers = await asyncio.gather(
        *(shared.send("PATCH", path, CONSUME, If_Match=etag) for _ in range(16))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 15


# Many at once

TRANSITIONS = """
CREATE TABLE transitions (at timestamptz DEFAULT clock_timestamp(), consumed_by text);
GRANT INSERT ON transitions TO payments_app;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO transitions (consumed_by) VALUES (NEW.consumed_by);
  RETURN NEW;
END
$$;
CREATE TRIGGER note AFTER UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION note();
"""


async def test_64_clients_consume_one_payment(start: Serve, database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute(TRANSITIONS)
    # Two processes, each with batches of its own, as behind a load balancer.
    urls = [await start(), await start(batch_size=3)]
    apis = [Api(urls[n % 2], await database.key(f"client-{n}")) for n in range(64)]
    try:
        path = f"/v1/payments/{(made := await apis[0].payment())['id']}"
        answers = await asyncio.gather(*(api.send("PATCH", path, CONSUME) for api in apis))
    finally:
        for api in apis:
            await api.http.aclose()
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 63
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer.status_code == 409:
            assert problem(answer, 409, ALREADY)["consumed_by"] == winner["consumed_by"]
    [transition] = await database.fetch("SELECT consumed_by FROM transitions")
    row = await _row(database, made["id"])
    assert row["consumed_by"] == transition["consumed_by"] == winner["consumed_by"]
    assert row["consumed_at"] == row["updated_at"]


async def test_overlapping_sets_of_payments(start: Serve, database: Database) -> None:
    key = await database.key()
    apis = [Api(await start(batch_size=7), key), Api(await start(batch_size=5), key)]
    async with apis[0].http, apis[1].http:
        made = await asyncio.gather(*(apis[0].payment() for _ in range(20)))
        paths = [f"/v1/payments/{one['id']}" for one in made]
        answers = await asyncio.gather(
            *(apis[0].send("PATCH", path, CONSUME) for path in paths),
            *(apis[1].send("PATCH", path, CONSUME) for path in reversed(paths)),
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [409] * 20
    ids = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert sorted(ids) == sorted(one["id"] for one in made)


async def test_a_locked_payment_does_not_fail_the_others(start: Serve, database: Database) -> None:
    # Who holds the payment is waited for until the end of the request.
    url = await start(
        lock_timeout_seconds=0.3,
        statement_timeout_seconds=2.2,
        command_timeout_seconds=2.3,
        connect_timeout_seconds=2.4,
        acquire_timeout_seconds=2.5,
        request_timeout_seconds=5.0,
    )
    async with (
        client(url, await database.key()) as api,
        database.connect() as holder,
        holder.transaction(),
    ):
        made = [await api.payment() for _ in range(4)]
        await holder.execute("SELECT FROM payments WHERE id = $1 FOR UPDATE", made[1]["id"])
        answers = await asyncio.gather(
            *(api.send("PATCH", f"/v1/payments/{one['id']}", CONSUME) for one in made)
        )
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200]
    assert int(answers[1].headers["Retry-After"]) >= 1
