"""The order in which a request is looked at: nothing asks for a body that it would refuse."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests import PATIENCE_SECONDS
from tests.conftest import Api, Database, Serve, at_capacity

EXPECT = "Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODY = b'{"payment": 1}'


@asynccontextmanager
async def connection(
    url: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(PATIENCE_SECONDS):
        yield reader, writer
    writer.close()
    await writer.wait_closed()


Ask = Callable[..., Awaitable[tuple[bytes, bytes, bytes]]]


@pytest.fixture
async def ask(shared: Api) -> Ask:
    """Sends a head that promises a body, but no body; gives the status, head and body returned."""

    async def ask(
        line: str, *fields: str, key: str | None = shared.key, length: int = len(BODY)
    ) -> tuple[bytes, bytes, bytes]:
        lines = [line, "Host: a", "Content-Type: application/json", f"Content-Length: {length}"]
        lines += [] if key is None else [f"Authorization: Bearer {key}"]
        async with connection(shared.url) as (reader, writer):
            writer.write("\r\n".join([*lines, *fields, "", ""]).encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head.split()[1], head.lower(), body

    return ask


@pytest.mark.parametrize("fields", [(), (EXPECT,)], ids=["", "expect"])
@pytest.mark.parametrize(
    ("line", "changes", "status"),
    [
        ("POST /nowhere HTTP/1.1", {"length": 100_000}, b"404"),
        ("PUT /v1/payments HTTP/1.1", {"key": None}, b"405"),
        ("POST /v1/payments HTTP/1.1", {"key": None}, b"401"),
        ("POST /v1/payments HTTP/1.1", {"key": "x" * 43, "length": 100_000}, b"401"),
        ("POST /v1/payments HTTP/1.1", {"length": 100_000}, b"413"),
        ("POST /create HTTP/1.1", {"length": 100_000}, b"413"),
    ],
)
async def test_what_is_refused_without_its_body_is_not_asked_for_it(
    ask: Ask, line: str, changes: dict[str, object], status: bytes, fields: tuple[str, ...]
) -> None:
    actual, head, body = await ask(line, *fields, **changes)
    assert actual == status, body
    assert b"connection: close" in head


async def test_a_key_without_the_scope_is_not_asked_for_its_body(
    start: Serve, database: Database
) -> None:
    key = await database.key(scopes=("payments:read",))
    async with connection(await start()) as (reader, writer):
        writer.write(
            f"POST /v1/payments HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Length: 9\r\n{EXPECT}\r\n\r\n".encode()
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")


async def test_who_is_too_many_is_not_asked_for_its_body_or_key(
    start: Serve, database: Database
) -> None:
    async with at_capacity(start, database) as (api, _), connection(api.url) as (reader, writer):
        writer.write(b"POST /create HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n")
        writer.write(f"{EXPECT}\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")


async def _create(shared: Api, version: str, *fields: str, body: bytes = BODY) -> bytes:
    lines = [
        f"POST /v1/payments HTTP/{version}",
        "Host: a",
        f"Authorization: Bearer {shared.key}",
        "Content-Type: application/json",
        "Connection: close",
        *fields,
    ]
    async with connection(shared.url) as (reader, writer):
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if version == "1.1" and EXPECT in fields:
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
        writer.write(body)
        return await reader.read()


async def test_a_good_request_is_asked_for_its_body(shared: Api) -> None:
    answer = await _create(shared, "1.1", EXPECT, f"Content-Length: {len(BODY)}")
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_http_1_0_is_not_asked_for_its_body(shared: Api) -> None:
    answer = await _create(shared, "1.0", EXPECT, f"Content-Length: {len(BODY)}")
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_another_expectation_is_ignored(shared: Api) -> None:
    answer = await _create(shared, "1.1", "Expect: a-miracle", f"Content-Length: {len(BODY)}")
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_a_request_without_a_body_is_not_asked_for_it(shared: Api) -> None:
    async with connection(shared.url) as (reader, writer):
        writer.write(
            f"GET /livez HTTP/1.1\r\nHost: a\r\n{EXPECT}\r\nConnection: close\r\n\r\n".encode()
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "nonsense"])
async def test_a_coded_body_is_415_before_it_is_sent(ask: Ask, coding: str) -> None:
    status, head, body = await ask(
        "POST /v1/payments HTTP/1.1", f"Content-Encoding: {coding}", EXPECT
    )
    assert status == b"415"
    assert b"\r\naccept-encoding: identity" in head
    assert json.loads(body)["type"] == "/problems/unsupported-media-type"


async def test_a_coded_chunked_body_is_415(shared: Api) -> None:
    fields = ("Content-Encoding: gzip", "Transfer-Encoding: chunked")
    answer = await _create(shared, "1.1", *fields, body=b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("coding", ["identity", ""])
async def test_a_coding_that_is_none_is_no_mistake(shared: Api, coding: str) -> None:
    answer = await shared.send("POST", "/create", BODY, Content_Encoding=coding)
    assert answer.status_code == 200


async def test_an_answer_before_the_body_does_not_make_the_body_a_request(shared: Api) -> None:
    smuggled = b"DELETE /v1/payments/1 HTTP/1.1\r\nHost: a\r\n\r\n"
    async with connection(shared.url) as (reader, writer):
        writer.write(
            b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
        )
        assert b" 401 " in await reader.readline()
        writer.write(smuggled)
        assert (await reader.read()).count(b"HTTP/1.1") == 0


async def test_the_wait_for_a_body_is_not_part_of_the_time_of_the_answer(start: Serve) -> None:
    limit_seconds = 0.3
    url = await start(
        authentication=False,
        request_timeout_seconds=limit_seconds,
        acquire_timeout_seconds=0.15,
        connect_timeout_seconds=0.1,
        command_timeout_seconds=0.14,
        statement_timeout_seconds=0.13,
        lock_timeout_seconds=0.12,
    )
    async with connection(url) as (reader, writer):
        writer.write(
            b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            + f"Content-Length: 2\r\n{EXPECT}\r\n\r\n".encode()
        )
        assert await reader.readexactly(len(CONTINUE)) == CONTINUE
        await asyncio.sleep(2 * limit_seconds)
        writer.write(b"no")  # is refused without the database, which might take too long
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


async def test_a_key_that_is_sent_twice_makes_no_payment(api: Api, database: Database) -> None:
    headers = [("Idempotency-Key", "k"), ("Idempotency-Key", "k")]
    answer = await api.http.post("/v1/payments", content=BODY, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"] == "The header Idempotency-Key is sent twice."
    assert await database.fetch("SELECT FROM payments") == []


async def test_a_payment_of_a_client_that_shuts_down_its_sending_half_is_answered(
    shared: Api,
) -> None:
    async with connection(shared.url) as (reader, writer):
        writer.write(
            b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (shared.key.encode(), len(BODY), BODY)
        )
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
