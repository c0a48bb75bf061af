"""`GET /v1/payments/{id}`."""

import asyncio
import re

import asyncpg
import pytest

from payments import db, queries
from payments.config import Settings
from tests.conftest import Api, Database, problem

NO_IDS = [
    "0",
    "-1",
    "01",
    "+1",
    "1.0",
    "1e0",
    "9223372036854775808",
    "1" * 100,
    "١",
    "%D9%A1",
    "%31%20",
    "1%2F",
    "1%00",
    "%FF",
    " 1",
    "1 ",
    "abc",
    "0x1",
    "1_0",
    "null",
    "1;2",
    "%2E%2E",
]


@pytest.mark.parametrize("id", NO_IDS)
async def test_an_id_that_is_no_id(shared: Api, id: str) -> None:
    await shared.payment()
    for method, prefix, body in (
        ("GET", "/v1/payments/", None),
        ("HEAD", "/v1/payments/", None),
        ("PATCH", "/v1/payments/", '{"status": "consumed"}'),
        ("DELETE", "/v1/payments/", None),
        ("PUT", "/update/", '{"status": "consumed"}'),
        ("DELETE", "/delete/", None),
    ):
        answer = await shared.send(method, prefix + id, body)
        if method == "HEAD":
            assert answer.status_code == 404
        else:
            problem(answer, 404, "not-found")


@pytest.mark.parametrize("id", [999999999, 2**63 - 1])
async def test_an_id_of_no_payment(shared: Api, id: int) -> None:
    answer = await shared.send("GET", f"/v1/payments/{id}")
    assert str(id) in problem(answer, 404, "payment-not-found")["detail"]


async def test_an_id_with_its_digits_escaped_is_the_same_address(shared: Api) -> None:
    made = await shared.payment()
    escaped = "".join(f"%3{digit}" for digit in str(made["id"]))
    answer = await shared.send("GET", f"/v1/payments/{escaped}")
    assert answer.json() == made


async def test_a_trailing_slash_is_another_address(shared: Api) -> None:
    made = await shared.payment()
    for path in (f"/v1/payments/{made['id']}/", "/v1/payments/", "//v1/payments", "/V1/payments"):
        problem(await shared.send("GET", path), 404, "not-found")


async def test_head_is_get_without_a_body(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    get, head = await shared.send("GET", path), await shared.send("HEAD", path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("ETag", "Content-Type", "Content-Length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ("*", 304),
        ('"other" , {etag}', 304),
        ('"other",, {etag},', 304),
        ('"a,b", W/"c", {etag}, "d"', 304),
        ('W/{etag},"x"', 304),
        ('"other"', 200),
        ('"other", W/"another"', 200),
        ("", 200),
        ("nonsense", 200),
        ('"open', 200),
        ("{bare}", 200),
        ("w/{etag}", 200),
        ('"{bare}', 200),
        ('"x{bare}"', 200),
        ("x{etag}", 200),
        ("{etag}x", 200),
        ('"a" {etag}', 200),
        ("{etag} trailing", 200),
        ("**", 200),
    ],
)
async def test_if_none_match(shared: Api, known: str, status: int) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    etag = (await shared.send("GET", path)).headers["ETag"]
    value = known.format(etag=etag, bare=etag.strip('"'))
    for method in ("GET", "HEAD"):
        answer = await shared.send(method, path, If_None_Match=value)
        assert answer.status_code == status, value
        assert answer.headers["ETag"] == etag
        if status == 304:
            assert answer.content == b""


async def test_if_none_match_on_several_lines(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    etag = (await shared.send("GET", path)).headers["ETag"]
    lines = [("If-None-Match", '"other"'), ("If-None-Match", etag)]
    assert (await shared.http.get(path, headers=lines)).status_code == 304


async def test_a_new_etag_for_each_change(shared: Api) -> None:
    path = f"/v1/payments/{(await shared.payment())['id']}"
    before = await shared.send("GET", path)
    await shared.send("PATCH", path, '{"status": "consumed"}')
    after = await shared.send("GET", path, If_None_Match=before.headers["ETag"])
    assert after.status_code == 200
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.json()["updated_at"] > before.json()["updated_at"]


async def test_etags_differ_between_payments(shared: Api) -> None:
    answers = await asyncio.gather(*(shared.create({"payment": 1}) for _ in range(20)))
    assert len({answer.headers["ETag"] for answer in answers}) == 20


async def test_many_at_once_get_their_own(shared: Api) -> None:
    made = await asyncio.gather(*(shared.payment(number) for number in range(40)))
    wanted = [*made, None, *made[:10]]
    answers = await asyncio.gather(
        *(shared.send("GET", f"/v1/payments/{one['id'] if one else 999999999}") for one in wanted)
    )
    for one, answer in zip(wanted, answers, strict=True):
        assert answer.status_code == (200 if one else 404)
        assert one is None or answer.json() == one


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("READ", "payments_pkey"),
        ("REPLAY", "payments_idempotency_key"),
        ("CONSUME", "payments_pkey"),
        ("DELETE", "payments_pkey"),
    ],
)
async def test_no_plan_that_was_made_for_an_empty_table_walks_it_when_it_has_grown(
    database: Database, statement: str, index: str
) -> None:
    await database.fetch("ANALYZE payments")
    connection = await asyncpg.connect(
        database.url(), server_settings=db.session(Settings(database_url=database.url()))
    )
    try:
        sql = getattr(queries, statement)
        await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE s AS {sql}")
        nulls = ", ".join(["NULL"] * len(set(re.findall(r"\$\d", sql))))
        explain = f"EXPLAIN (COSTS off) EXECUTE s ({nulls})"
        rows = await connection.fetch(explain)
    finally:
        await connection.close()
    plan = "\n".join(row[0] for row in rows)
    # Each look at the table is by that index, and for what is asked, not from end to end.
    looks = plan.count("Scan using ") + plan.count("Seq Scan on payments")
    asked = re.findall(rf"Index Scan using {index} on payments.*\n +Index Cond: ", plan)
    assert asked, plan
    assert len(asked) == looks, plan
