"""Measures the service beside its peers, in one run on one PostgreSQL.

    python load/bench.py            all of it, into load/results/bench.json and docs/performance.md
    python load/bench.py --check    the service and peer (c) alone; fails when the ratio has fallen

Rounds alternate, so that whatever else the machine does falls on all alike; what counts is the
median, and the ratio of two medians of one run. A figure of this machine alone means little.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil

import consumptions
import curves
import generators
import report
import scaling
import statements
import tables
from generators import Figures
from laptop import files, postgres
from laptop.postgres import Cluster
from servers import (
    Server,
    cluster_for_bench,
    make_database,
    mvp,
    peer,
    python_version,
    service,
    usage,
)

RESULTS = Path(__file__).parent / "results" / "bench.json"
KINDS = ("create", "read", "list")
CONNECTIONS = 64
ROUNDS = 3
ROUND_SECONDS = 5.0
PAYMENTS = 10_000  # what there is to read and list
PORT = 18000

# A fall below this part of the recorded ratio to peer (c) is a loss, and not a machine's mood:
# beside other work it was two thirds.
GUARD = 0.5


class Sample(NamedTuple):
    """One round: what was answered, and what it cost."""

    figures: Figures
    service_us: float  # CPU a request, microseconds
    postgresql_us: float
    rss_bytes: int


def main() -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the recorded ratios")
    check = parser.parse_args().check
    generators.pin()
    python_version()  # a mixed installation is refused before anything is measured
    with cluster_for_bench() as cluster:
        with ExitStack() as stack:
            servers = [*_servers(cluster, stack, check=check)]
            idle = {server.name: usage([server.pid]).rss_bytes for server in servers}
            for server in servers:
                _fill(server)
            samples, yardstick = _measure(cluster, servers, check=check)
            results = _results(servers, idle, samples)
            if check:
                return _compare(results, json.loads(RESULTS.read_text()))
            results["pgbench_rate"] = statistics.median(yardstick)
            pair = servers[:2]
            results["latency"] = [
                point
                for server in pair
                for point in curves.latency(server, report.rate(results, server.name, "create"))
            ]
            results["throughput"] = [*curves.throughput(pair)]
        # A quarter of what one process can do: four and the rest fit on two cores.
        quarter = round(report.rate(results, "service", "create") / 4)
        results["scaling"] = [*scaling.pods(cluster, quarter)]
        results["sizes"] = [*tables.sizes(cluster)]
        results["list"] = tables.endless_list(cluster)
    # What looks at each statement costs something: elsewhere, and nothing else is measured there.
    watched = cluster_for_bench(shared_preload_libraries="pg_stat_statements")
    with watched as cluster, ExitStack() as stack:
        servers = [*_servers(cluster, stack, check=False)][:-1]  # (a) has no PostgreSQL
        results["statements"] = [*statements.creations(cluster, servers)]
    files.replace(RESULTS, json.dumps(results, indent=1) + "\n")
    report.write()
    return consumptions.main()


def _servers(cluster: Cluster, stack: ExitStack, *, check: bool) -> Iterator[Server]:
    yield stack.enter_context(service(cluster, "service", PORT))
    yield stack.enter_context(peer(cluster, "fastapi_async", PORT + 1))
    if check:
        return
    yield stack.enter_context(
        service(cluster, "one_a_commit", PORT + 2, batch_size="1", pool_size="8")
    )
    yield stack.enter_context(peer(cluster, "gunicorn_postgres", PORT + 3))
    yield stack.enter_context(mvp(cluster.data.parent, PORT + 4))


def _fill(server: Server) -> None:
    """Makes the payments that are read and listed; the MVP's list has no end, so fewer there."""
    count = 100 if server.page == "/list" else PAYMENTS
    connections = 4
    with server.client() as client:
        while True:
            generators.wrk(server, "create", connections, 1)
            answer = client.post(server.create, json={"payment": 1, "data": {}})
            if answer.json()["id"] > count:
                return


def _measure(
    cluster: Cluster, servers: list[Server], *, check: bool
) -> tuple[dict[tuple[str, str], list[Sample]], list[float]]:
    """Returns the rounds of each server and kind, and pgbench's rates, a round between them."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    make_database(cluster, "yardstick")
    yardstick = []
    for number in range(ROUNDS):
        if not check:
            yardstick.append(_yardstick(cluster))
            print(f"round {number + 1}/{ROUNDS}  pgbench  {yardstick[-1]:,.0f} rows/s", flush=True)
        for kind in KINDS[:2] if check else KINDS:
            for server in servers:
                sample = _round(cluster, server, kind)
                samples.setdefault((server.name, kind), []).append(sample)
                print(
                    f"round {number + 1}/{ROUNDS}  {kind:6}  {server.name:18}"
                    f"  {sample.figures.rate:9,.0f} requests/s",
                    flush=True,
                )
    return samples, yardstick


def _round(cluster: Cluster, server: Server, kind: str) -> Sample:
    last_id = 100 if server.page == "/list" else PAYMENTS
    before = usage([server.pid]), usage([cluster.pid])
    figures = generators.wrk(server, kind, CONNECTIONS, ROUND_SECONDS, last_id=last_id)
    after = usage([server.pid]), usage([cluster.pid])
    own, postgresql = (
        (end.cpu_seconds - start.cpu_seconds) / figures.requests * 1e6
        for start, end in zip(before, after, strict=True)
    )
    return Sample(figures, own, postgresql, after[0].rss_bytes)


def _yardstick(cluster: Cluster) -> float:
    program = Path(postgres.program("pgbench"))
    url = cluster.url("yardstick")
    return generators.pgbench(program, url, CONNECTIONS, round(ROUND_SECONDS)).rate


def _results(
    servers: list[Server],
    idle: dict[str, int],
    samples: dict[tuple[str, str], list[Sample]],
) -> dict[str, object]:
    rows = [
        {
            "server": name,
            "kind": kind,
            **generators.median([sample.figures for sample in rounds])._asdict(),
            "rates": [round(sample.figures.rate, 1) for sample in rounds],
            "service_us": statistics.median(sample.service_us for sample in rounds),
            "postgresql_us": statistics.median(sample.postgresql_us for sample in rounds),
            "rss_bytes": max(sample.rss_bytes for sample in rounds),
        }
        for (name, kind), rounds in samples.items()
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": python_version(),
        "cores": psutil.cpu_count(),
        "connections": CONNECTIONS,
        "rounds": ROUNDS,
        "round_seconds": ROUND_SECONDS,
        "ready_seconds": {server.name: round(server.ready_seconds, 2) for server in servers},
        "idle_rss_bytes": idle,
        "rows": rows,
    }


def _compare(now: dict[str, object], recorded: dict[str, object]) -> int:
    status = 0
    print(f"Python {now['python']}; the recorded run's was {recorded['python']}")
    for kind in KINDS[:2]:
        measured, least = report.ratio(now, kind), GUARD * report.ratio(recorded, kind)
        verdict = "well" if measured >= least else "TOO SLOW"
        print(f"{kind}: {measured:.1f} times peer (c), at least {least:.1f}: {verdict}")
        if measured < least:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
