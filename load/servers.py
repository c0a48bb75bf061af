"""What is measured: the service and its peers, as processes on one PostgreSQL."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx
import psutil

from laptop.children import prefix, wait_until
from laptop.postgres import Cluster
from payments import auth, migrate

CHECKOUT = Path(__file__).resolve().parents[1]
SERVICE = CHECKOUT / ".venv/bin/payments"
PEERS = CHECKOUT / "load/peers"
PEERS_PYTHON = CHECKOUT / ".venv-load/bin/python"

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 15
CLIENT = "bench"
MVP_KEY = "a-key-of-the-mvp"

# Durable as in production; room for a log of ten minutes, so that no checkpoint is forced.
POSTGRESQL = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200"}


def python_version() -> str:
    """Returns the version of Python that the service and its peers both run on.

    Raises:
        SystemExit: they run on two, so that their ratio would compare these as well.
    """
    service, peers = (
        subprocess.check_output([python, "--version"], text=True).split()[1]
        for python in (SERVICE.with_name("python"), PEERS_PYTHON)
    )
    if service != peers:
        raise SystemExit(
            f"The service is installed on Python {service}, its peers on {peers}: name one with"
            " PYTHON="
        )
    return service


@contextmanager
def cluster_for_bench(**settings: str) -> Iterator[Cluster]:
    """Runs a PostgreSQL of its own, in `BENCH_DIRECTORY` if that is set."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIRECTORY")) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL is not root
        with Cluster(Path(directory) / "data", POSTGRESQL | settings) as cluster:
            yield cluster


class Usage(NamedTuple):
    """What a group of processes has used: seconds of CPU, user and system; bytes of memory."""

    cpu_seconds: float
    rss_bytes: int


def usage(pids: Iterable[int]) -> Usage:
    """Returns what the processes and all their descendants have used, ended ones included."""
    seconds, rss = 0.0, 0
    for pid in pids:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                times, memory = process.cpu_times(), process.memory_info()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system + times.children_user + times.children_system
            rss += memory.rss
    return Usage(seconds, rss)


class Server(NamedTuple):
    """One that runs: where it answers, and what it wants to be told."""

    name: str
    url: str
    key: str
    pid: int
    ready_seconds: float  # from the start of the process to its first answer
    create: str = "/v1/payments"
    read: str = "/v1/payments/{id}"
    page: str = "/v1/payments?limit=100"

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def client(self) -> httpx.Client:
        """Returns a client that holds the key."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=30)


def make_database(cluster: Cluster, name: str) -> tuple[str, str]:
    """Makes a migrated database; returns the URL for the service's role, and a key."""
    return asyncio.run(_make_database(cluster, name))


async def _make_database(cluster: Cluster, name: str) -> tuple[str, str]:
    administrator = await asyncpg.connect(cluster.url())
    await administrator.execute(f"DROP DATABASE IF EXISTS {name}")
    await administrator.execute(f"CREATE DATABASE {name}")
    await administrator.close()
    await migrate.apply_roles(cluster.url(name))
    await migrate.migrate(cluster.url(name, "payments_migrator"))
    connection = await asyncpg.connect(cluster.url(name))
    try:
        key = await auth.create_key(connection, CLIENT, auth.SCOPES)
    finally:
        await connection.close()
    return cluster.url(name, "payments_app"), key


@contextmanager
def service(
    cluster: Cluster, name: str, port: int, database: tuple[str, str] | None = None, **settings: str
) -> Iterator[Server]:
    """Runs the service as it is shipped, but for the settings."""
    url, key = database or make_database(cluster, name)
    environment = {
        "PAYMENTS_DATABASE_URL": url,
        "PAYMENTS_HTTP_HOST": "127.0.0.1",
        "PAYMENTS_HTTP_PORT": str(port),
        "PAYMENTS_METRICS_PORT": str(port + 1000),
        "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
        **{f"PAYMENTS_{field.upper()}": value for field, value in settings.items()},
    }
    with _running(name, [SERVICE, "serve"], environment, port, "/readyz") as (pid, seconds):
        yield Server(name, f"http://127.0.0.1:{port}", key, pid, seconds)


@contextmanager
def mvp(directory: Path, port: int) -> Iterator[Server]:
    """Runs peer (a): Flask's development server on a new SQLite file."""
    file = directory / "mvp.sqlite3"
    file.unlink(missing_ok=True)
    environment = {
        "DATABASE_URL": f"sqlite:///{file}",
        "API_KEY": MVP_KEY,
        "PORT": str(port),
    }
    command = [PEERS_PYTHON, PEERS / "mvp.py"]
    with _running("mvp", command, environment, port, "/status") as (pid, seconds):
        url = f"http://127.0.0.1:{port}"
        yield Server("mvp", url, MVP_KEY, pid, seconds, "/create", "/read/{id}", "/list")


@contextmanager
def peer(cluster: Cluster, name: str, port: int, **environment: str) -> Iterator[Server]:
    """Runs peer (b) or (c) on a database of its own."""
    url, key = make_database(cluster, name)
    variables = {"DATABASE_URL": url, "PORT": str(port), **environment}
    command = [PEERS_PYTHON, PEERS / f"{name}.py"]
    with _running(name, command, variables, port, "/nowhere") as (pid, seconds):
        yield Server(name, f"http://127.0.0.1:{port}", key, pid, seconds)


@contextmanager
def _running(
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    port: int,
    path: str,
) -> Iterator[tuple[int, float]]:
    """Runs a process until the end of the block; gives its pid, and how long it took to answer."""
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [*prefix("TERM"), *map(str, command)],
            env={"PATH": os.environ["PATH"], **environment},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            if not wait_until(
                lambda: process.poll() is not None or _answers(port, path), START_TIMEOUT_SECONDS
            ):
                raise RuntimeError(f"{name} does not answer in {START_TIMEOUT_SECONDS} s")
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"{name} ended:\n{log.read()}")
            yield process.pid, time.monotonic() - started
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int, path: str) -> bool:
    # That the port is open says little: gunicorn opens it before its workers have started.
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code in {200, 401, 404}
    except httpx.TransportError:
        return False
