"""What it costs to consume the oldest payments, and how fast many workers do it.

python load/consumptions.py     into load/results/consumptions.json and docs/performance.md
"""

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

import generators
import report
import tables
from laptop import files
from laptop.postgres import Cluster
from servers import Server, cluster_for_bench, python_version, service, usage

RESULTS = Path(__file__).parent / "results" / "consumptions.json"
PORT = 18200

# What a worker takes at a time, and what there is to take for all rounds of each server.
LIMIT = 100
INSERTED = 500_000
ROUNDS = 5
ROUND_SECONDS = 2.0

# How many the service consumed before. Of "held", no entry may be removed: a transaction is older.
CONSUMED = {"none": 0, "million": 1_000_000, "held": 100_000}

# How many connections create payments meanwhile, so that the two can be compared.
CREATORS = 64

WORKERS = 16
WORKERS_LIMIT = 10
WORKERS_SECONDS = 5.0

COUNT = "SELECT count(*) FROM payments WHERE consumed_at IS NOT NULL"
BACKENDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'payments_app'
"""


def main() -> int:
    """Measures; returns the exit status."""
    generators.pin()
    python_version()
    with cluster_for_bench() as cluster, ExitStack() as stack:
        servers = {
            name: stack.enter_context(_server(cluster, name, PORT + number, stack))
            for number, name in enumerate(CONSUMED)
        }
        costs: dict[str, list[float]] = {name: [] for name in servers}
        creations: list[float] = []
        for number in range(ROUNDS):
            for name, server in servers.items():
                costs[name].append(_cost(cluster, server))
            creations.append(_creation_cost(cluster, servers["none"]))
            print(f"consumptions  round {number + 1}/{ROUNDS}", flush=True)
        rate = _rate(cluster, servers["none"])
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": python_version(),
        "cores": psutil.cpu_count(),
        "limit": LIMIT,
        "consumed": CONSUMED,
        "postgresql_us": {name: statistics.median(values) for name, values in costs.items()},
        "creation_us": statistics.median(creations),
        "workers": WORKERS,
        "workers_limit": WORKERS_LIMIT,
        "rate": rate,
    }
    files.replace(RESULTS, json.dumps(results, indent=1) + "\n")
    report.write_consumptions()
    return 0


@contextmanager
def _server(cluster: Cluster, name: str, port: int, stack: ExitStack) -> Iterator[Server]:
    """Runs the service on a database where so much was consumed before, by the service itself."""
    before = CONSUMED[name]
    database = tables.filled(cluster, f"consumed_{name}", INSERTED + before)
    if name == "held":
        old = stack.enter_context(psycopg.connect(cluster.url(f"consumed_{name}")))
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT FROM payments LIMIT 1")
    with service(cluster, f"consumed_{name}", port, database) as server:
        with server.client() as client:
            for _ in range(0, before, 1000):
                client.post("/v1/consumptions", json={"limit": 1000}).raise_for_status()
        yield server


def _cost(cluster: Cluster, server: Server) -> float:
    """Returns the CPU of the service's database sessions for one payment, in microseconds."""
    pids = [row[0] for row in _fetch(cluster, server, BACKENDS)]
    before = _consumed(cluster, server), usage(pids).cpu_seconds
    figures = generators.wrk(server, "dequeue", 1, ROUND_SECONDS, last_id=LIMIT)
    after = _consumed(cluster, server), usage(pids).cpu_seconds
    if figures.failed or after[0] - before[0] < figures.requests * LIMIT:
        raise SystemExit(f"{server.name}: calls failed, or there was nothing left to consume")
    return (after[1] - before[1]) / (after[0] - before[0]) * 1e6


def _creation_cost(cluster: Cluster, server: Server) -> float:
    """Returns the same for one creation, where many share a statement."""
    pids = [row[0] for row in _fetch(cluster, server, BACKENDS)]
    before = usage(pids).cpu_seconds
    figures = generators.wrk(server, "create", CREATORS, ROUND_SECONDS)
    return (usage(pids).cpu_seconds - before) / figures.requests * 1e6


def _rate(cluster: Cluster, server: Server) -> float:
    """Returns how many payments a second many workers consume together."""
    before = _consumed(cluster, server)
    generators.wrk(server, "dequeue", WORKERS, WORKERS_SECONDS, last_id=WORKERS_LIMIT)
    return (_consumed(cluster, server) - before) / WORKERS_SECONDS


def _consumed(cluster: Cluster, server: Server) -> int:
    return int(_fetch(cluster, server, COUNT)[0][0])


def _fetch(cluster: Cluster, server: Server, query: str) -> list[tuple[int, ...]]:
    with psycopg.connect(cluster.url(server.name)) as connection:
        return connection.execute(query).fetchall()


if __name__ == "__main__":
    sys.exit(main())
