"""The port of `/metrics`: it answers a scrape whatever else is connected."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from prometheus_client import REGISTRY, Metric
from prometheus_client.registry import Collector

from laptop.children import wait_until
from payments import config, metrics_server
from tests import PATIENCE_SECONDS
from tests.command import is_here

HOST = "127.0.0.1"
IDLE = 300
LARGE = 16 * 1024 * 1024  # bytes: more than the kernel keeps for a client that does not read


@contextmanager
def served(host: str) -> Iterator[int]:
    """Runs a server; gives its port."""
    settings = config.Settings(database_url="postgresql://", http_host=host, metrics_port=0)
    server = metrics_server.serve(settings)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A running server's port; no connection ends because it is idle."""
    monkeypatch.setattr(metrics_server._Handler, "timeout", 10 * PATIENCE_SECONDS)
    with served(HOST) as port:
        yield port


def _scrape(port: int, host: str = HOST) -> str:
    answer = httpx.get(f"http://{host}:{port}/metrics", trust_env=False, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200
    return answer.text


def _threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_hundreds_of_idle_connections_stop_no_scrape(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((HOST, port), PATIENCE_SECONDS))
            for _ in range(IDLE)
        ]
        for connection in idle[-metrics_server.CONNECTIONS_LIMIT :]:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")  # and nothing more
        assert "payments_build_info" in _scrape(port)
        for connection in idle[: 1 - metrics_server.CONNECTIONS_LIMIT]:
            assert connection.recv(1) == b""
        assert wait_until(lambda: _threads() < metrics_server.CONNECTIONS_LIMIT, PATIENCE_SECONDS)
    assert not caplog.records


def test_the_oldest_connection_makes_room(port: int) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((HOST, port), PATIENCE_SECONDS))
            for _ in range(metrics_server.CONNECTIONS_LIMIT + 1)
        ]
        assert idle[0].recv(1) == b""
        idle[1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert idle[1].recv(12) == b"HTTP/1.0 200"


def test_an_answered_connection_needs_no_room(port: int) -> None:
    with socket.create_connection((HOST, port), PATIENCE_SECONDS) as idle:
        for _ in range(2 * metrics_server.CONNECTIONS_LIMIT):
            _scrape(port)
        idle.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.0 200"


def test_an_idle_connection_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    for sent in (b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection((HOST, port), PATIENCE_SECONDS) as idle:
            idle.sendall(sent)
            assert idle.recv(1) == b""


class _Large(Collector):
    def collect(self) -> Iterator[Metric]:
        yield Metric("large", "x" * LARGE, "gauge")


class _Failing(Collector):
    def collect(self) -> Iterator[Metric]:
        raise ValueError("of this collector")


@pytest.fixture
def collector(request: pytest.FixtureRequest) -> Iterator[None]:
    """A collector beside the service's own."""
    added = request.param()
    # It is asked for its metrics only once it is registered.
    added.describe = list
    REGISTRY.register(added)
    yield
    REGISTRY.unregister(added)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("collector", [_Large], indirect=True)
def test_a_client_that_stops_reading_is_cut_off_without_a_word(
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    with socket.create_connection((HOST, port), PATIENCE_SECONDS) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.0 200"
        assert wait_until(lambda: _threads() == 0, PATIENCE_SECONDS)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("collector", [_Failing], indirect=True)
def test_a_mistake_of_ours_is_logged_once(
    port: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection((HOST, port), PATIENCE_SECONDS) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b""
    assert capsys.readouterr() == ("", "")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "/metrics could not be answered",
    )


def test_every_address() -> None:
    if not is_here("::"):
        with pytest.raises(config.SettingsError, match="PAYMENTS_HTTP_HOST: cannot"), served("::"):
            pass
        return
    with served("::") as port:
        _scrape(port)
        if is_here("::1"):
            _scrape(port, "[::1]")
