"""Runs the service for long at 70 % of what it can do, and watches what should not grow.

    python load/soak.py [--minutes 20]     into load/results/soak.json and docs/performance.md

Of ten requests six create, three read and one consumes, so that rows die as well.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import asyncpg
import psutil

import generators
import report
from laptop import files
from laptop.postgres import Cluster
from servers import Server, cluster_for_bench, make_database, python_version, service, usage

RESULTS = Path(__file__).parent / "results" / "soak.json"
PART = 0.7
CONNECTIONS = 64
PROBE_SECONDS = 10.0
SAMPLE_SECONDS = 5.0
WARM_UP = 0.25  # of the whole, which the slope leaves out
SLOPE_LIMIT = 1.0  # MB a minute
# Of all rows. They would be a sixth if nobody vacuumed; what autovacuum lets come together while
# the table grows by a fifth is a thirtieth, and in the two minutes until it is done as much again.
DEAD_LIMIT = 0.1
PORT = 18200

DEAD_ROWS = "SELECT n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE relname = 'payments'"


def main() -> int:
    """Soaks; returns 1 if something grew or failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    minutes = parser.parse_args().minutes
    generators.pin()
    python = python_version()
    with cluster_for_bench() as cluster:
        database = make_database(cluster, "soak")
        with service(cluster, "soak", PORT, database) as server:
            most = generators.wrk(server, "create", CONNECTIONS, PROBE_SECONDS).rate
            rate = round(most * PART)
            print(f"{rate:,} requests a second for {minutes:g} minutes", flush=True)
            results = {"python": python, **_soak(cluster, server, rate, minutes * 60)}
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}))
    if minutes >= 20:  # shorter ones are for trying
        files.replace(RESULTS, json.dumps(results, indent=1) + "\n")
        report.write_soak()
    wrong = violations(results)
    for what in wrong:
        print(what, file=sys.stderr)
    return 1 if wrong else 0


def violations(results: Mapping[str, Any]) -> list[str]:
    """Returns what grew that should not, or failed, in words."""
    found = []
    if results["failed"]:
        found.append(f"{results['failed']} requests failed")
    if results["slope_mb_a_minute"] > SLOPE_LIMIT:
        found.append(f"memory grew by {results['slope_mb_a_minute']:.2f} MB a minute")
    if results["descriptors_grew"] > 0:
        found.append(f"descriptors grew by {results['descriptors_grew']}")
    if results["callers_left"] > 0:
        found.append(f"{results['callers_left']} connections of callers that have gone are open")
    if results["most_dead"] > DEAD_LIMIT:
        found.append(f"{results['most_dead']:.1%} of the rows were dead")
    return found


def _soak(cluster: Cluster, server: Server, rate: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=cluster.data.parent) as directory:
        answers = Path(directory, "answers")
        command = [generators.vegeta_program(), "attack", "-format=json", "-lazy"]
        command += [*generators.pace(rate, seconds), f"-output={answers}"]
        samples = []
        with subprocess.Popen(command, stdin=subprocess.PIPE) as attack:
            assert attack.stdin is not None  # noqa: S101
            asker = threading.Thread(target=_ask, args=(server, attack.stdin))
            asker.start()
            started = time.monotonic()
            while attack.poll() is None:
                time.sleep(SAMPLE_SECONDS)
                sample = _sample(cluster, server, time.monotonic() - started)
                samples.append(sample)
                print(
                    f"{sample['seconds'] / 60:5.1f} min  {sample['rss_bytes'] / 1e6:6.1f} MB"
                    f"  {sample['descriptors']} descriptors  {sample['dead_rows']:,} dead rows",
                    flush=True,
                )
            asker.join()
        time.sleep(SAMPLE_SECONDS)  # in which the server notices that they have left
        callers_left = _callers(psutil.Process(server.pid))
        if attack.returncode != 0:
            raise SystemExit(f"vegeta failed: {attack.returncode}")
        figures = json.loads(
            subprocess.run(
                [generators.vegeta_program(), "report", "-type=json", str(answers)],
                check=True,
                capture_output=True,
            ).stdout
        )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "minutes": seconds / 60,
        "rate": rate,
        "requests": figures["requests"],
        "failed": figures["requests"]
        - sum(count for code, count in figures["status_codes"].items() if code[0] == "2"),
        "p50_ms": figures["latencies"]["50th"] / 1e6,
        "p99_ms": figures["latencies"]["99th"] / 1e6,
        "callers_left": callers_left,
        **growth([sample for sample in samples if sample["seconds"] >= seconds * WARM_UP]),
        "rows": samples[-1]["rows"],
        "samples": samples[:: max(1, len(samples) // 120)],
    }


def growth(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns how memory, descriptors and dead rows did over the samples."""
    slope, _ = statistics.linear_regression(
        [sample["seconds"] / 60 for sample in samples],
        [sample["rss_bytes"] / 1e6 for sample in samples],
    )
    # What is there throughout the end, and was not throughout the beginning, has come to stay; a
    # connection to PostgreSQL more for a moment has not.
    descriptors = [sample["descriptors"] for sample in samples]
    quarter = max(1, len(descriptors) // 4)
    return {
        "slope_mb_a_minute": slope,
        "descriptors_grew": min(descriptors[-quarter:]) - min(descriptors[:quarter]),
        "most_dead": max(sample["dead_rows"] / sample["rows"] for sample in samples),
    }


def _ask(server: Server, file: IO[bytes]) -> None:
    """Writes what is to be sent, as fast as it is taken, until nobody takes it any more."""
    prefix, number, consumed = uuid.uuid4().hex, 0, 0
    headers = {name: [value] for name, value in server.headers.items()}
    one = server.url + server.read
    with suppress(BrokenPipeError), file:
        while True:
            number += 1
            target: dict[str, object] = {"header": headers}
            match number % 10:
                case 0:
                    consumed += 1
                    target |= _target("PATCH", one.format(id=consumed), b'{"status":"consumed"}')
                case 1 | 2 | 3:
                    # What was made a second ago or longer is there for certain.
                    id = random.randint(1, max(1, number // 2))  # noqa: S311
                    target |= _target("GET", one.format(id=id))
                case _:
                    target |= _target(
                        "POST", server.url + server.create, (generators.BODY % number).encode()
                    )
                    target["header"] = {**headers, "Idempotency-Key": [f"{prefix}-{number}"]}
            file.write(json.dumps(target).encode() + b"\n")


def _target(method: str, url: str, body: bytes = b"") -> dict[str, object]:
    return {"method": method, "url": url, "body": b64encode(body).decode()}


def _sample(cluster: Cluster, server: Server, seconds: float) -> dict[str, float]:
    dead, live = asyncio.run(_dead_rows(cluster.url("soak")))
    process = psutil.Process(server.pid)
    return {
        "seconds": seconds,
        "rss_bytes": usage([server.pid]).rss_bytes,
        # How many connections vegeta has is vegeta's affair.
        "descriptors": process.num_fds() - _callers(process),
        "dead_rows": dead,
        "rows": live,
    }


def _callers(process: psutil.Process) -> int:
    return sum(
        connection.laddr.port == PORT and connection.status != psutil.CONN_LISTEN
        for connection in process.net_connections("tcp")
    )


async def _dead_rows(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        (row,) = await connection.fetch(DEAD_ROWS)
        return row["n_dead_tup"], row["n_live_tup"]
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(main())
