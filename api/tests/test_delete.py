"""`DELETE /v1/payments/{id}`: gone for everybody, kept as evidence."""

import asyncio

import pytest

from tests.conftest import CLIENT, Api, Database, client, problem


async def test_delete(api: Api, database: Database) -> None:
    made, other = await api.payment(7, {"a": 1}), await api.payment()
    path = f"/v1/payments/{made['id']}"
    answer = await api.send("DELETE", path)
    assert answer.status_code == 204
    assert answer.content == b""
    problem(await api.send("GET", path), 404, "payment-not-found")
    for path in ("/v1/payments", "/v1/payments?status=inserted"):
        assert (await api.send("GET", path)).json()["items"] == [other]
    assert [old["id"] for old in (await api.send("GET", "/list")).json()] == [other["id"]]
    [row] = await database.fetch(
        "SELECT *, data::text AS text FROM payments WHERE id = $1", made["id"]
    )
    assert row["deleted_by"] == CLIENT
    assert row["deleted_at"] is not None
    assert (row["payment"], row["text"], row["created_by"]) == (7, '{"a": 1}', CLIENT)


async def test_delete_twice(api: Api, database: Database) -> None:
    path = f"/v1/payments/{(await api.payment())['id']}"
    assert (await api.send("DELETE", path)).status_code == 204
    before = await database.fetch("SELECT * FROM payments")
    problem(await api.send("DELETE", path), 404, "payment-not-found")
    assert await database.fetch("SELECT * FROM payments") == before


async def test_many_delete_one_payment(api: Api) -> None:
    path = f"/v1/payments/{(await api.payment())['id']}"
    answers = await asyncio.gather(*(api.send("DELETE", path) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [204] + [404] * 15


async def test_a_consumed_payment_keeps_who_consumed_it(api: Api, database: Database) -> None:
    path = f"/v1/payments/{(await api.payment())['id']}"
    await api.send("PATCH", path, '{"status": "consumed"}')
    async with client(api.url, await database.key("other")) as other:
        assert (await other.send("DELETE", path)).status_code == 204
    [row] = await database.fetch("SELECT status, consumed_by, deleted_by FROM payments")
    assert [*row] == ["consumed", CLIENT, "other"]


async def test_no_such_payment(shared: Api) -> None:
    answer = await shared.send("DELETE", "/v1/payments/999999999")
    problem(answer, 404, "payment-not-found")


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ("{etag}", 204),
        ("*", 204),
        ('"x", {etag}', 204),
        ('"x"', 412),
        ("W/{etag}", 412),
        ("x", 412),
    ],
)
async def test_if_match(shared: Api, names: str, status: int) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    etag = (await shared.send("GET", path)).headers["ETag"]
    answer = await shared.send("DELETE", path, If_Match=names.format(etag=etag))
    assert answer.status_code == status
    assert (await shared.send("GET", path)).status_code == (404 if status == 204 else 200)


async def test_a_stale_etag(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    stale = (await shared.send("GET", path)).headers["ETag"]
    await shared.send("PATCH", path, '{"status": "consumed"}')
    answer = await shared.send("DELETE", path, If_Match=stale)
    problem(answer, 412, "precondition-failed")
