"""The server's limits and its drain, over real sockets, with an application of a few lines."""

import asyncio
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laptop.children import wait_until
from payments import config, request_head
from payments.protocol import LimitedProtocol
from payments.server import Server, listen
from tests import PATIENCE_SECONDS
from tests.command import is_here
from tests.conftest import SECURITY_HEADERS

# An application of a few lines is in the service's place.
pytestmark = pytest.mark.in_process

SETTINGS = config.Settings(
    database_url="postgresql://nowhere",
    http_host="127.0.0.1",
    http_port=0,
    shutdown_delay_seconds=0.0,
)
HEADER_TIMEOUT_SECONDS = 0.3
WRITE_TIMEOUT_SECONDS = 0.4

# For the tests of what comes too late.
impatient = pytest.mark.parametrize(
    "running",
    [
        {
            "header_timeout_seconds": HEADER_TIMEOUT_SECONDS,
            "body_timeout_seconds": 0.3,
            "write_timeout_seconds": WRITE_TIMEOUT_SECONDS,
        }
    ],
    indirect=True,
    ids=["impatient"],
)
LARGE = 64 * 1024 * 1024


class App:
    """Echoes, except at the few paths that misbehave in a way that a test needs."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.scopes: list[dict[str, Any]] = []
        self.draining = False
        self.stopped = False
        self.may_answer = asyncio.Event()  # what is asked of /held

    def drain(self) -> None:
        self.draining = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.scopes.append(scope)
        path = scope["path"]
        if path in ("/early", "/large", "/endless"):
            await self._answer_at_once(path, receive, send)
            return
        if path == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.seen.append("disconnect")
                # As an application would that does not look what it received.
                await _send(send, 200, b"late")
                return
            body += event["body"]
            if not event["more_body"]:
                break
        if path == "/slow":
            await asyncio.sleep(0.5)
        if path == "/held":
            self.seen.append("held")
            await self.may_answer.wait()
        names = sorted({name.decode() for name, _ in scope["headers"]})
        answer = {"path": path, "length": len(body), "headers": names}
        await _send(send, 200, json.dumps(answer).encode())

    async def _answer_at_once(self, path: str, receive: Any, send: Any) -> None:
        if path == "/early":
            await _send(send, 401, b"no key")
        elif path == "/large":
            self.seen.append("large")
            await _send(send, 200, bytes(LARGE))
            self.seen.append("sent")
        else:
            await _stream(receive, send)
            self.seen.append("disconnect")

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.stopped = True
        await send({"type": "lifespan.shutdown.complete"})


async def _send(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(receive: Any, send: Any) -> None:
    """Sends pieces until the client has gone."""
    await receive()
    gone = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await asyncio.sleep(0.01)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode().strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            assert headers.items() >= SECURITY_HEADERS.items()
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Returns what comes until the server closes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()

    async def refusal(self, status: int) -> dict[str, Any]:
        """Returns the problem that the server answers before it closes."""
        actual, headers, body = await self.answer()
        assert actual == status, body
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["cache-control"] == "no-store"
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
        problem = json.loads(body)
        assert isinstance(problem, dict)
        assert problem["status"] == status
        assert await self.rest() == b""
        return problem

    async def echo(self) -> dict[str, Any]:
        status, _, body = await self.answer()
        assert status == 200, body
        echoed = json.loads(body)
        assert isinstance(echoed, dict)
        return echoed

    async def trickle(self, data: bytes, seconds: float) -> None:
        """Sends the bytes one by one, spread over the time, until the server answers."""
        for byte in data:
            self.send(bytes([byte]))
            await asyncio.sleep(seconds / len(data))


def listening(port: int = 0) -> socket.socket:
    """Returns what a server takes its connections from."""
    return listen("127.0.0.1", port, "PAYMENTS_HTTP_PORT")


class Running:
    """A server in this event loop, and the clients that a test made for it."""

    def __init__(self, settings: config.Settings) -> None:
        self.app = App()
        self.server = Server(self.app, settings, listening(settings.http_port))
        self.task = asyncio.create_task(self.server.serve())
        self.clients: list[Client] = []

    async def started(self) -> None:
        while not (self.server.started and self.server.server_state.default_headers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client

    async def no_connections(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.server.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def seen(self, what: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while what not in self.app.seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task

    async def stop(self) -> None:
        for client in self.clients:
            client.writer.close()
        if not self.server.should_exit:
            self.server.begin_shutdown()
        await self.ended()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Start]:
    """Starts servers with changed settings; at the end, none may have logged a warning."""
    caplog.set_level(logging.INFO)
    servers: list[Running] = []

    async def _start(**changes: Any) -> Running:
        running = Running(msgspec.structs.replace(SETTINGS, **changes))
        servers.append(running)
        await running.started()
        return running

    yield _start
    for running in servers:
        await running.stop()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.fixture
async def running(start: Start, request: pytest.FixtureRequest) -> Running:
    return await start(**getattr(request, "param", {}))


@pytest.fixture
async def client(running: Running) -> Client:
    return await running.connect()


def _head(*fields: str, line: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: a", *fields, "", ""]).encode()


def _post(body: bytes, path: str = "/") -> bytes:
    return _head(f"Content-Length: {len(body)}", line=f"POST {path} HTTP/1.1") + body


CHUNKED = _head("Transfer-Encoding: chunked", line="POST / HTTP/1.1")


# The size of the headers


async def test_a_giant_header_is_431_while_it_streams_in(client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nA: " + bytes(20_000_000).replace(b"\0", b"a"))
    problem = await client.refusal(431)
    assert problem["type"] == "/problems/headers-too-large"


async def test_a_giant_header_that_trickles_is_431_before_its_end(client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nA: ")
    for _ in range(17):
        client.send(b"a" * 1024)
        await asyncio.sleep(0.01)
    await client.refusal(431)


async def test_a_giant_address_is_431(client: Client) -> None:
    client.send(b"GET /" + b"a" * 20_000)
    await client.refusal(431)


async def test_headers_over_the_limit_in_one_piece_are_431(client: Client) -> None:
    client.send(_head("A: " + "a" * 16_400))
    await client.refusal(431)


@pytest.mark.parametrize(("size", "status"), [(16 * 1024, 200), (16 * 1024 + 1, 431)])
async def test_headers_at_the_limit_pass(client: Client, size: int, status: int) -> None:
    client.send(_head("A: " + "a" * (size - len(_head("A: ")))))
    assert (await client.answer())[0] == status


async def test_a_chunked_body_after_headers_at_the_limit_passes(client: Client) -> None:
    head = CHUNKED[:-2] + b"A: " + b"a" * (16 * 1024 - len(CHUNKED) - 5) + b"\r\n\r\n"
    for piece in (head + b"5\r\n", b"hello\r\n", b"0\r\n\r\n"):
        client.send(piece)
        await asyncio.sleep(0.02)
    assert (await client.echo())["length"] == 5


@pytest.mark.parametrize(("count", "status"), [(64, 200), (65, 431), (5_000, 431)])
async def test_64_fields_pass_and_more_are_431(client: Client, count: int, status: int) -> None:
    client.send(_head(*(f"A{number}: b" for number in range(count - 1))))
    assert (await client.answer())[0] == status


async def test_a_body_straight_after_the_headers_does_not_count(client: Client) -> None:
    client.send(_post(b"b" * 60_000))
    assert (await client.echo())["length"] == 60_000


async def test_the_second_request_is_counted_from_its_own_start(client: Client) -> None:
    large = _head("A: " + "a" * 10_000)
    client.send(large + large)
    await client.echo()
    await client.echo()
    client.send(large[:9_000])
    await asyncio.sleep(0.05)
    client.send(large[9_000:])
    await client.echo()


async def test_giant_trailers_are_431(client: Client) -> None:
    client.send(CHUNKED + b"2\r\nab\r\n0\r\nA: " + b"a" * 1_000_000)
    await client.refusal(431)


async def test_many_trailers_are_431(client: Client) -> None:
    client.send(CHUNKED + b"0\r\n" + b"A: b\r\n" * 64 + b"\r\n")
    await client.refusal(431)


async def test_trailers_are_no_headers(client: Client) -> None:
    client.send(CHUNKED + b"2\r\nab\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert (await client.echo())["headers"] == ["host", "transfer-encoding"]


async def test_a_giant_chunk_extension_is_431(client: Client) -> None:
    client.send(CHUNKED + b"2;" + b"a" * 1_000_000)
    await client.refusal(431)


async def test_endless_empty_lines_are_431(client: Client) -> None:
    client.send(b"\r\n" * 10_000)
    await client.refusal(431)


# The time of the headers


@impatient
async def test_a_trickled_header_is_408(client: Client) -> None:
    await client.trickle(b"GET / HTTP/1.1\r\nA: ", 0.6)
    problem = await client.refusal(408)
    assert problem["type"] == "/problems/request-timeout"


@impatient
async def test_headers_that_stop_are_408(client: Client) -> None:
    client.send(b"GET / HT")
    await client.refusal(408)


@pytest.mark.parametrize("nothing", [b"", b"\r\n"])
@impatient
async def test_a_connection_without_a_request_is_closed_in_silence(
    running: Running, nothing: bytes
) -> None:
    began = time.monotonic()
    client = await running.connect()
    client.send(nothing)
    assert await client.rest() == b""
    assert time.monotonic() - began > HEADER_TIMEOUT_SECONDS / 2  # its timer counts in milliseconds


@impatient
async def test_a_second_request_that_trickles_is_408(client: Client) -> None:
    client.send(_head())
    await client.echo()
    await asyncio.sleep(0.5)  # Idle for longer than the headers may take: allowed.
    await client.trickle(b"GET / HTTP/1.1\r\nA: ", 0.6)
    await client.refusal(408)


async def test_an_idle_connection_is_closed_in_silence(start: Start) -> None:
    client = await (await start(keep_alive_seconds=0.2)).connect()
    client.send(_head())
    await client.echo()
    assert await client.rest() == b""


async def test_headers_in_pieces_but_in_time_pass(client: Client) -> None:
    for _ in range(3):
        await client.trickle(_head("A: b"), 0.05)
        await client.echo()


# The time of the body


@impatient
async def test_a_trickled_body_is_408_and_the_application_sees_a_disconnect(
    running: Running, client: Client
) -> None:
    client.send(_post(b"")[:-5] + b"20\r\n\r\n")
    await client.trickle(b"abcdefgh", 0.6)
    await client.refusal(408)
    assert running.app.seen == ["disconnect"]


async def test_a_body_in_pieces_but_in_time_passes_and_the_connection_lives(
    client: Client,
) -> None:
    for _ in range(3):
        client.send(_post(b"abcdef")[:-6])
        await client.trickle(b"abcdef", 0.1)
        assert (await client.echo())["length"] == 6


@impatient
async def test_a_late_body_after_the_answer_began_cuts_it(running: Running, client: Client) -> None:
    client.send(_post(b"ab", "/begun")[:-1])
    answer = await client.rest()
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"5\r\nbegun\r\n")
    assert running.app.seen == ["disconnect"]


@impatient
async def test_a_late_body_that_the_server_asked_for_is_408(client: Client) -> None:
    client.send(_head("Content-Length: 2", "Expect: 100-continue", line="POST / HTTP/1.1"))
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.refusal(408)


@impatient
async def test_a_pipelined_body_that_is_late_waits_for_the_answers_before_it(
    running: Running, client: Client
) -> None:
    client.send(_head(line="GET /slow HTTP/1.1") + _post(b"ab", "/second")[:-1])
    assert (await client.echo())["path"] == "/slow"
    await client.refusal(408)
    assert [scope["path"] for scope in running.app.scopes] == ["/slow"]


async def test_a_request_in_one_piece_makes_no_timer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for name in ("_expect_head", "_expect_body"):
        monkeypatch.setattr(LimitedProtocol, name, lambda _, name=name: made.append(name))
    client = await (await start()).connect()
    for _ in range(3):
        client.send(_post(b"b" * 1_000))
        await client.echo()
    assert made == ["_expect_head"]  # The one that the connection began with.


# An answer before the body


async def test_an_answer_before_the_body_is_the_last_and_reaches_the_client(
    running: Running, client: Client
) -> None:
    client.send(_post(b"b" * 20_000_000, "/early"))
    status, headers, body = await client.answer()
    assert (status, headers["connection"], body) == (401, "close", b"no key")
    await running.no_connections()
    assert running.app.seen == []


async def test_an_answer_before_a_body_that_never_comes_is_closed_after_it(
    client: Client,
) -> None:
    client.send(_post(b"ab", "/early")[:-2])
    assert (await client.answer())[1]["connection"] == "close"
    assert await client.rest() == b""


async def test_a_client_that_keeps_its_side_open_is_closed_after_a_second(
    running: Running, client: Client
) -> None:
    client.send(_post(b"ab", "/early")[:-2])
    await client.answer()
    await running.no_connections()


async def test_an_answer_after_the_whole_body_keeps_the_connection(client: Client) -> None:
    for _ in range(2):
        client.send(_post(b"ab", "/early"))
        assert "connection" not in (await client.answer())[1]


# A client that does not read


@impatient
async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    running: Running, client: Client
) -> None:
    began = time.monotonic()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(_head(line="GET /large HTTP/1.1"))
    await running.seen("large")
    await running.no_connections()
    assert time.monotonic() - began > WRITE_TIMEOUT_SECONDS / 2


@impatient
async def test_a_client_that_takes_nothing_before_the_close_is_cut_off(
    running: Running, client: Client
) -> None:
    began = time.monotonic()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(_head("Connection: close", line="GET /large HTTP/1.1"))
    await running.seen("large")
    await running.no_connections()
    assert time.monotonic() - began > WRITE_TIMEOUT_SECONDS / 2


async def test_a_slow_reader_gets_its_answer(start: Start) -> None:
    limit_seconds = 2
    client = await (await start(write_timeout_seconds=limit_seconds)).connect()
    began = time.monotonic()
    client.send(_head("Connection: close", line="GET /large HTTP/1.1"))
    received = 0
    while piece := await client.reader.read(1024 * 1024):
        received += len(piece)
        # Longer than the limit for the whole, much less for a piece.
        if time.monotonic() - began < 2 * limit_seconds:
            await asyncio.sleep(0.02)
    assert received > LARGE


# What does not parse


# What httptools rejects by itself, and what it would accept; RFC 9112 decides where it is clear.
HOST = b"GET / HTTP/1.1\r\nHost: "
FIELD = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"

REQUESTS = [
    # The request line
    (b"hello" + END, 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET / http/1.1\r\nHost: a" + END, 400),
    (b"GET / XTTP/1.1\r\nHost: a" + END, 400),
    (b"GET / HTTP/1.1 \r\nHost: a" + END, 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET\t/ HTTP/1.1\r\nHost: a" + END, 400),
    (b" GET / HTTP/1.1\r\nHost: a" + END, 400),
    (b"get / HTTP/1.1\r\nHost: a" + END, 400),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET /a b HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET /a#b HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET /\0 HTTP/1.1\r\nHost: a" + END, 400),
    ("GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    ("GET /?é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    (b"GET a:1 HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET http://[ HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET http://a:99999/ HTTP/1.1\r\nHost: a" + END, 400),
    (b"GET  /  HTTP/1.1\r\nHost: a" + END, 200),  # words may be apart by more (section 3)
    (b"\r\nGET / HTTP/1.1\r\nHost: a" + END, 200),  # section 2.2
    # The version
    (b"GET /\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\nHost: a" + END, 505),
    (b"GET / HTTP/2.0\r\nHost: a" + END, 505),
    (b"GET / HTTP/3.0\r\nHost: a" + END, 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET / HTTP/1.2\r\nHost: a" + END, 400),
    (b"GET / HTTP/1.10\r\nHost: a" + END, 400),
    (b"GET / HTTP/11.1\r\nHost: a" + END, 400),
    (b"GET / HTTP/1.0" + END, 200),
    (b"GET / RTSP/1.0\r\nHost: a" + END, 400),
    (b"POST  /a?b  RTSP/1.1\r\nHost: a" + END, 400),
    (b"OPTIONS * RTSP/1.0\r\nCSeq: 1" + END, 400),
    (b"GET / ICE/1.0\r\nHost: a" + END, 400),
    (b"SOURCE / ICE/1.0\r\nHost: a" + END, 400),
    (FIELD + b"User-Agent: player RTSP/1.0" + END, 200),
    (POST + b'Content-Length: 19\r\n\r\n["PLAY a RTSP/1.0"]', 200),
    # Header fields
    (FIELD + b"no colon" + END, 400),
    (FIELD + b" : b" + END, 400),
    (FIELD + b": b" + END, 400),
    (FIELD + b"A : b" + END, 400),
    (FIELD + b"A(: b" + END, 400),
    (FIELD + b"A\xff: b" + END, 400),
    (FIELD + b"A: b\r\n c" + END, 400),
    (b"GET / HTTP/1.1\r\n Host: a" + END, 400),
    (FIELD + b"A: b\n\n", 400),
    (FIELD + b"A: b\r\r\n\r\n", 400),
    (FIELD + b"A: b\rc" + END, 400),
    (FIELD + b"A: b\0c" + END, 400),
    (FIELD + b"A: b\x01c" + END, 400),
    (FIELD + b"A: b\x7fc" + END, 400),
    (FIELD + b"A:\tb \t" + END, 200),
    (FIELD + b"A: \xff" + END, 200),
    (FIELD + b"A:" + END, 200),
    # Host
    (b"GET / HTTP/1.1" + END, 400),
    (b"GET http://a/ HTTP/1.1" + END, 400),
    (FIELD + b"Host: a" + END, 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b" + END, 400),
    (HOST + b"a b" + END, 400),
    (HOST + b"a/b" + END, 400),
    (HOST + b"a@b" + END, 400),
    (HOST + b"a?b" + END, 400),
    (HOST + b"http://a" + END, 400),
    (HOST + b"a:b" + END, 400),
    (HOST + b"a:1:2" + END, 400),
    (HOST + b"::1" + END, 400),
    (HOST + b"[::1" + END, 400),
    (HOST + b"[a]" + END, 400),
    (HOST + b"a%2" + END, 400),
    (HOST + "é".encode() + END, 400),
    (HOST + b"payments.example:8000 " + END, 200),
    (HOST + b"127.0.0.1" + END, 200),
    (HOST + b"[::1]:80" + END, 200),
    (HOST + b"%C3%A9:" + END, 200),
    (HOST + END, 200),  # for an address that has no host (section 3.2)
    # Content-Length
    (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    (POST + b"Content-Length: 5_0\r\n\r\nhello", 400),
    (POST + b"Content-Length: 5 5\r\n\r\nhello", 400),
    (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    (POST + b"Content-Length:\r\n\r\nhello", 400),
    (POST + b"Content-Length: 99999999999999999999\r\n\r\nhello", 400),
    (POST + b"Content-Length: 005 \r\n\r\nhello", 200),
    # Transfer-Encoding
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 501),
    (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: Chunked \r\n\r\n0\r\n\r\n", 200),
    # Chunks
    (CHUNKS + b"+2\r\nab\r\n0\r\n\r\n", 400),
    (CHUNKS + b"0x2\r\nab\r\n0\r\n\r\n", 400),
    (CHUNKS + b"2 \r\nab\r\n0\r\n\r\n", 400),
    (CHUNKS + b"2\nab\n0\n\n", 400),
    (CHUNKS + b"2\r\nab\n0\r\n\r\n", 400),
    (CHUNKS + b"2\r\nabc\r\n0\r\n\r\n", 400),
    (CHUNKS + b"\r\n2\r\nab\r\n0\r\n\r\n", 400),
    (CHUNKS + b"fffffffffffffffff\r\nab", 400),
    (CHUNKS + b"2;\0\r\nab\r\n0\r\n\r\n", 400),
    (CHUNKS + b"2\r\nab\r\n0\r\n A: b\r\n\r\n", 400),
    (CHUNKS + b"2;a=b\r\nab\r\n0\r\nA: b\r\n\r\n", 200),
]
REQUESTS += [
    # Fields that stand once, and lists
    (FIELD + b"%b: a\r\n%b: a\r\n\r\n" % (name, name.lower()), status)
    for status, names in [
        (400, (b"Authorization", b"Content-Type", b"Idempotency-Key", b"Traceparent")),
        (400, (b"X-Request-Id",)),
        (200, (b"Accept", b"Accept-Encoding", b"If-Match", b"If-None-Match", b"Unknown")),
    ]
    for name in names
]
TYPES = {
    400: "/problems/malformed-request",
    501: "/problems/not-implemented",
    505: "/problems/http-version-not-supported",
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
async def test_requests_are_accepted_or_rejected_as_rfc_9112_says(
    running: Running, split: bool
) -> None:
    wrong = []
    for request, status in REQUESTS:
        client = await running.connect()
        for sent in [request[n : n + 1] for n in range(len(request))] if split else [request]:
            client.send(sent)
            await asyncio.sleep(0)
        actual, _, body = await client.answer()
        if actual != status or (status != 200 and json.loads(body)["type"] != TYPES[status]):
            wrong.append((request, status, body))
        client.writer.close()
    assert wrong == []


async def test_rtsp_after_another_request_is_400(client: Client) -> None:
    client.send(_post(b"{}") + b"GET / RT")
    await client.echo()
    client.send(b"SP/1.0\r\nHost: a\r\n\r\n")
    await client.refusal(400)


async def test_white_space_after_a_value_is_no_part_of_it(running: Running, client: Client) -> None:
    client.send(_head("Idempotency-Key: a b \t"))
    await client.echo()
    assert (b"idempotency-key", b"a b") in running.app.scopes[0]["headers"]


async def test_a_body_that_does_not_parse_is_400(running: Running, client: Client) -> None:
    client.send(CHUNKED)
    await asyncio.sleep(0.05)
    client.send(b"no size\r\n")
    await client.refusal(400)
    assert running.app.seen == ["disconnect"]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("//[", "//["),
        ("/%ff", "/\ufffd"),
        ("http://a", "/"),
        ("http://a?b", "/"),
        ("http://a/b?c", "/b"),
        ("*", "*"),
        ("/a%2Fb%2f%41", "/a%2Fb%2FA"),
        ("/..%2fa", "/..%2Fa"),
    ],
)
async def test_an_odd_address_that_parses_reaches_the_application(
    client: Client, address: str, path: str
) -> None:
    client.send(_head(line=f"OPTIONS {address} HTTP/1.1"))
    assert (await client.echo())["path"] == path


# A client that shuts down its sending half


async def test_a_whole_request_before_the_end_is_answered(running: Running, client: Client) -> None:
    client.send(_post(b"ab", "/held"))
    client.writer.write_eof()
    await running.seen("held")
    running.app.may_answer.set()
    status, headers, body = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert json.loads(body)["length"] == 2
    assert await client.rest() == b""
    await running.no_connections()


async def test_pipelined_requests_before_the_end_are_answered(client: Client) -> None:
    client.send(_head(line="GET /slow HTTP/1.1") + _post(b"two", "/2") + _post(b"", "/3"))
    client.writer.write_eof()
    assert [(await client.echo())["path"] for _ in range(3)] == ["/slow", "/2", "/3"]
    assert await client.rest() == b""


@pytest.mark.parametrize("idle", [b"", b"\r\n", _head()], ids=["new", "blank", "answered"])
async def test_an_idle_connection_that_ends_is_closed_in_silence(
    running: Running, client: Client, idle: bytes
) -> None:
    client.send(idle)
    if idle.strip():
        await client.echo()
    client.writer.write_eof()
    assert await client.rest() == b""
    await running.no_connections()


@pytest.mark.parametrize(
    "part", [b"GE", _head()[:-2], _post(b"ab")[:-1], CHUNKED + b"2\r\nab\r\n"], ids=repr
)
async def test_a_request_that_ends_too_early_is_400(
    running: Running, client: Client, part: bytes
) -> None:
    client.send(part)
    client.writer.write_eof()
    await client.refusal(400)
    assert running.app.seen in ([], ["disconnect"])


@pytest.mark.parametrize("part", [b"GET /2 HT", _post(b"ab", "/2")[:-1], b"garbage\r\n"], ids=repr)
async def test_a_pipelined_request_that_ends_too_early_is_400_after_the_answers_before_it(
    running: Running, client: Client, part: bytes
) -> None:
    client.send(_head(line="GET /held HTTP/1.1") + part)
    client.writer.write_eof()
    await running.seen("held")
    running.app.may_answer.set()
    assert (await client.echo())["path"] == "/held"
    await client.refusal(400)


async def test_a_large_answer_after_the_end_is_whole(client: Client) -> None:
    client.send(_head(line="GET /large HTTP/1.1"))
    client.writer.write_eof()
    assert len(await client.rest()) > LARGE


async def test_a_client_that_closes_during_a_stream_is_noticed(
    running: Running, client: Client
) -> None:
    client.send(_head(line="GET /endless HTTP/1.1"))
    await client.reader.readuntil(b"piece")
    client.writer.close()
    await running.seen("disconnect")
    await running.no_connections()


# Pipelines and upgrades


async def test_no_header_of_a_proxy_is_believed(running: Running, client: Client) -> None:
    # From 127.0.0.1, which is whom uvicorn would believe.
    client.send(
        _head(
            "Forwarded: for=203.0.113.7;host=evil.example;proto=https",
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Host: evil.example",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Prefix: /evil",
            "X-Real-IP: 203.0.113.7",
        )
    )
    await client.echo()
    [scope] = running.app.scopes
    assert scope["client"] == client.writer.get_extra_info("sockname")
    assert scope["scheme"] == "http"
    assert scope["path"] == "/"
    assert scope.get("root_path", "") == ""


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send(
        _head(line="GET /slow HTTP/1.1") + _post(b"two", "/2") + _head(line="GET /3 HTTP/1.1")
    )
    assert [(await client.echo())["path"] for _ in range(3)] == ["/slow", "/2", "/3"]


@impatient
async def test_a_pipelined_request_that_stops_in_its_headers_is_408(client: Client) -> None:
    client.send(_head(line="GET /1 HTTP/1.1") + b"GET /2 HT")
    assert (await client.echo())["path"] == "/1"
    await client.refusal(408)


async def test_a_thousand_upgrades_in_a_pipeline_are_answered(client: Client) -> None:
    client.send(_head("Connection: Upgrade", "Upgrade: websocket") * 1_000)
    for _ in range(1_000):
        await client.echo()


async def test_garbage_after_a_request_does_not_take_its_answer(client: Client) -> None:
    client.send(_head(line="GET /slow HTTP/1.1") + b"garbage\r\n\r\n")
    assert (await client.echo())["path"] == "/slow"
    await client.refusal(400)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_ignored(client: Client, protocol: str) -> None:
    upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
    body = b"GET /smuggled HTTP/1.1\r\n\r\n"
    post = _head(*upgrade, f"Content-Length: {len(body)}", line="POST /2 HTTP/1.1") + body
    client.send(_head(*upgrade, line="GET /1?q HTTP/1.1") + post + _head(line="GET /3 HTTP/1.1"))
    answers = [await client.echo() for _ in range(3)]
    assert [(answer["path"], answer["length"]) for answer in answers] == [
        ("/1", 0),
        ("/2", len(body)),
        ("/3", 0),
    ]
    client.send(post[:-5])
    await asyncio.sleep(0.05)
    client.send(post[-5:])
    assert (await client.echo())["length"] == len(body)


# The end


@impatient
async def test_nothing_is_left_of_a_connection(running: Running) -> None:
    for sent in (b"", b"GET / HT", _head(), _post(b"ab")[:-1], _post(b"ab", "/early")[:-1]):
        client = await running.connect()
        client.send(sent)
        await asyncio.sleep(0.05)
        client.writer.transport.abort()
    await running.no_connections()

    def left() -> list[LimitedProtocol]:
        gc.collect()
        return [
            one
            for one in gc.get_objects()
            if isinstance(one, LimitedProtocol) and one.server_state is running.server.server_state
        ]

    assert [one for one in left() if one._timer or one._write_timer] == []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while left():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_drain_serves_on_for_its_delay(start: Start) -> None:
    running = await start(shutdown_delay_seconds=3600)
    idle = await running.connect()
    idle.send(_head())
    await idle.echo()
    running.server.begin_shutdown()
    assert running.app.draining
    late = await running.connect()
    for client in (idle, late):
        client.send(_head())
        await client.echo()
    running.server.begin_shutdown()  # a second call skips the delay
    for client in (idle, late):
        assert await client.rest() == b""
    await running.ended()
    assert running.app.stopped


async def test_a_drain_finishes_what_runs_after_its_delay(start: Start) -> None:
    running = await start(shutdown_delay_seconds=0.1)
    idle, busy = await running.connect(), await running.connect()
    idle.send(_head())
    await idle.echo()
    busy.send(_head(line="GET /held HTTP/1.1"))
    await running.seen("held")
    running.server.begin_shutdown()
    assert await idle.rest() == b""
    running.app.may_answer.set()
    assert (await busy.echo())["path"] == "/held"
    await running.ended()
    assert running.app.stopped
    with pytest.raises(OSError, match="refused"):
        await running.connect()


# A process of its own, for signals and the exit status

SCRIPT = """
import logging, sys
sys.path.insert(0, {tests!r})
logging.basicConfig(level="INFO", format="%(message)s")
from msgspec.structs import replace
from payments.server import run
from test_server import App, SETTINGS, listening
sys.exit(run(App(), replace(SETTINGS, **{changes!r}), listening()))
"""


def _process(**changes: Any) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(tests=str(here), changes=changes)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parent)},
    )


def _listening(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"Listening on .*port (\d+)", line):
            return int(found[1])
    raise AssertionError("the server did not start")


def _refused(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS):
            return False
    except ConnectionRefusedError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_process_exits_0(number: signal.Signals) -> None:
    process = _process(shutdown_delay_seconds=0.5)
    port = _listening(process)
    process.send_signal(number)
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "Draining for 0.5 s" in log
    assert "Traceback" not in log
    assert _refused(port)


def test_a_second_signal_skips_the_delay_and_a_third_waits_for_nothing() -> None:
    process = _process(shutdown_delay_seconds=3600, shutdown_timeout_seconds=3600)
    port = _listening(process)
    assert process.stderr is not None
    with socket.create_connection(("127.0.0.1", port)) as hanging:
        hanging.sendall(_post(b"ab")[:-1])
        process.send_signal(signal.SIGTERM)
        assert any("Draining" in line for line in process.stderr)
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as served:
            served.sendall(_head("Connection: close"))
            assert served.recv(1000).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: _refused(port), PATIENCE_SECONDS)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(config.SettingsError) as raised:
            listening(port)
    assert str(raised.value) == (
        f"PAYMENTS_HTTP_PORT: cannot listen on 127.0.0.1, port {port} (Address already in use):"
        " choose another port"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("2001:db8::1", ""),  # or there is no IPv6 at all
        ("host.invalid", ""),  # the resolver's words
        ("[::1]", ""),
    ],
)
def test_a_host_that_cannot_be_listened_on(host: str, reason: str) -> None:
    with pytest.raises(config.SettingsError) as raised:
        listen(host, 0, "PAYMENTS_HTTP_PORT")
    message = str(raised.value)
    assert message.startswith(f"PAYMENTS_HTTP_HOST: cannot listen on '{host}' ({reason}")
    assert "Unknown error" not in message


@pytest.mark.parametrize(
    ("host", "reached", "not_reached"),
    [
        ("::", ["127.0.0.1", "::1"], []),
        ("0.0.0.0", ["127.0.0.1"], ["::1"]),  # noqa: S104 - the default
        ("::1", ["::1"], ["127.0.0.1"]),
        ("127.0.0.1", ["127.0.0.1"], ["::1"]),
        ("localhost", ["127.0.0.1"], []),
    ],
)
def test_who_reaches_a_host(host: str, reached: list[str], not_reached: list[str]) -> None:
    if ":" in host and not is_here(host):
        with pytest.raises(config.SettingsError, match=f"PAYMENTS_HTTP_HOST: .*'{host}'"):
            listen(host, 0, "PAYMENTS_HTTP_PORT")
        return
    with listen(host, 0, "PAYMENTS_HTTP_PORT") as listener:
        port = listener.getsockname()[1]
        for address in filter(is_here, reached):
            socket.create_connection((address, port), PATIENCE_SECONDS).close()
        for address in not_reached:
            with pytest.raises(OSError, match=r"refused|assign|not supported"):
                socket.create_connection((address, port), PATIENCE_SECONDS)


@pytest.mark.parametrize("text", ["A", "A ", " ", "RTSP/", "A b ", "A b RTSP/"])
def test_a_long_text_is_searched_once(text: str) -> None:
    """Of a search that reads it again from each letter no test sees the end."""
    assert not request_head.is_rtsp((text * 1_000_000 + "RTSP/").encode())
