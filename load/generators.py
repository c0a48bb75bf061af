"""Where the load comes from: wrk and pgbench.

wrk is closed-model: so many connections, each of which asks again as soon as it is answered. It
finds the most that a server can do, at little CPU of its own; its latencies are those of a server
at its limit, and not of one at a given load.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from servers import Server

REQUESTS = Path(__file__).with_name("requests.lua")
FIGURES = "figures "

# What one client sends in a transaction of its own, as an application without a shared one would.
INSERT = """
\\set n random(1, 1000000000000)
INSERT INTO payments (payment, data, created_by, idempotency_key)
VALUES (12345.67, '{"order": "A-1"}', 'pgbench', :client_id || '-' || :n);
"""


class Figures(NamedTuple):
    """What one run measured."""

    rate: float  # answered requests a second
    failed: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    requests: int


def wrk(server: Server, kind: str, connections: int, seconds: float, last_id: int = 1) -> Figures:
    """Asks as fast as the server answers; `kind` is create, read or list."""
    path = {"create": server.create, "read": server.read, "list": server.page}[kind]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    command += ["-s", str(REQUESTS), server.url, "--", kind, server.key, path, str(last_id)]
    output = _run(command)
    line = next(line for line in output.splitlines() if line.startswith(FIGURES))
    figures = json.loads(line.removeprefix(FIGURES))
    seconds = figures.pop("seconds")
    return Figures(rate=figures["requests"] / seconds, **figures)


def pgbench(program: Path, url: str, clients: int, seconds: int) -> Figures:
    """Inserts one row a transaction, prepared, over so many connections."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "insert.sql")
        script.write_text(INSERT)
        command = [str(program), "-n", "-M", "prepared", "-f", str(script), "-c", str(clients)]
        output = _run([*command, "-j", "1", "-T", str(seconds), url])
    lines = dict(line.split(" = ", 1) for line in output.splitlines() if " = " in line)
    latency = float(lines["latency average"].split()[0])
    rate = float(lines["tps"].split()[0])
    failed = int(output.split("number of failed transactions: ")[1].split()[0])
    return Figures(rate, failed, latency, float("nan"), float("nan"), round(rate * seconds))


def _run(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]} is missing: install it, on Debian with apt-get install")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{result.stdout}{result.stderr}")
    return result.stdout
