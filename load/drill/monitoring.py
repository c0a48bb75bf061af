"""Prometheus and Alertmanager as processes, with the chart's rules, and whom they tell."""

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from laptop.children import prefix, wait_until
from tests.command import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
MONITORING = CHECKOUT / "charts" / "payments" / "monitoring"
DASHBOARDS = {path.stem: path for path in sorted((MONITORING / "dashboards").glob("*.json"))}

# A minute of the rules passes in a second: what takes six hours is seen in six minutes.
SCALE = 60
SCRAPE_SECONDS = 0.5  # 30 s of the rules'; two busy cores hardly answer more often
START_SECONDS = 60.0

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
# A duration stands nowhere but outside of quotes; names do not begin with a digit.
_DURATIONS = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\w.])(?:\d+(?:ms|[smhdwy]))+\b')
# Ages are compared with plain seconds.
_AGE = re.compile(r"((?:time\(\) - |oldest_transaction_seconds)[^<>]*[<>] )(\d+)\b")


def scaled(expression: str) -> str:
    """Returns a query, or a duration alone, with every time in it divided by `SCALE`."""

    def divided(found: re.Match[str]) -> str:
        if found[0].startswith('"'):
            return found[0]
        seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION.findall(found[0]))
        return f"{round(seconds * 1000 / SCALE)}ms"

    shorter = _DURATIONS.sub(divided, expression)
    return _AGE.sub(lambda found: f"{found[1]}{int(found[2]) / SCALE:g}", shorter)


def scaled_rules() -> dict[str, Any]:
    """Returns the chart's rules, all of them in one file, with their times divided by `SCALE`."""
    groups = []
    for file in sorted((MONITORING / "rules").glob("*.yaml")):
        for group in msgspec.yaml.decode(file.read_bytes())["groups"]:
            for rule in group["rules"]:
                for field in {"expr", "for", "keep_firing_for"} & {*rule}:
                    rule[field] = scaled(rule[field])
            # As often as is scraped, however seldom the chart has it.
            groups.append({**group, "interval": f"{round(SCRAPE_SECONDS * 1000)}ms"})
    return {"groups": groups}


def alert_names() -> set[str]:
    """Returns the alerts of the rules, under the names that `Receiver` has for them."""
    groups = scaled_rules()["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {_name(rule["alert"], rule["labels"]) for rule in rules}


def _name(alert: str, labels: Mapping[str, str]) -> str:
    """Returns an alert's name; those of an objective share one, and differ in their window."""
    return " ".join([alert, labels["window"]] if "window" in labels else [alert])


class Told(NamedTuple):
    """One message of Alertmanager's about one alert."""

    at: float  # as time.monotonic()
    alert: str
    firing: bool


class Receiver:
    """Whom Alertmanager calls: it keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self._firing: dict[str, str] = {}

    @property
    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {*self._firing.values()}

    def take(self, message: Mapping[str, Any]) -> None:
        """Takes a message as Alertmanager's webhook sends it."""
        for alert in message["alerts"]:
            name = _name(alert["labels"]["alertname"], alert["labels"])
            firing = alert["status"] == "firing"
            if firing == (alert["fingerprint"] in self._firing):
                continue
            if firing:
                self._firing[alert["fingerprint"]] = name
            else:
                del self._firing[alert["fingerprint"]]
            self.told.append(Told(time.monotonic(), name, firing))

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Listens in a thread until the end of the block; gives the port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield server.server_port
            finally:
                server.shutdown()


class Job(NamedTuple):
    """What Prometheus scrapes, under the name and with the labels that it has in the cluster."""

    name: str
    port: int
    labels: Mapping[str, str]


class Prometheus:
    """One that runs, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=30
        )

    async def get(self, path: str, **parameters: str | float) -> Any:
        """Returns the data of an answer.

        Raises:
            RuntimeError: Prometheus refuses the question; the message says why.
        """
        answer = (await self._client.get(path, params=parameters)).json()
        if answer["status"] != "success":
            raise RuntimeError(f"{parameters}: {answer['error']}")
        return answer["data"]


@asynccontextmanager
async def watching(
    directory: Path, jobs: Sequence[Job], receiver: Receiver
) -> AsyncIterator[Prometheus]:
    """Runs Prometheus on the jobs, and Alertmanager, until the end of the block."""
    alertmanager, prometheus = free_port(), free_port()
    interval = f"{round(SCRAPE_SECONDS * 1000)}ms"
    with receiver.listening() as webhook:
        _write(
            directory / "alertmanager.yaml",
            {
                "route": {
                    "receiver": "drill",
                    "group_by": ["..."],
                    "group_wait": "0s",
                    "group_interval": "1s",
                    "repeat_interval": "24h",
                },
                "receivers": [
                    {
                        "name": "drill",
                        "webhook_configs": [{"url": f"http://127.0.0.1:{webhook}/"}],
                    }
                ],
            },
        )
        _write(directory / "rules.yaml", scaled_rules())
        _write(
            directory / "prometheus.yaml",
            {
                "global": {
                    "scrape_interval": interval,
                    "scrape_timeout": interval,
                    "evaluation_interval": interval,
                },
                "rule_files": [str(directory / "rules.yaml")],
                "alerting": {
                    "alertmanagers": [
                        {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}
                    ]
                },
                "scrape_configs": [
                    {
                        "job_name": name,
                        # As in the cluster, where the exporters' own names of pods are kept.
                        "honor_labels": name == "kubernetes",
                        "static_configs": [
                            {"targets": [f"127.0.0.1:{job.port}"], "labels": dict(job.labels)}
                            for job in jobs
                            if job.name == name
                        ],
                    }
                    for name in dict.fromkeys(job.name for job in jobs)
                ],
            },
        )
        commands = {
            "alertmanager": [
                os.environ["ALERTMANAGER"],
                f"--config.file={directory}/alertmanager.yaml",
                f"--storage.path={directory}/alertmanager",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ],
            "prometheus": [
                os.environ["PROMETHEUS"],
                f"--config.file={directory}/prometheus.yaml",
                f"--storage.tsdb.path={directory}/prometheus",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                f"--query.lookback-delta={scaled('5m')}",
                "--rules.alert.resend-delay=1s",
            ],
        }
        processes = [_start(directory, name, command) for name, command in commands.items()]
        try:
            for port in (alertmanager, prometheus):
                await asyncio.to_thread(_wait, f"http://127.0.0.1:{port}/-/ready", processes)
            yield Prometheus(prometheus)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_bytes(msgspec.yaml.encode(content))


def _start(directory: Path, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen([*prefix("KILL"), *command], stdout=log, stderr=log)


def _wait(url: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    def ready() -> bool:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"{url}: a program ended; its log is beside its data")
        try:
            return httpx.get(url, trust_env=False).is_success
        except httpx.TransportError:
            return False

    if not wait_until(ready, START_SECONDS):
        raise RuntimeError(f"{url} does not become ready")
