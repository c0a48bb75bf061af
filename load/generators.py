"""Where the load comes from: wrk, vegeta and pgbench, each for what it can tell.

wrk is closed-model: so many connections, each of which asks again as soon as it is answered. It
finds the most that a server can do, at little CPU of its own. vegeta is open-model: so many requests
a second, whatever becomes of the ones before. It alone tells the latency at a given load: a closed
loop asks less while the server is slow, and so leaves out the worst (coordinated omission).
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from servers import Server

REQUESTS = Path(__file__).with_name("requests.lua")
VEGETA = "github.com/tsenart/vegeta/v12@v12.13.0"
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


class Request(NamedTuple):
    """One request that vegeta sends."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    key: str | None = None  # the Idempotency-Key


def wrk(
    server: Server, kind: str, connections: int, seconds: float, last_id: int = 1
) -> Figures:
    """Asks as fast as the server answers; `kind` is create, read or list."""
    path = {"create": server.create, "read": server.read, "list": server.page}[kind]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    command += ["-s", str(REQUESTS), server.url, "--", kind, server.key, path, str(last_id)]
    output = _run(command)
    line = next(line for line in output.splitlines() if line.startswith(FIGURES))
    figures = json.loads(line.removeprefix(FIGURES))
    seconds = figures.pop("seconds")
    return Figures(rate=figures["requests"] / seconds, **figures)


def vegeta(
    server: Server, requests: Iterable[Request], rate: int, connections: int = 64
) -> Figures:
    """Sends the requests, `rate` a second, each at its time."""
    program = str(_vegeta())
    with tempfile.TemporaryDirectory() as directory:
        targets, results = Path(directory, "targets"), Path(directory, "results")
        count = 0
        with targets.open("w") as file:
            for request in requests:
                json.dump(_target(server, request), file)
                file.write("\n")
                count += 1
        # A thread a core is what Go takes; where there are but two, it must leave them to the rest.
        arguments = ["-format=json", "-lazy", f"-rate={rate}", f"-duration={count / rate:g}s"]
        arguments += [f"-connections={connections}", "-timeout=10s", "-max-body=0"]
        _run([program, "attack", *arguments, f"-targets={targets}", f"-output={results}"])
        report = json.loads(_run([program, "report", "-type=json", str(results)]))
        buckets = json.loads(
            _run([program, "encode", "-to=json", str(results)]).join(("[", "]")).replace("}\n{", "},{")
        )
    latencies = sorted(result["latency"] / 1e6 for result in buckets)
    failed = sum(count for code, count in report["status_codes"].items() if code[0] != "2")
    return Figures(
        rate=report["throughput"],
        failed=failed,
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        p999_ms=percentile(latencies, 0.999),
        requests=report["requests"],
    )


def percentile(ordered: list[float], part: float) -> float:
    """Returns the value that `part` of the ordered values do not pass (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _target(server: Server, request: Request) -> dict[str, object]:
    header = {name: [value] for name, value in server.headers.items()}
    if request.key is not None:
        header["Idempotency-Key"] = [request.key]
    target: dict[str, object] = {
        "method": request.method,
        "url": server.url + request.path,
        "header": header,
    }
    if request.body is not None:
        target["body"] = base64.b64encode(json.dumps(request.body).encode()).decode()
    return target


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


def _vegeta() -> Path:
    """Returns vegeta, built once from its Go module."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "payments-tools"
    program = cache / "vegeta"
    if not program.exists():
        if shutil.which("go") is None:
            raise SystemExit("vegeta is built with Go, which is missing: install golang-go")
        print("Building vegeta; this takes about half a minute", flush=True)
        environment = {**os.environ, "GOBIN": str(cache), "GOFLAGS": "-mod=mod"}
        subprocess.run(["go", "install", VEGETA], env=environment, check=True)
    return program


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{result.stdout}{result.stderr}")
    return result.stdout
