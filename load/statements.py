"""Which statements a thousand creations are, and what they cost: pg_stat_statements."""

import asyncio
import re
from collections.abc import Iterator

import asyncpg

import generators
from laptop.postgres import Cluster
from servers import Server

CONNECTIONS = 64
SECONDS = 4.0
MOST = 3  # statements of one server

COUNT = "SELECT count(*) AS payments FROM payments"
RESET = "SELECT pg_stat_statements_reset()"
TOP = """
SELECT query, calls, rows, total_exec_time AS milliseconds, wal_bytes
FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
WHERE datname = current_database() AND userid = 'payments_app'::regrole
ORDER BY total_exec_time DESC
LIMIT $1
"""


def creations(cluster: Cluster, servers: list[Server]) -> Iterator[dict[str, object]]:
    """Yields the dearest statements of each server; its database has the server's name."""
    for server in servers:
        asyncio.run(_fetch(cluster, server, "CREATE EXTENSION pg_stat_statements"))
        generators.wrk(server, "create", CONNECTIONS, 1)
        asyncio.run(_fetch(cluster, server, RESET))
        (before,) = asyncio.run(_fetch(cluster, server, COUNT))
        generators.wrk(server, "create", CONNECTIONS, SECONDS)
        (after,) = asyncio.run(_fetch(cluster, server, COUNT))
        made = after["payments"] - before["payments"]
        for row in asyncio.run(_fetch(cluster, server, TOP, MOST)):
            yield {
                "server": server.name,
                "statement": re.sub(r"\s+", " ", row["query"]).strip()[:70],
                "calls": row["calls"] / made * 1000,
                "rows_a_call": row["rows"] / row["calls"],
                "milliseconds": row["milliseconds"] / made * 1000,
                "wal_kilobytes": float(row["wal_bytes"]) / made,
            }


async def _fetch(
    cluster: Cluster, server: Server, query: str, *arguments: object
) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(cluster.url(server.name))
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()
