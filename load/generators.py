"""Where the load comes from: wrk, vegeta and pgbench.

wrk is closed-model: so many connections, each of which asks again as soon as it is answered. It
finds the most that a server can do, at little CPU of its own; its latencies are those of a server
at its limit. vegeta is open-model: so many requests a second, whether those before are answered or
not, as the world sends them; its latencies are those at a given load.
"""

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from servers import Server

REQUESTS = Path(__file__).with_name("requests.lua")
FIGURES = "figures "
VEGETA = "github.com/tsenart/vegeta/v12@v12.13.0"
BODY = '{"payment": 12345.67, "data": {"order": "A-1", "n": %d}}'
CREATED = 201

# Where there are cores to spare, the last quarter of them asks and the others answer. macOS cannot
# keep a process to some cores.
if sys.platform == "linux":
    CORES = sorted(os.sched_getaffinity(0))
else:
    CORES: list[int] = []
ASKING = CORES[-(len(CORES) // 4) :] if len(CORES) >= 4 else []

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


def median(rounds: Sequence[Figures]) -> Figures:
    """Returns the medians of some rounds; what failed, and what was asked, is of all of them."""
    middle = Figures(*map(statistics.median, zip(*rounds, strict=True)))
    failed, requests = (sum(getattr(r, name) for r in rounds) for name in ("failed", "requests"))
    return middle._replace(failed=failed, requests=requests)


def pin() -> None:
    """Keeps this process, and the servers it starts, off the cores of those that ask."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, set(CORES) - set(ASKING))


def wrk(
    server: Server, kind: str, connections: int, seconds: float, *, last_id: int = 1, first: int = 0
) -> Figures:
    """Asks as fast as the server answers; `kind` is create, read, list, consume or dequeue.

    Consumes other payments, from 1 to `last_id`, for each `first`: as many as it gets done.
    Dequeues `last_id` payments a request.
    """
    paths = {"create": server.create, "list": server.page, "dequeue": "/v1/consumptions"}
    path = paths.get(kind, server.read)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    command += ["-s", str(REQUESTS), server.url, "--", kind, server.key, path]
    output = _run([*command, str(last_id), str(first)])
    line = next(line for line in output.splitlines() if line.startswith(FIGURES))
    figures = json.loads(line.removeprefix(FIGURES))
    seconds = figures.pop("seconds")
    return Figures(rate=figures["requests"] / seconds, **figures)


def vegeta(servers: Sequence[Server], rate: int, seconds: float) -> Figures:
    """Creates `rate` payments a second in turns, whether those before are answered or not."""
    with tempfile.TemporaryDirectory() as directory:
        targets, answers = Path(directory, "targets"), Path(directory, "answers")
        with targets.open("w") as file:
            # vegeta makes one more than it should now and then, and fails it if there is none.
            file.writelines(_creations(servers, round(rate * seconds) + 1))
        command = [vegeta_program(), "attack", "-format=json", "-lazy", f"-targets={targets}"]
        _run([*command, *pace(rate, seconds), f"-output={answers}"])
        table = _run([vegeta_program(), "encode", "-to", "csv", str(answers)])
    codes, milliseconds, ends = [], [], []
    reasons: Counter[str] = Counter()
    for begin, code, latency, _, _, error, *_ in csv.reader(table.splitlines()):
        codes.append(int(code))
        reasons[error or code] += 1
        milliseconds.append(int(latency) / 1e6)
        ends.append(int(begin) + int(latency))
    took = (max(ends) - min(ends)) / 1e9
    cuts = statistics.quantiles(milliseconds, n=1000, method="inclusive")
    failed = len(codes) - codes.count(CREATED)
    if failed:
        print(f"not created: {reasons}", flush=True)
    return Figures(codes.count(CREATED) / took, failed, cuts[499], cuts[989], cuts[998], len(codes))


def _creations(servers: Sequence[Server], count: int) -> Iterator[str]:
    prefix = uuid.uuid4().hex
    for number, server in zip(range(count), cycle(servers), strict=False):
        headers = {name: [value] for name, value in server.headers.items()}
        target = {
            "method": "POST",
            "url": f"{server.url}{server.create}",
            "header": {**headers, "Idempotency-Key": [f"{prefix}-{number}"]},
            "body": b64encode((BODY % number).encode()).decode(),
        }
        yield json.dumps(target) + "\n"


def pace(rate: int, seconds: float) -> list[str]:
    """Returns vegeta's options: over as many connections as a load balancer keeps, at the most.

    What waits for one of them is late as well: its time is counted.
    """
    limits = ["-timeout=30s", "-max-connections=256", "-max-workers=20000"]
    return [f"-rate={rate}", f"-duration={seconds:g}s", *limits]


def vegeta_program() -> str:
    """Returns the one on the PATH, or one built by Go and kept."""
    if found := shutil.which("vegeta"):
        return found
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "payments-tools"
    program = directory / "vegeta"
    if not program.exists():
        print(f"Building {VEGETA}", flush=True)
        environment = {**os.environ, "GOBIN": str(directory), "GOFLAGS": "-mod=mod"}
        subprocess.run([_find("go"), "install", VEGETA], env=environment, check=True)
    return str(program)


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
    command[0] = _find(command[0])
    if ASKING:
        command = ["taskset", "--cpu-list", ",".join(map(str, ASKING)), *command]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{command} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise SystemExit(f"{program} is missing: install it, on Debian with apt-get install")
    return found
