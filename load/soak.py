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
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import asyncpg
import psutil

import generators
import report
from bench import cluster_for_bench
from laptop.postgres import Cluster
from servers import Server, make_database, service, usage

RESULTS = Path(__file__).parent / "results" / "soak.json"
PART = 0.7
CONNECTIONS = 64
PROBE_SECONDS = 10.0
SAMPLE_SECONDS = 5.0
WARM_UP = 0.25  # of the whole, which the slope leaves out
SLOPE_LIMIT = 1.0  # MB a minute
PORT = 18200

DEAD_ROWS = "SELECT n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE relname = 'payments'"


def main() -> int:
    """Soaks; returns 1 if something grew or failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    minutes = parser.parse_args().minutes
    generators.pin()
    with cluster_for_bench() as cluster:
        database = make_database(cluster, "soak")
        with service(cluster, "soak", PORT, database) as server:
            most = generators.wrk(server, "create", CONNECTIONS, PROBE_SECONDS).rate
            rate = round(most * PART)
            print(f"{rate:,} requests a second for {minutes:g} minutes", flush=True)
            results = _soak(cluster, server, rate, minutes * 60)
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}))
    if minutes >= 20:  # shorter ones are for trying
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        report.write_soak()
    grew = results["slope_mb_a_minute"] > SLOPE_LIMIT or results["descriptors_grew"] > 0
    return 1 if grew or results["failed"] else 0


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
        if attack.returncode != 0:
            raise SystemExit(f"vegeta failed: {attack.returncode}")
        figures = json.loads(
            subprocess.run(
                [generators.vegeta_program(), "report", "-type=json", str(answers)],
                check=True,
                capture_output=True,
            ).stdout
        )
    steady = [sample for sample in samples if sample["seconds"] >= seconds * WARM_UP]
    slope, _ = statistics.linear_regression(
        [sample["seconds"] / 60 for sample in steady],
        [sample["rss_bytes"] / 1e6 for sample in steady],
    )
    descriptors = [sample["descriptors"] for sample in steady]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "minutes": seconds / 60,
        "rate": rate,
        "requests": figures["requests"],
        "failed": figures["requests"]
        - sum(count for code, count in figures["status_codes"].items() if code[0] == "2"),
        "p50_ms": figures["latencies"]["50th"] / 1e6,
        "p99_ms": figures["latencies"]["99th"] / 1e6,
        "slope_mb_a_minute": slope,
        "descriptors_grew": max(descriptors[-3:]) - max(descriptors[:3]),
        "most_dead_rows": max(sample["dead_rows"] for sample in samples),
        "rows": samples[-1]["rows"],
        "samples": samples[:: max(1, len(samples) // 120)],
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
    return {
        "seconds": seconds,
        "rss_bytes": usage([server.pid]).rss_bytes,
        "descriptors": psutil.Process(server.pid).num_fds(),
        "dead_rows": dead,
        "rows": live,
    }


async def _dead_rows(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        (row,) = await connection.fetch(DEAD_ROWS)
        return row["n_dead_tup"], row["n_live_tup"]
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(main())
