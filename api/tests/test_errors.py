"""What every failure looks like, and the id that a request is found by."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from payments import config, errors, logs
from payments.app import Application, Route
from payments.messages import Response
from tests import PATIENCE_SECONDS
from tests.conftest import (
    Api,
    Database,
    Serve,
    at_capacity,
    client,
    problem,
    serve,
    settings_for,
)

Logged = Callable[..., Awaitable[list[dict[str, Any]]]]

METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "REPORT",
    "SUBSCRIBE",
)
ALLOWED = {
    "/v1/payments": {"GET", "HEAD", "POST"},
    "/v1/payments/{id}": {"GET", "HEAD", "PATCH", "DELETE"},
    "/v1/consumptions": {"POST"},
    "/create": {"POST"},
    "/update/{id}": {"PUT"},
    "/list": {"GET", "HEAD"},
    "/delete/{id}": {"DELETE"},
    "/status": {"GET", "HEAD"},
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
    "/docs/{asset}": {"GET", "HEAD"},
}
NOWHERE = [
    "/v1",
    "/v1/",
    "/v2/payments",
    "/payments",
    "/v1/payments/1/2",
    "/create/1",
    "/list/",
    "/metrics",
    "/v1%2Fpayments",
    "/v1%2fpayments/1",
    "/docs%2F",
    "/docs/nothing.js",
    "/docs/..%2f..%2fopenapi.yaml",
    "/docs/x%2f..%2fstart.js",
    "/openapi.yaml",
    "/favicon.ico",
    "/%00",
    "/%FF",
    "/%F0%9F%98%80",
    "/" + "a" * 8000,
]


def test_every_path_has_its_row() -> None:
    application = Application(config.Settings(database_url="postgresql://nowhere"))
    allowed: dict[str, set[str]] = {}
    for route in application.routes:
        allowed.setdefault(route.path, set()).add(route.method)
    assert {
        path: methods | ({"HEAD"} if "GET" in methods else set())
        for path, methods in allowed.items()
    } == ALLOWED


@pytest.mark.parametrize("path", ALLOWED)
async def test_a_method_that_is_not_taken(shared: Api, path: str) -> None:
    address = path.replace("{id}", "1").replace("{asset}", "start.js")
    for method in METHODS:
        if method in ALLOWED[path]:
            continue
        answer = await shared.http.request(method, address, headers={"Authorization": ""})
        assert answer.status_code == 405, method
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == ALLOWED[path]
        if method != "HEAD":
            problem(answer, 405, "method-not-allowed")


@pytest.mark.parametrize("path", NOWHERE, ids=lambda path: path[:20])
async def test_an_address_with_nothing(shared: Api, path: str) -> None:
    # Any file of the docs page is an address that takes GET.
    methods = ("GET",) if path.startswith("/docs/") else ("GET", "POST", "OPTIONS", "PROPFIND")
    for method in methods:
        problem(await shared.http.request(method, path), 404, "not-found")
    answer = await shared.http.head(path)
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/payments?\xff",
        b"/v1/payments?status=\xc3\xa9",
        b"/v1/payments?%",
        b"/v1/payments?%zz=1",
        b"/v1/payments?" + b"a&" * 3000,
        b"/v1/payments?;",
        b"/v1/payments/\xff",
        b"/v1/payments/%",
        b"/v1/payments/%zz",
        b"//",
        b"/./v1/payments",
        b"/v1/payments#fragment",
        b"http://elsewhere/v1/nothing",
        b"*",
    ],
    ids=lambda target: repr(target[:24]),
)
async def test_odd_targets_are_never_a_5xx(shared: Api, target: bytes) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n"
        % (target, shared.key.encode())
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status = int(head.split()[1])
    assert status in (200, 400, 404, 422), head
    if status != 200:
        assert b"content-type: application/problem+json" in head.lower()
        assert json.loads(body)["status"] == status


def _kinds(of: type[errors.Problem] = errors.Problem) -> list[type[errors.Problem]]:
    return [kind for sub in of.__subclasses__() for kind in [sub, *_kinds(sub)]]


def test_each_kind_has_a_type_a_status_and_a_title_of_its_own() -> None:
    kinds = [kind for kind in _kinds() if not kind.__name__.startswith("_")]
    assert len({kind.type for kind in kinds}) == len(kinds)
    for kind in kinds:
        body = json.loads(kind("Why.").body("id"))
        assert list(body) == ["type", "title", "status", "detail", "request_id"]
        assert body["title"]
        assert 400 <= body["status"] < 600
        if body["status"] == 503:
            assert int(kind("Why.").headers["retry-after"]) >= 1


async def test_more_requests_than_the_service_takes(start: Serve, database: Database) -> None:
    async with at_capacity(start, database) as (api, id):
        answer = await api.send("GET", f"/v1/payments/{id}")
        problem(answer, 503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        # Health is asked for most when there is too much to do.
        for probe in ("/livez", "/readyz", "/status"):
            assert (await api.send("GET", probe)).status_code == 200


async def test_a_body_that_does_not_arrive_takes_nobodys_place(
    start: Serve, database: Database
) -> None:
    url = await start(active_requests_limit=1)
    port = int(url.rpartition(":")[2])
    async with client(url, await database.key()) as api:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        assert (await api.send("GET", "/v1/payments")).status_code == 200
        writer.close()


async def test_a_mistake_of_the_services_own_is_a_500(database: Database) -> None:
    async def fail(*_: object) -> Response:
        raise RuntimeError("secret")

    settings = settings_for(database)
    application = Application(settings)
    application._table["/mistake", ""] = {"GET": Route("GET", "/mistake", None, fail)}
    async with serve(settings, application) as url, client(url, "none") as api:
        answer = await api.send("GET", "/mistake")
        problem(answer, 500, "internal-error")
        assert "secret" not in answer.text


async def test_a_request_has_a_deadline(start: Serve, database: Database) -> None:
    url = await start(
        request_timeout_seconds=4.0,
        acquire_timeout_seconds=1.6,
        connect_timeout_seconds=1.5,
        command_timeout_seconds=2.3,
        statement_timeout_seconds=2.2,
        lock_timeout_seconds=2.1,
    )
    async with client(url, await database.key()) as api, database.connect() as holder:
        await api.payment()
        async with holder.transaction():
            await holder.execute("LOCK payments")
            answers = await asyncio.gather(*(api.create({"payment": 1}) for _ in range(8)))
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["type"] in (
                "/problems/deadline-exceeded",
                "/problems/database-unavailable",
            )
            assert int(answer.headers["Retry-After"]) >= 1
        await api.payment()


# Request ids


@pytest.mark.parametrize(
    "sent", ["a", "x" * 128, "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "a/b:c=d;~"]
)
async def test_a_request_id_comes_back(shared: Api, sent: str) -> None:
    for path in ("/livez", "/v1/payments", "/v1/payments/999999999", "/nowhere"):
        answer = await shared.send("GET", path, X_Request_Id=sent)
        assert answer.headers.get_list("X-Request-Id") == [sent]
        if answer.is_error:
            assert answer.json()["request_id"] == sent


@pytest.mark.parametrize(
    "sent", [None, b"", b"x" * 129, b"a b", b"a\tb", b"\xff", "é".encode(), b'{"a":\xc3\xa9}']
)
async def test_a_request_id_is_made(shared: Api, sent: bytes | None) -> None:
    headers = {} if sent is None else {b"X-Request-Id": sent}
    ids = set()
    for path in ("/livez", "/nowhere", "/v1/payments/0"):
        answer = await shared.http.get(path, headers=headers)
        [made] = answer.headers.get_list("X-Request-Id")
        assert made.encode() != sent
        assert 16 <= len(made) <= 128
        assert made.isascii()
        assert made.isprintable()
        ids.add(made)
    assert len(ids) == 3


async def test_also_where_the_body_is_too_large(shared: Api) -> None:
    answer = await shared.send("POST", "/create", bytes(100_000), X_Request_Id="large")
    assert problem(answer, 413, "body-too-large")["request_id"] == "large"


@pytest.fixture
def logged(api: Api, capsys: pytest.CaptureFixture[str]) -> Logged:
    """Makes requests and returns the log lines that they cause."""
    logger = logging.getLogger("payments")
    level = logger.level

    async def logged(*requests: tuple[str, str]) -> list[dict[str, Any]]:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logs.JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            for number, (method, path) in enumerate(requests):
                await api.send(method, path, X_Request_Id=f"request-{number}")
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return logged


@pytest.mark.in_process  # reads its log
async def test_one_log_line_a_request_with_its_id(logged: Logged) -> None:
    lines = await logged(
        ("GET", "/v1/payments/7"), ("GET", "/livez"), ("GET", "/secret"), ("PROPFIND", "/list")
    )
    assert [(line["request_id"], line["route"], line["status"]) for line in lines] == [
        ("request-0", "/v1/payments/{id}", 404),
        ("request-1", "/livez", 200),
        ("request-2", "", 404),
        ("request-3", "", 405),
    ]
    for line in lines:
        assert line["logger"] == "payments.access"
        assert line["level"] == ("INFO" if line["duration_ms"] < 250 else "WARNING")
        assert line["duration_ms"] >= 0
    assert [line["client"] for line in lines] == ["shop", None, None, None]
    assert "secret" not in json.dumps(lines)


@pytest.mark.in_process  # reads its log
async def test_a_failure_has_a_log_line_with_its_id(logged: Logged, database: Database) -> None:
    await database.fetch("DROP TABLE payments")
    lines = await logged(("GET", "/v1/payments/1"))
    assert {line["request_id"] for line in lines} == {"request-0"}
    assert any("exception" in line for line in lines)
    assert lines[-1]["status"] == 503


@pytest.mark.in_process  # reads its log
async def test_a_client_that_leaves_is_no_failure(
    start: Serve, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    url, key = await start(), await database.key()
    async with database.connect() as holder, holder.transaction():
        await holder.execute("LOCK payments")
        async with client(url, key) as api:
            with pytest.raises(httpx.ReadTimeout):
                await api.http.get(
                    "/v1/payments", timeout=httpx.Timeout(PATIENCE_SECONDS, read=0.1)
                )
    async with client(url, key) as api:
        assert (await api.send("GET", "/v1/payments")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
