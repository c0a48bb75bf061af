"""The peers do the service's job: only then are they worth comparing it with."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from laptop.children import prefix, wait_until
from laptop.postgres import Cluster
from payments import auth, migrate

PEERS = Path(__file__).parents[1] / "peers"
MVP_KEY = "a-key-of-the-mvp"
BODY = {"payment": 12345.67, "data": {"order": "A-1", "n": 1}}
START_TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory that PostgreSQL can enter when root runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def database(directory: Path) -> Iterator[tuple[str, str]]:
    """The URL of a migrated database, and a key."""
    with Cluster(directory / "data") as cluster:
        yield cluster.url("payments", "payments_app"), asyncio.run(_prepare(cluster))


async def _prepare(cluster: Cluster) -> str:
    administrator = await asyncpg.connect(cluster.url())
    await administrator.execute("CREATE DATABASE payments")
    await administrator.close()
    await migrate.apply_roles(cluster.url("payments"))
    await migrate.migrate(cluster.url("payments", "payments_migrator"))
    connection = await asyncpg.connect(cluster.url("payments"))
    try:
        return await auth.create_key(connection, "shop", auth.SCOPES)
    finally:
        await connection.close()


@contextmanager
def serving(peer: str, key: str, **environment: str) -> Iterator[httpx.Client]:
    """Runs a peer as the benchmark does, and lends a client that has the key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*prefix("TERM"), sys.executable, str(PEERS / peer)],
        env={**os.environ, **environment, "PORT": str(port)},
    )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        assert wait_until(
            lambda: process.poll() is not None or _answers(client), START_TIMEOUT_SECONDS
        ), f"{peer} does not answer"
        assert process.poll() is None, f"{peer} did not start"
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def _answers(client: httpx.Client) -> bool:
    # That the port is open says little: gunicorn opens it before its workers have started.
    try:
        return client.get("/").status_code in {401, 404}
    except httpx.TransportError:
        return False


def check_payment(payment: dict[str, object]) -> None:
    """Compares an answer with what was sent."""
    assert set(payment) == {"id", "status", "data", "payment", "created_at", "updated_at"}
    assert {name: payment[name] for name in BODY} == BODY
    assert payment["status"] == "inserted"


def test_mvp(directory: Path) -> None:
    url = f"sqlite:///{directory / 'mvp.db'}"
    with serving("mvp.py", MVP_KEY, DATABASE_URL=url, API_KEY=MVP_KEY) as client:
        assert client.get("/status", headers={"Authorization": ""}).text == "ok"
        created = client.post("/create", json=BODY)
        assert created.status_code == 201
        check_payment(created.json())
        id = created.json()["id"]
        assert client.get(f"/read/{id}").json() == created.json()
        assert client.get("/list").json() == [created.json()]

        consumed = client.put(f"/update/{id}", json={"status": "consumed"})
        assert consumed.json()["status"] == "consumed"
        assert client.delete(f"/delete/{id}").json()["id"] == id
        assert client.get(f"/read/{id}").status_code == 404

        client.headers["Authorization"] = "Bearer wrong"
        assert client.get("/list").status_code == 401
        assert client.post("/create", json=BODY).status_code == 401


@pytest.mark.parametrize("peer", ["gunicorn_postgres.py", "fastapi_async.py"])
def test_on_postgresql(peer: str, database: tuple[str, str]) -> None:
    url, key = database
    with serving(peer, key, DATABASE_URL=url, WORKERS="1") as client:
        created = client.post("/v1/payments", json=BODY, headers={"Idempotency-Key": peer})
        assert created.status_code == 201
        check_payment(created.json())
        id = created.json()["id"]
        assert client.get(f"/v1/payments/{id}").json() == created.json()
        assert client.get("/v1/payments/999999").status_code == 404

        again = client.post("/v1/payments", json=BODY, headers={"Idempotency-Key": peer})
        assert again.status_code == 201
        assert again.json() == created.json()

        more = [client.post("/v1/payments", json=BODY).json()["id"] for _ in range(101)]
        assert id not in more
        page = client.get("/v1/payments?limit=100").json()["items"]
        assert len(page) == 100
        assert created.json() in client.get("/v1/payments?limit=1000").json()["items"]

        client.headers["Authorization"] = "Bearer wrong"
        assert client.get(f"/v1/payments/{id}").status_code == 401
        assert client.get("/v1/payments?limit=100").status_code == 401
        assert client.post("/v1/payments", json=BODY).status_code == 401
