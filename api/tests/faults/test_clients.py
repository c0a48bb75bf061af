"""Clients that are slow, silent or gone: nobody else pays, and nothing is left of them."""

import asyncio
import json
import random
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests import PATIENCE_SECONDS
from tests.faults.client import Connection
from tests.faults.conftest import Seen
from tests.faults.system import System, system

pytestmark = pytest.mark.long

SLOW_OF_EACH_KIND = 1000
CALLERS = 8
CALLS_SECONDS = 5.0
TRICKLE_SECONDS = 2.0  # between two bytes of a slow client; the service gives 10 s for headers

# A millisecond more or less is no sign of anything where an answer takes three.
P99_TIMES, P99_MORE_SECONDS = 2.0, 0.002

CUT_REQUESTS = 10_000
CUTTERS = 50

HEADERS = "POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
BODY = json.dumps({"payment": 1, "data": {"filling": "x" * 300}}).encode()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process and the servers that it starts hold as many connections as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _p99(made: System) -> float:
    """Returns the 99th percentile of how long some callers wait for a creation, in seconds."""
    headers = {"Authorization": f"Bearer {made.keys['shop']}"}
    end, waits = time.monotonic() + CALLS_SECONDS, []

    async def call() -> None:
        connection = Connection(made.ports[0])
        while (began := time.monotonic()) < end:
            answer = await connection.request("POST", "/v1/payments", headers, BODY)
            assert answer.status == 201
            waits.append(time.monotonic() - began)
        connection.close()

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return statistics.quantiles(waits, n=100)[-1]


async def _be_slow(port: int, start: bytes, more: bytes, connected: asyncio.Semaphore) -> None:
    """Sends the start of a request, then the rest byte by byte; again, when it is cut off."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(start)
                connected.release()
                for position in range(len(more)):
                    await asyncio.sleep(TRICKLE_SECONDS)
                    writer.write(more[position : position + 1])
                    await writer.drain()
                await asyncio.sleep(3600)
            finally:
                writer.transport.abort()
        await asyncio.sleep(TRICKLE_SECONDS)


@contextmanager
def _slow_clients(made: System) -> Iterator[asyncio.Semaphore]:
    head = HEADERS.format(key=made.keys["shop"]).encode()
    whole = head + b"Content-Length: 1000\r\n\r\n"
    connected = asyncio.Semaphore(0)
    kinds = [(head, b"X-Slow: " + b"x" * 1000), (whole, b"x" * 999), (b"", b"")]
    tasks = [
        asyncio.create_task(_be_slow(made.ports[0], start, more, connected))
        for start, more in kinds
        for _ in range(SLOW_OF_EACH_KIND)
    ]
    try:
        yield connected
    finally:
        for task in tasks:
            task.cancel()


async def _is_back_to(process: psutil.Process, files: int) -> int:
    """Returns how many files a server has open, once they are no more than before or after 10 s."""
    deadline = time.monotonic() + 10
    while process.num_fds() > files and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return process.num_fds()


@pytest.mark.usefixtures("many_files")
async def test_slow_clients(memory: Path, seen: Seen) -> None:
    async with system(memory) as made:
        server = psutil.Process(made.pids[0])
        await _p99(made)
        alone, files = await _p99(made), server.num_fds()
        with _slow_clients(made) as connected:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(3 * SLOW_OF_EACH_KIND):
                    await connected.acquire()
            held = server.num_fds() - files
            among = await _p99(made)
        left = await _is_back_to(server, files) - files
    seen(
        f"{SLOW_OF_EACH_KIND:,} clients slow in their headers, as many in their bodies, and silent",
        f"p99 of the others {alone * 1000:.1f} ms alone, {among * 1000:.1f} ms among them;"
        f" {held:,} connections held, {left} left",
    )
    assert held > 2.5 * SLOW_OF_EACH_KIND
    assert among < P99_TIMES * alone + P99_MORE_SECONDS
    assert left <= 0


async def test_vanishing_clients(memory: Path, seed: str, seen: Seen) -> None:
    chance = random.Random(seed)
    async with system(memory) as made:
        head = HEADERS.format(key=made.keys["shop"]) + f"Content-Length: {len(BODY)}\r\n\r\n"
        request = head.encode() + BODY
        server = psutil.Process(made.pids[0])
        await _p99(made)
        files = server.num_fds()

        async def cut(times: int) -> None:
            for _ in range(times):
                _, writer = await asyncio.open_connection("127.0.0.1", made.ports[0])
                writer.write(request[: chance.randrange(1, len(request) + 1)])
                await asyncio.sleep(chance.uniform(0, 0.01))
                writer.transport.abort()

        await asyncio.gather(*(cut(CUT_REQUESTS // CUTTERS) for _ in range(CUTTERS)))
        await _p99(made)
        left = await _is_back_to(server, files) - files
        async with made.database() as connection:
            (states,) = await connection.fetch(
                "SELECT count(*) FILTER (WHERE state <> 'idle') AS busy, count(*) AS all"
                " FROM pg_stat_activity WHERE usename = 'payments_app'"
            )
    seen(
        f"{CUT_REQUESTS:,} requests cut at random bytes",
        f"{left} descriptors left, {states['busy']} of {states['all']} database connections busy",
    )
    assert left <= 0
    assert states["busy"] == 0
