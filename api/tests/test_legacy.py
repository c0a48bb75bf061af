"""The five old routes, as an old client calls them."""

import asyncio
import json
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from payments import metrics
from tests import PATIENCE_SECONDS
from tests.conftest import CLIENT, Api, Database, Serve, client, problem

CONSUME = '{"status": "consumed"}'
INSERT = '{"status": "inserted"}'
FIELDS = ("id", "status", "data", "payment", "created_at", "updated_at")

FILL = """
INSERT INTO payments (payment, data, created_by)
SELECT CASE WHEN n % 2 = 0 THEN n END, to_jsonb(repeat('x', $2)), 'shop'
FROM generate_series(1, $1::int) AS n
"""


def check_old(answer: httpx.Response) -> None:
    """Checks that the answer says that its route is deprecated, until when, and what is instead."""
    deprecated = answer.headers["Deprecation"]
    assert deprecated.startswith("@")  # RFC 9745: a structured date
    assert int(deprecated[1:]) < parsedate_to_datetime(answer.headers["Sunset"]).timestamp()
    assert answer.links["successor-version"]["url"] == "/v1/payments"


async def old(api: Api, method: str, path: str, body: str | None = None) -> httpx.Response:
    """Calls an old route."""
    answer = await api.send(method, path, body)
    check_old(answer)
    return answer


# /create


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{}", {"status": "inserted", "data": {}, "payment": None}),
        (INSERT, {"status": "inserted", "data": {}, "payment": None}),
        (CONSUME, {"status": "consumed", "data": {}, "payment": None}),
        ('{"payment": 12.5}', {"status": "inserted", "data": {}, "payment": 12.5}),
        ('{"payment": "12.345,67"}', {"status": "inserted", "data": {}, "payment": 12345.67}),
        ('{"payment": null, "data": null}', {"status": "inserted", "data": None, "payment": None}),
        (
            '{"payment": 1, "data": [1, "a"], "status": "consumed"}',
            {"status": "consumed", "data": [1, "a"], "payment": 1},
        ),
    ],
)
async def test_create(shared: Api, body: str, expected: dict[str, Any]) -> None:
    answer = await old(shared, "POST", "/create", body)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    made = answer.json()
    assert {name: made[name] for name in expected} == expected
    read = await shared.send("GET", f"/v1/payments/{made['id']}")
    assert made == {name: read.json()[name] for name in FIELDS}
    assert read.headers["ETag"] == answer.headers["ETag"]


async def test_what_is_created_consumed_is_consumed_by_its_creator(
    api: Api, database: Database
) -> None:
    await old(api, "POST", "/create", CONSUME)
    [row] = await database.fetch("SELECT * FROM payments")
    assert row["consumed_by"] == row["created_by"] == CLIENT
    assert row["consumed_at"] == row["created_at"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"id": 7}', "id"),
        ('{"id": 7, "status": "inserted"}', "id"),
        ('{"status": "deleted"}', "status"),
        ('{"status": null}', "status"),
        ('{"status": "Consumed"}', "status"),
        ('{"status": ""}', "status"),
        ('{"payment": "much"}', "payment"),
        ('{"value": 1}', "value"),
        ("[]", "object"),
    ],
)
async def test_create_refused(shared: Api, body: str, says: str) -> None:
    answer = await old(shared, "POST", "/create", body)
    assert says in problem(answer, 422, "invalid-request")["detail"]


# /update


async def test_update(api: Api, database: Database) -> None:
    made = (await old(api, "POST", "/create", "{}")).json()
    path = f"/update/{made['id']}"
    unchanged = await old(api, "PUT", path, INSERT)
    assert (unchanged.status_code, unchanged.json()) == (200, made)
    consumed = await old(api, "PUT", path, CONSUME)
    assert consumed.status_code == 200
    assert consumed.json()["status"] == "consumed"
    [row] = await database.fetch("SELECT * FROM payments")
    assert row["consumed_by"] == CLIENT
    again = await old(api, "PUT", path, CONSUME)
    assert (again.status_code, again.content) == (200, consumed.content)
    problem(await old(api, "PUT", path, INSERT), 409, "status-conflict")


# /delete


async def test_delete(api: Api, database: Database) -> None:
    made = (await old(api, "POST", "/create", '{"payment": 1, "data": {"a": 1}}')).json()
    answer = await old(api, "DELETE", f"/delete/{made['id']}")
    assert answer.status_code == 200
    deleted = answer.json()
    assert deleted | {"updated_at": None} == made | {"updated_at": None}
    problem(await old(api, "DELETE", f"/delete/{made['id']}"), 404, "payment-not-found")
    problem(await old(api, "PUT", f"/update/{made['id']}", CONSUME), 404, "payment-not-found")
    [row] = await database.fetch("SELECT * FROM payments")
    assert row["deleted_by"] == CLIENT


async def test_unknown_ids(shared: Api) -> None:
    for method, path, body in (
        ("PUT", "/update/999999999", CONSUME),
        ("PUT", "/update/999999999", INSERT),
        ("DELETE", "/delete/999999999", None),
    ):
        problem(await old(shared, method, path, body), 404, "payment-not-found")


# What every answer carries


@pytest.mark.parametrize(
    ("address", "body", "headers", "status"),
    [
        ("POST /create", "{}", {"Authorization": ""}, 401),
        ("POST /create", "{}", {"Content-Type": "text/plain"}, 415),
        ("POST /create", "{", {}, 400),
        ("POST /create", "[]", {}, 422),
        ("PUT /update/999999999", CONSUME, {}, 404),
        ("PUT /update/999999999", "{}", {}, 422),
        ("DELETE /delete/999999999", None, {}, 404),
        ("GET /list", None, {"Authorization": ""}, 401),
        ("GET /status", None, {}, 200),
        ("HEAD /status", None, {}, 200),
        ("HEAD /list", None, {}, 200),
        ("GET /create", None, {}, 405),
        ("POST /list", "{}", {}, 405),
        ("DELETE /status", None, {}, 405),
        ("GET /update/1", None, {}, 405),
        ("PUT /update/abc", CONSUME, {}, 404),
        ("DELETE /delete/0", None, {}, 404),
        ("POST /create", "x" * 70_000, {}, 413),
    ],
)
async def test_every_answer_says_that_the_route_is_old(
    shared: Api, address: str, body: str | None, headers: dict[str, str], status: int
) -> None:
    method, path = address.split()
    answer = await shared.send(method, path, body, **headers)
    assert answer.status_code == status
    check_old(answer)


async def test_new_routes_are_not_old(shared: Api) -> None:
    for answer in (await shared.create({"payment": 1}), await shared.send("GET", "/livez")):
        assert "Deprecation" not in answer.headers
        assert "Sunset" not in answer.headers


# /list


async def test_an_empty_list(api: Api) -> None:
    answer = await old(api, "GET", "/list")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == b"[]"


async def test_list(api: Api) -> None:
    made = [
        (await old(api, "POST", "/create", body)).json()
        for body in ("{}", '{"payment": 5}', CONSUME, "{}", '{"data": {"a": 1.50}}')
    ]
    await old(api, "DELETE", f"/delete/{made[3]['id']}")
    answer = await old(api, "GET", "/list")
    assert answer.status_code == 200
    assert answer.json() == made[:3] + made[4:]
    assert '"payment":5.00,' in answer.text


async def test_list_streams_all(api: Api, database: Database) -> None:
    await database.fetch(FILL, 2600, 10)
    rows = await database.fetch("SELECT id FROM payments ORDER BY created_at, id")
    for _ in range(2):
        listed = (await old(api, "GET", "/list")).json()
        assert [one["id"] for one in listed] == [row["id"] for row in rows]
        assert [one["payment"] for one in listed[:4]] == [None, 2, None, 4]


async def test_list_of_exactly_one_page(api: Api, database: Database) -> None:
    await database.fetch(FILL, 1000, 1)
    assert len((await old(api, "GET", "/list")).json()) == 1000


# Compressed, all of these lists would fit into what the sockets hold.
AS_IT_IS = {"Accept-Encoding": "identity"}


async def test_a_broken_list_does_not_look_complete(start: Serve, database: Database) -> None:
    # More than what the sockets between the two hold, so that the end is not read before it is cut.
    await database.fetch(FILL, 2600, 8000)
    url = await start(page_limit_bytes=100_000)
    received = b""
    async with (
        client(url, await database.key()) as api,
        api.http.stream("GET", "/list", headers=AS_IT_IS) as answer,
    ):
        assert answer.status_code == 200
        chunks = answer.aiter_raw()
        received += await anext(chunks)
        async with database.away():
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012
                async for chunk in chunks:
                    received += chunk
    assert len(received) < 2600 * 8000
    with pytest.raises(json.JSONDecodeError):
        json.loads(received)


async def test_a_broken_list_over_http_1_0_ends_in_a_reset(
    start: Serve, database: Database
) -> None:
    """There is no last chunk that could be missing: an orderly end would look complete."""
    await database.fetch(FILL, 2600, 8000)
    url = httpx.URL(await start())
    reader, writer = await asyncio.open_connection(url.host, url.port)
    request = f"GET /list HTTP/1.0\r\nAuthorization: Bearer {await database.key()}\r\n\r\n"
    writer.write(request.encode())
    assert (await reader.read(100)).startswith(b"HTTP/1.1 200")
    async with database.away():
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()


async def test_a_list_that_cannot_begin_is_a_503(api: Api, database: Database) -> None:
    await api.payment()
    async with database.away():
        answer = await old(api, "GET", "/list")
        problem(answer, 503, "database-unavailable")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_a_slow_reader_holds_no_connection(start: Serve, database: Database) -> None:
    await database.fetch(FILL, 2600, 8000)
    url = await start(pool_size=1, page_limit_bytes=100_000)
    async with (
        client(url, await database.key()) as api,
        api.http.stream("GET", "/list", headers=AS_IT_IS) as answer,
    ):
        await anext(answer.aiter_raw())
        assert (await api.create({"payment": 1})).status_code == 201


# /status


async def test_status(shared: Api) -> None:
    async with httpx.AsyncClient(base_url=shared.url) as stranger:
        answer = await stranger.get("/status")
    assert answer.status_code == 200
    assert answer.text == "ok"
    assert answer.headers["Content-Type"].startswith("text/plain")
    check_old(answer)


async def test_head_of_the_list_reads_no_list(api: Api) -> None:
    await api.payment()
    answer = await api.send("HEAD", "/list")
    assert answer.status_code == 200
    assert answer.content == b""
    assert (await api.send("GET", "/status")).status_code == 200


@pytest.mark.in_process  # reads a gauge
async def test_a_reader_that_leaves_ends_the_list(api: Api, database: Database) -> None:
    await database.fetch("""
        INSERT INTO payments (created_by, data)
        SELECT 'shop', to_jsonb(repeat('x', 20000)) FROM generate_series(1, 2000)
    """)
    before = metrics.Active.requests
    async with api.http.stream("GET", "/list", headers=AS_IT_IS) as answer:
        async for _ in answer.aiter_bytes(100):
            break
        assert metrics.Active.requests == before + 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        while metrics.Active.requests > before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
