"""The log lines of a process: which requests have one, and how severe it is."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Api, Database, client, serve_process, waits_for_a_lock

pytestmark = pytest.mark.usefixtures("command")


async def requests_logged(
    database: Database,
    log: Path,
    variables: dict[str, str],
    paths: list[str],
    slow_seconds: float = 0.0,
) -> list[dict[str, Any]]:
    """Runs the service for these requests, a slow one and one that fails; gives their lines."""
    with log.open("wb") as file:
        async with (
            serve_process(database, variables, stdout=file) as (url, _, _),
            client(url, await database.key()) as api,
        ):
            for path in paths:
                assert (await api.send("GET", path)).status_code < 500
            await slow(api, database, slow_seconds)
            async with database.away():
                answer = await api.send("GET", "/v1/payments", X_Request_Id="failed")
                assert answer.status_code == 503
    return read(log)


def read(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["logger"] == "payments.access"]


async def slow(api: Api, database: Database, seconds: float) -> None:
    """Makes a payment that has to wait for some seconds."""
    async with database.connect() as holder, holder.transaction():
        await holder.execute("LOCK TABLE payments IN EXCLUSIVE MODE")
        creating = asyncio.create_task(api.create({"payment": 1}, X_Request_Id="slow"))
        await waits_for_a_lock(database)
        await asyncio.sleep(seconds)
    assert (await creating).status_code == 201


async def test_what_fails_or_is_slow_is_always_logged(database: Database, tmp_path: Path) -> None:
    lines = await requests_logged(
        database,
        tmp_path / "log",
        {"PAYMENTS_LOG_SAMPLE_RATIO": "0", "PAYMENTS_LOG_SLOW_SECONDS": "3"},
        ["/livez", "/v1/payments", "/v1/payments/7", "/nowhere"],
        slow_seconds=3,
    )
    assert [(line["request_id"], line["level"], line["status"]) for line in lines] == [
        ("slow", "WARNING", 201),
        ("failed", "ERROR", 503),
    ]


async def test_all_are_logged_unless_told_otherwise(database: Database, tmp_path: Path) -> None:
    paths = ["/livez", "/v1/payments", "/v1/payments/7", "/nowhere"]
    lines = await requests_logged(database, tmp_path / "log", {}, paths, slow_seconds=0.3)
    routes = [line["route"] for line in lines]
    assert routes[-6:-2] == ["/livez", "/v1/payments", "/v1/payments/{id}", ""]
    assert [line["level"] for line in lines[-2:]] == ["WARNING", "ERROR"]  # slower than 0.25 s


async def test_the_rest_is_a_sample(database: Database, tmp_path: Path) -> None:
    variables = {"PAYMENTS_LOG_SAMPLE_RATIO": "0.5", "PAYMENTS_LOG_SLOW_SECONDS": "60"}
    lines = await requests_logged(database, tmp_path / "log", variables, ["/livez"] * 400)
    assert 100 < [line["route"] for line in lines].count("/livez") < 300


async def test_the_level_holds_for_requests_too(database: Database, tmp_path: Path) -> None:
    lines = await requests_logged(
        database, tmp_path / "log", {"PAYMENTS_LOG_LEVEL": "ERROR"}, ["/livez"]
    )
    assert [line["request_id"] for line in lines] == ["failed"]


async def test_what_is_refused_unread_has_not_the_id_of_the_request_before_it(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    with file.open("wb") as log:
        async with serve_process(database, stdout=log) as (url, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            first = b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: first\r\n\r\n"
            writer.write(first + b"garbage\r\n")
            answers = await reader.read()
            writer.close()
    assert answers.count(b"HTTP/1.1 ") == 2
    lines = [(line["request_id"], line["status"]) for line in read(file)]
    assert lines[-2:] == [(None, 400), ("first", 404)]
