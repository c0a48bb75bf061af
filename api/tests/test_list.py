"""`GET /v1/payments`: pages that neither lose nor repeat a payment."""

import asyncio
import base64
import json
import struct
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from payments import db, queries
from tests.conftest import Api, Database, Serve, client, problem, settings_for

# Rows a millisecond apart, in the past; three share each time.
FILL = """
INSERT INTO payments (payment, data, created_by, created_at, updated_at)
SELECT 1, to_jsonb(repeat('x', $2)), 'shop', at, at
FROM generate_series(0, $1::int - 1) AS n
CROSS JOIN LATERAL (SELECT timestamptz '2026-01-01 00:00:00Z' + n / 3 * interval '1 ms' AS at) AS t
RETURNING id
"""


# A page touches the pages of one range: its own, and a few of the index's upper levels.
PAGE_BUFFERS = 40


@pytest.mark.parametrize("status", [None, "inserted"])
@pytest.mark.parametrize("one_client", [False, True])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("known", [True, False])  # a new table has no statistics for a minute
async def test_a_page_far_behind_costs_what_the_first_costs(
    database: Database, status: str | None, one_client: bool, descending: bool, known: bool
) -> None:
    ids = await _fill(database, 30_000)
    if known:
        await database.fetch("VACUUM ANALYZE payments")
    first, last = (await database.fetch("SELECT min(created_at), max(created_at) FROM payments"))[0]
    begin = "NULL" if status is None else f"'{status}'"
    far = timedelta(milliseconds=50)
    bounds = [
        "'-infinity', 0, 'infinity', 0",
        f"'-infinity', 0, '{first + far}', {ids[100]}"
        if descending
        else f"'{last - far}', {ids[-100]}, 'infinity', 0",
    ]
    async with database.connect() as connection:
        for name, value in db.session(settings_for(database)).items():
            await connection.execute(f"SET {name} = {value}")
        types = "text, timestamptz, bigint, timestamptz, bigint, bigint, bigint, text"
        sql = queries.LIST[one_client, descending]
        await connection.execute(f"PREPARE page ({types}) AS {sql}")
        for place in bounds:
            explained = await connection.fetchval(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
                f" EXECUTE page ({begin}, {place}, 101, 1000000, 'shop')"
            )
            top = json.loads(explained)[0]["Plan"]
            assert top["Actual Rows"] == 101
            assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < PAGE_BUFFERS


async def test_the_payment_of_a_key_is_found_by_the_key(database: Database) -> None:
    """Also by a plan that was made while the table was empty."""
    async with database.connect() as connection:
        for name, value in db.session(settings_for(database)).items():
            await connection.execute(f"SET {name} = {value}")
        await connection.execute(f"PREPARE by_key AS {queries.BY_KEY}")
        lines = await connection.fetch("EXPLAIN EXECUTE by_key ('shop', 'key')")
    assert "payments_idempotency_key" in lines[0][0]


async def _fill(database: Database, count: int, length: int = 1) -> list[int]:
    return [row["id"] for row in await database.fetch(FILL, count, length)]


async def _list(api: Api, **parameters: Any) -> dict[str, Any]:
    answer = await api.send("GET", f"/v1/payments?{urlencode(parameters)}")
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert [*page] == ["items", "next"]
    assert ("Link" in answer.headers) == (page["next"] is not None)
    return page


async def _walk(api: Api, **parameters: Any) -> list[list[int]]:
    """Returns the ids of each page."""
    pages, cursor = [], None
    while True:
        page = await _list(api, **parameters, **({"cursor": cursor} if cursor else {}))
        pages.append([item["id"] for item in page["items"]])
        if (cursor := page["next"]) is None:
            return pages


def _flat(pages: list[list[int]]) -> list[int]:
    return [*chain.from_iterable(pages)]


async def test_empty(api: Api) -> None:
    answer = await api.send("GET", "/v1/payments")
    assert answer.json() == {"items": [], "next": None}
    assert answer.headers["Content-Type"] == "application/json"


async def test_oldest_first_and_each_as_it_is_read(api: Api) -> None:
    made = [await api.payment(n, {"n": n}) for n in range(3)]
    assert (await _list(api))["items"] == made


async def test_100_by_default(api: Api, database: Database) -> None:
    ids = await _fill(database, 101)
    page = await _list(api)
    assert [item["id"] for item in page["items"]] == ids[:100]
    assert [item["id"] for item in (await _list(api, cursor=page["next"]))["items"]] == ids[100:]


@pytest.mark.parametrize(("limit", "pages"), [(1, 3), (2, 2), (3, 1), (4, 1), (1000, 1)])
async def test_limit(api: Api, database: Database, limit: int, pages: int) -> None:
    ids = await _fill(database, 3)
    walked = await _walk(api, limit=limit)
    # A page after the last row is allowed, and tells that there is none.
    assert len([page for page in walked if page]) == pages
    assert _flat(walked) == ids


async def test_status(api: Api) -> None:
    made = [await api.payment(n) for n in range(4)]
    for one in made[1:3]:
        await api.send("PATCH", f"/v1/payments/{one['id']}", '{"status": "consumed"}')
    ids = [one["id"] for one in made]
    for limit in (1, 100):
        consumed = await _walk(api, status="consumed", limit=limit)
        inserted = await _walk(api, status="inserted", limit=limit)
        assert _flat(consumed) == ids[1:3]
        assert _flat(inserted) == [ids[0], ids[3]]


async def test_both_times_are_exclusive(api: Api, database: Database) -> None:
    ids = await _fill(database, 9)
    second = datetime(2026, 1, 1, microsecond=1000, tzinfo=UTC)
    tiny = timedelta(microseconds=1)
    for parameters, expected in (
        ({"created_after": second}, ids[6:]),
        ({"created_after": second - tiny}, ids[3:]),
        ({"created_before": second}, ids[:3]),
        ({"created_before": second + tiny}, ids[:6]),
        ({"created_after": second - tiny, "created_before": second + tiny}, ids[3:6]),
        ({"created_after": second, "created_before": second}, []),
        ({"created_after": second + tiny, "created_before": second}, []),
    ):
        for status in ({}, {"status": "inserted"}):
            texts = {name: time.isoformat() for name, time in parameters.items()}
            assert _flat(await _walk(api, limit=2, **texts, **status)) == expected


async def test_a_time_in_another_zone(api: Api, database: Database) -> None:
    ids = await _fill(database, 6)
    west = datetime(2026, 1, 1, tzinfo=UTC).astimezone(timezone(timedelta(hours=-3)))
    assert _flat(await _walk(api, created_after=west.isoformat())) == ids[3:]


@pytest.mark.parametrize(
    "query",
    [
        "created_after=0001-01-01T00:00:00Z",
        "created_before=9999-12-31T23:59:59.999999Z",
        "created_after=0001-01-01T00:00:00-12:00",
        "created_before=9999-12-31T23:59:59%2B12:00",
        "created_after=2026-01-01T00:00:00.123456-03:00",
        "created_after=2026-01-01t00:00:00z",
        "limit=1&status=inserted&created_after=2000-01-01T00:00:00Z",
        "",
    ],
)
async def test_queries_that_are_taken(shared: Api, query: str) -> None:
    assert (await shared.send("GET", f"/v1/payments?{query}")).status_code == 200


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=abc", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1_0", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=1&limit=1", "limit"),
        ("status=", "status"),
        ("status=Inserted", "status"),
        ("status=deleted", "status"),
        ("status=inserted,consumed", "status"),
        ("status=inserted&status=consumed", "status"),
        ("created_after=", "created_after"),
        ("created_after=yesterday", "created_after"),
        ("created_after=1767225600", "created_after"),
        ("created_after=2026-01-01", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=2026-02-30T00:00:00Z", "created_after"),
        ("created_after=2026-01-01T00:00:00%2B99:00", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B12:00", "created_after"),
        ("created_before=9999-12-31T23:59:59-12:00", "created_before"),
        ("created_before=10000-01-01T00:00:00Z", "created_before"),
        ("created_before=infinity", "created_before"),
        ("unknown=1", "unknown"),
        ("Limit=1", "Limit"),
        ("offset=1", "offset"),
        ("my_field=1", "my_field"),
        ("=1", "unknown"),
        ("limit", "limit"),
        ("%FF=1", "unknown"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
        ("cursor=" + "A" * 21, "cursor"),
        ("cursor=" + "A" * 23, "cursor"),
        ("cursor=" + "A" * 10_000, "cursor"),
        ("cursor=" + quote("é" * 22), "cursor"),
        ("cursor=" + "A" * 22 + "%0A", "cursor"),
        ("cursor=" + "%2B" * 22, "cursor"),
        # Times that no payment can have.
        (
            "cursor=" + base64.urlsafe_b64encode(struct.pack(">qq", 2**62, 1)).decode()[:22],
            "cursor",
        ),
        (
            "cursor=" + base64.urlsafe_b64encode(struct.pack(">qq", -(2**63), 1)).decode()[:22],
            "cursor",
        ),
    ],
)
async def test_queries_that_are_refused(shared: Api, query: str, says: str) -> None:
    answer = await shared.send("GET", f"/v1/payments?{query}")
    assert says in problem(answer, 422, "invalid-request")["detail"]


async def test_any_cursor_of_the_right_length_does_no_harm(shared: Api) -> None:
    for text in ("A" * 22, "_" * 22, "-" * 22, "z" * 22, "AAX_" * 5 + "AA"):
        answer = await shared.send("GET", f"/v1/payments?cursor={text}")
        assert answer.status_code in (200, 422)


async def test_a_walk_while_others_write(api: Api, database: Database) -> None:
    ids = await _fill(database, 260)
    seen: list[dict[str, Any]] = []
    deleted: set[int] = set()
    cursor: dict[str, str] = {}
    for step in range(200):
        page = await _list(api, limit=7, **cursor)
        assert len(page["items"]) <= 7
        seen += page["items"]
        # One that was seen and one that was not, perhaps gone already; and a new one.
        for id in (ids[step * 3 % 260], ids[(step * 11 + 130) % 260]):
            await api.send("DELETE", f"/v1/payments/{id}")
            deleted.add(id)
        if step % 5 == 0:
            await api.payment()
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    else:
        pytest.fail("the walk does not end")
    places = [(item["created_at"], item["id"]) for item in seen]
    assert len(places) == len(set(places))
    assert [id for _, id in places] == sorted(id for _, id in places)
    assert {id for _, id in places} >= set(ids) - deleted


async def test_the_link_can_be_followed_as_it_is(api: Api, database: Database) -> None:
    ids = await _fill(database, 8)
    query = urlencode(
        {"limit": 3, "created_after": "2025-12-31T23:00:00+00:00", "status": "inserted"}
    )
    path, seen = f"/v1/payments?{query}", []
    while path:
        answer = await api.send("GET", path)
        seen.append([item["id"] for item in answer.json()["items"]])
        assert set(answer.links) <= {"next"}
        path = answer.links.get("next", {}).get("url", "")
        if path:
            assert answer.json()["next"] in path
            for name in ("limit=3", "created_after=", "status=inserted"):
                assert name in path
    assert seen == [ids[:3], ids[3:6], ids[6:]]


async def test_addresses_in_answers_are_nobodys_to_change(api: Api) -> None:
    lies = {
        "Host": "evil.example",
        "Forwarded": "host=evil.example;proto=https",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Prefix": "/evil",
    }
    await api.payment()
    made = await api.create({"payment": 1}, **lies)
    assert made.headers["Location"] == f"/v1/payments/{made.json()['id']}"
    page = await api.send("GET", "/v1/payments?limit=1", **lies)
    assert page.headers["Link"].startswith("</v1/payments?limit=1&cursor=")


async def test_a_page_of_large_payments_ends_early(start: Serve, database: Database) -> None:
    ids = await _fill(database, 30, 1000)
    ids += await _fill(database, 3, 30_000)
    async with client(await start(page_limit_bytes=10_000), await database.key()) as api:
        pages = await _walk(api, limit=25)
        assert sorted(_flat(pages)) == sorted(ids)
        assert len(_flat(pages)) == len(ids)
        assert max(map(len, pages)) <= 11
        assert all(pages[:-1])
        listed = (await api.send("GET", "/list")).json()
        assert [item["id"] for item in listed] == _flat(pages)
        assert _flat(await _walk(api, limit=1, status="inserted")) == _flat(pages)


async def test_1000_a_page(api: Api, database: Database) -> None:
    ids = await _fill(database, 1001)
    assert await _walk(api, limit=1000) == [ids[:1000], ids[1000:]]


async def test_many_at_once(api: Api, database: Database) -> None:
    ids = await _fill(database, 20)
    walks = await asyncio.gather(*(_walk(api, limit=limit) for limit in range(1, 20)))
    for pages in walks:
        assert _flat(pages) == ids


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, application/problem+json", "application/x-ndjson"),
        ("application/json, application/x-ndjson, application/problem+json", "application/json"),
        ("application/x-ndjson;q=0, */*", "application/json"),
        ("application/x-ndjson; charset=utf-8", "application/x-ndjson"),
        ("application/json;q=0, application/x-ndjson", "application/x-ndjson"),
    ],
)
async def test_a_client_that_names_json_gets_a_page(
    shared: Api, accept: str, media_type: str
) -> None:
    answer = await shared.send("GET", "/v1/payments", Accept=accept)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == media_type
