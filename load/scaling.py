"""What a creation costs when several processes share the database, as pods do."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg

import generators
from laptop.postgres import Cluster
from servers import make_database, service, usage

PODS = (1, 2, 4)
SECONDS = 10.0
PORT = 18300

COUNTERS = """
SELECT
  (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
  pg_current_wal_lsn() - pg_lsn '0/0' AS wal_bytes
"""


def pods(cluster: Cluster, rate: int) -> Iterator[dict[str, float]]:
    """Yields what a creation costs with so many processes, at the same total rate."""
    for count in PODS:
        database = make_database(cluster, "scaling")
        with ExitStack() as stack:
            servers = [
                stack.enter_context(service(cluster, f"pod_{n}", PORT + n, database))
                for n in range(count)
            ]
            generators.vegeta(servers, rate, 2)  # opens the connections
            pids = [server.pid for server in servers]
            before = usage(pids), usage([cluster.pid]), _counters(cluster)
            figures = generators.vegeta(servers, rate, SECONDS)
            after = usage(pids), usage([cluster.pid]), _counters(cluster)
        made = figures.requests
        point: dict[str, float] = {
            "pods": count,
            "asked": rate,
            "failed": figures.failed,
            "p99_ms": figures.p99_ms,
            "service_us": (after[0].cpu_seconds - before[0].cpu_seconds) / made * 1e6,
            "postgresql_us": (after[1].cpu_seconds - before[1].cpu_seconds) / made * 1e6,
            "rows_a_commit": made / (after[2][0] - before[2][0]),
            "wal_bytes": (after[2][1] - before[2][1]) / made,
        }
        print(
            f"{count} processes  {point['rows_a_commit']:.1f} rows a commit"
            f"  {point['postgresql_us']:.0f} us of PostgreSQL a row",
            flush=True,
        )
        yield point


def _counters(cluster: Cluster) -> tuple[int, int]:
    return asyncio.run(_read_counters(cluster.url("scaling")))


async def _read_counters(url: str) -> tuple[int, int]:
    # Backends report what they committed at most a second later.
    await asyncio.sleep(1.5)
    connection = await asyncpg.connect(url)
    try:
        (row,) = await connection.fetch(COUNTERS)
        return row["commits"], int(row["wal_bytes"])
    finally:
        await connection.close()
