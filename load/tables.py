"""What the size of the table costs, and what the endless list does."""

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg
import httpx

import generators
from laptop.postgres import Cluster
from servers import Server, make_database, service, usage

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
STEP = 500_000  # rows a statement: progress is shown
LISTED = 1_000_000
ROUNDS = 5
ROUND_SECONDS = {"create": 2.0, "read": 2.0, "list": 2.0, "consume": 1.0}
PORT = 18100

# A year of payments, one each so many microseconds; the page that is asked for is in its middle.
FILL = """
INSERT INTO payments (payment, data, created_by, idempotency_key, created_at, updated_at)
SELECT
  n % 10000000 / 100.0, jsonb_build_object('order', 'A-1', 'n', n), 'bench', 'filled-' || n,
  time, time
FROM generate_series($1::bigint, $2::bigint) AS n,
  LATERAL (SELECT timestamptz '2026-01-01Z' + n * (interval '300 days' / $3::bigint) AS time) AS t
"""
PAGE = "/v1/payments?limit=100&created_after=2026-05-31T00:00:00Z"
SAMPLE_SECONDS = 0.02


def sizes(cluster: Cluster) -> Iterator[dict[str, object]]:
    """Yields the median latency of each kind of request at each size, one request at a time."""
    with ExitStack() as stack:
        servers = {}
        for number, rows in enumerate(SIZES):
            running = service(
                cluster, f"rows_{rows}", PORT + number, filled(cluster, f"rows_{rows}", rows)
            )
            servers[rows] = stack.enter_context(running)._replace(page=PAGE)
        medians: dict[tuple[int, str], list[float]] = {}
        for number in range(ROUNDS):
            for kind, seconds in ROUND_SECONDS.items():
                for rows, server in servers.items():
                    # Enough of them for all rounds also in the smallest table.
                    first = number * SIZES[0] // ROUNDS
                    figures = generators.wrk(server, kind, 1, seconds, last_id=rows, first=first)
                    if figures.failed:  # such as a payment that was consumed before
                        raise SystemExit(f"{kind} failed {figures.failed} times")
                    medians.setdefault((rows, kind), []).append(figures.p50_ms)
            print(f"table sizes  round {number + 1}/{ROUNDS}", flush=True)
    for (rows, kind), values in medians.items():
        yield {"rows": rows, "kind": kind, "p50_ms": statistics.median(values)}


def endless_list(cluster: Cluster) -> dict[str, float]:
    """Reads `/list` of a million payments: the first byte, all of it, and the memory it takes."""
    with service(cluster, "listed", PORT, filled(cluster, "listed", LISTED)) as server:
        with server.client() as client:
            client.get(server.page)
        idle = usage([server.pid]).rss_bytes
        most = idle
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(SAMPLE_SECONDS):
                most = max(most, usage([server.pid]).rss_bytes)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            first_byte, seconds, size = _read(server)
        finally:
            done.set()
            watcher.join()
    return {
        "rows": LISTED,
        "first_byte_ms": first_byte * 1000,
        "seconds": seconds,
        "bytes": size,
        "idle_rss_bytes": idle,
        "most_rss_bytes": most,
    }


def _read(server: Server) -> tuple[float, float, int]:
    size, first = 0, 0.0
    started = time.perf_counter()
    # No peer compresses, and what is compared is the list.
    headers = {**server.headers, "Accept-Encoding": "identity"}
    with httpx.stream("GET", f"{server.url}/list", headers=headers, timeout=60) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            first = first or time.perf_counter() - started
            size += len(piece)
    return first, time.perf_counter() - started, size


def filled(cluster: Cluster, name: str, rows: int) -> tuple[str, str]:
    """Creates a database with so many payments; returns the URL for the service, and a key."""
    database = make_database(cluster, name)
    asyncio.run(_fill(cluster.url(name), rows))
    return database


async def _fill(url: str, rows: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        for first in range(1, rows + 1, STEP):
            last = min(first + STEP - 1, rows)
            await connection.execute(FILL, first, last, rows)
            print(f"filled {last:,} of {rows:,} rows", flush=True)
        await connection.execute("VACUUM (ANALYZE) payments")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
