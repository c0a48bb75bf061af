"""The cut-over of docs/runbooks/cutover.md, rehearsed: clients write all the time, none loses."""

import asyncio
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from payments.legacy import importer
from tests import PATIENCE_SECONDS
from tests.command import free_port
from tests.conftest import API_DIRECTORY, Database, Serve
from tests.test_cli import Result, invoke_on

# The image's container does not see the old system's file.
pytestmark = [pytest.mark.in_process, pytest.mark.slow]

CLIENTS = 4
PAUSE_SECONDS = 0.02  # between two attempts of a client that was refused

_numbers = itertools.count(1)


class OldSystem:
    """The old system, running on a file."""

    def __init__(self, file: Path, url: str) -> None:
        self.file = file
        self.url = url
        self._switch = file.with_name(f"{file.name}.frozen")

    def freeze(self) -> None:
        """Has it refuse what writes."""
        self._switch.touch()

    def thaw(self) -> None:
        """Has it take it again."""
        self._switch.unlink()


@asynccontextmanager
async def old_system(file: Path) -> AsyncIterator[OldSystem]:
    """Runs the old system's double as a process of its own."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.old_system", str(file), str(port)),
        cwd=API_DIRECTORY,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        system = OldSystem(file, f"http://127.0.0.1:{port}")
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            httpx.AsyncClient(base_url=system.url) as http,
        ):
            while True:
                try:
                    assert (await http.get("/status")).text == "ok"
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        yield system
    finally:
        process.terminate()
        await process.wait()


class Client:
    """An old client: it makes, consumes and deletes payments, and repeats what was refused.

    `payments` is what it was promised: by its own number, the id and the status of each.
    """

    address = ""  # what the name in DNS stands for
    key = ""

    def __init__(self) -> None:
        self.payments: dict[int, tuple[int, str]] = {}
        self.deleted: set[int] = set()
        self.refused = 0
        self.gap_seconds = 0.0
        self.made = 0
        self._answered = time.monotonic()

    async def work(self, http: httpx.AsyncClient, stop: asyncio.Event) -> None:
        """Writes until it is told to stop."""
        while not stop.is_set():
            number = random.choice([None, *self.payments])
            if number is None or random.random() < 0.6:
                number = next(_numbers)
                # Without a status the old system stores none, which the import calls inserted.
                body = random.choice(({"status": "inserted"}, {}))
                made = await self._call(http, "POST", "/create", body)
                self.payments[number] = (made["id"], "inserted")
                self.made += 1
            elif random.random() < 0.8:
                id, _ = self.payments[number]
                await self._call(http, "PUT", f"/update/{id}", {"status": "consumed"})
                self.payments[number] = (id, "consumed")
            else:
                id, _ = self.payments.pop(number)
                await self._call(http, "DELETE", f"/delete/{id}", None)
                self.deleted.add(number)

    async def _call(self, http: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
        while True:
            headers = {"Authorization": f"Bearer {Client.key}"}
            answer = await http.request(method, Client.address + path, json=body, headers=headers)
            if answer.status_code == 200:
                now = time.monotonic()
                self.gap_seconds = max(self.gap_seconds, now - self._answered)
                self._answered = now
                return answer.json()
            assert answer.status_code == 503, answer.text
            self.refused += 1
            await asyncio.sleep(PAUSE_SECONDS)


async def drained(clients: list[Client]) -> None:
    """Returns once nothing that was begun before the freeze can still be written."""
    before = [client.refused for client in clients]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(client.refused == was for client, was in zip(clients, before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_SECONDS)


async def written(clients: list[Client], more: int) -> None:
    """Returns once the clients have made more payments, as many as this."""
    until = sum(client.made for client in clients) + more
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(client.made for client in clients) < until:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_SECONDS)


@pytest.mark.parametrize("source", ["file", "list"])
async def test_a_cut_over_loses_and_doubles_nothing(  # noqa: PLR0915 - one story
    start: Serve, database: Database, tmp_path: Path, source: str
) -> None:
    report = ("--report", str(tmp_path / "report.csv"))

    def read() -> list[str]:
        name = str(tmp_path / "old.sqlite3") if source == "file" else f"{old.url}/list"
        return ["--from", name, "--without-payment", "--status", "null=inserted"]

    async def import_() -> Result:
        result = await invoke_on(database, "import", *read(), *report, "--take-back", "1000")
        assert result.status == 0, result.error
        return result

    new = await start()
    key = await database.key("old-shop")
    clients = [Client() for _ in range(CLIENTS)]
    stop = asyncio.Event()
    async with (
        old_system(tmp_path / "old.sqlite3") as old,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http,
        asyncio.TaskGroup() as group,
    ):
        # Clients carry their key before the cut-over; the old system looks at none.
        Client.address, Client.key = old.url, key
        for client in clients:
            group.create_task(client.work(http, stop))
        await written(clients, 150)

        # The first copy, and what was written during it.
        await import_()
        assert "Nothing to do" not in (await import_()).output

        # A trial on the new system, which must not get in the way of the old one's next ids.
        trial = await http.post(
            f"{new}/v1/payments", json={"payment": 1}, headers={"Authorization": f"Bearer {key}"}
        )
        assert trial.status_code == 201
        path = f"{new}/v1/payments/{trial.json()['id']}"
        await http.delete(path, headers={"Authorization": f"Bearer {key}"})

        # A first attempt, that is given up: the old system goes on as if nothing had been.
        old.freeze()
        await drained(clients)
        await import_()
        old.thaw()
        await written(clients, 20)
        for client in clients:
            client.gap_seconds = 0

        old.freeze()
        began = time.monotonic()
        await drained(clients)
        await import_()
        imported = time.monotonic()
        verified = await invoke_on(database, "verify", *read())
        assert verified.status == 0, verified.error + verified.output
        assert "Nothing to do" in (await import_()).output
        before = (await http.get(f"{old.url}/list")).json()
        Client.address = new
        switched = time.monotonic()
        await written(clients, 60)
        stop.set()

    async with old_system(tmp_path / "old.sqlite3") as old, httpx.AsyncClient() as http:
        # The old one stays readable, and as it was.
        assert (await http.get(f"{old.url}/list")).json() == before
        answer = await http.get(f"{new}/list", headers={"Authorization": f"Bearer {key}"})
    found = sorted((payment["id"], payment["status"]) for payment in answer.json())
    promised = sorted(one for client in clients for one in client.payments.values())
    assert found == promised

    rows = await database.fetch("SELECT created_by, count(*) FROM payments GROUP BY created_by")
    made = dict(tuple(row) for row in rows)
    assert made[importer.IMPORTER] > 100  # without those deleted before it
    assert made["old-shop"] >= 60
    downtime = max(client.gap_seconds for client in clients)
    print(
        f"cut-over: {len(promised)} payments kept and"
        f" {sum(len(client.deleted) for client in clients)} deleted, none lost, none doubled;"
        f" writes were refused for {downtime:.1f} s"
        f" (last import {imported - began:.1f} s, verify and a look {switched - imported:.1f} s)"
    )
