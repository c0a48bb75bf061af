"""The port of `/metrics`: it answers a scrape whatever else is connected."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from payments import config, metrics_server
from tests import PATIENCE_SECONDS
from tests.conftest import Database, serve_process

HOST = "127.0.0.1"
IDLE = 300


@pytest.fixture
def port() -> Iterator[int]:
    """A running server's port."""
    settings = config.Settings(database_url="postgresql://", http_host=HOST, metrics_port=0)
    server = metrics_server.serve(settings)
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.in_process  # counts the threads of the process
async def test_hundreds_of_idle_connections_stop_no_scrape(database: Database) -> None:
    async with serve_process(database) as (_, url, process):
        address = (HOST, httpx.URL(url).port)
        with ExitStack() as stack:
            for number in range(IDLE):
                idle = socket.create_connection(address, PATIENCE_SECONDS)
                stack.enter_context(idle)
                if number % 2:
                    idle.sendall(b"GET /metrics HTTP/1.1\r\n")  # and nothing more
            async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
                answer = await http.get(url)
                assert answer.status_code == 200
                assert "payments_build_info" in answer.text
            # Those whose place was taken end, and their threads.
            async with asyncio.timeout(PATIENCE_SECONDS):
                while _threads(process.pid) > 2 * metrics_server.CONNECTIONS_LIMIT:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


def _threads(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/task").iterdir()])


def test_the_oldest_connection_makes_room(port: int) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((HOST, port), PATIENCE_SECONDS))
            for _ in range(metrics_server.CONNECTIONS_LIMIT + 1)
        ]
        assert idle[0].recv(1) == b""
        idle[1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert idle[1].recv(12) == b"HTTP/1.0 200"


def test_an_idle_connection_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    for sent in (b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection((HOST, port), PATIENCE_SECONDS) as idle:
            idle.sendall(sent)
            assert idle.recv(1) == b""


def test_every_address() -> None:
    settings = config.Settings(database_url="postgresql://", http_host="::", metrics_port=0)
    server = metrics_server.serve(settings)
    try:
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{server.server_port}/metrics"
            assert httpx.get(url, trust_env=False).status_code == 200
    finally:
        server.shutdown()
        server.server_close()
