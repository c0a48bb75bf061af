"""compose.yaml, started with README.md's commands: a payment, its metric, and what stays.

Only `make compose-test` runs it. The project has a name of its own, so that the data of one that an
engineer runs are safe; its ports must be free.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.command import DOCKER
from tests.conftest import API_DIRECTORY

ROOT = API_DIRECTORY.parent
PROJECT = "payments-test"

API = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
GRAFANA = "http://127.0.0.1:3000"

# The image is built in it, from packages that are downloaded.
BUILD_SECONDS = 1200
# Rules are evaluated and payments are audited once a minute.
PATIENCE_SECONDS = 180

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


def docker(*arguments: str) -> str:
    """Runs the Docker client in the checkout, on the tests' own project; returns its output."""
    result = subprocess.run(
        [DOCKER, *arguments],
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROJECT_NAME": PROJECT},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"docker {shlex.join(arguments)}"
    return result.stdout


def readme() -> list[list[str]]:
    """Returns what README.md's lines give to `docker`: they start everything, and make a key."""
    lines = (ROOT / "README.md").read_text().splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("docker compose ")]


def start() -> None:
    """Starts everything as README.md does, which waits until it is healthy."""
    docker(*readme()[0], f"--wait-timeout={PATIENCE_SECONDS}")


def left() -> list[str]:
    """Returns what the project has: containers, volumes and networks."""
    label = f"--filter=label=com.docker.compose.project={PROJECT}"
    return [
        name
        for kind in (("container", "ls", "--all"), ("volume", "ls"), ("network", "ls"))
        for name in docker(*kind, "--quiet", label).split()
    ]


def eventually(ask: Callable[[], Any]) -> Any:
    """Asks until there is an answer, and returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"nothing after {PATIENCE_SECONDS} s"
        time.sleep(0.5)
    return answer


def prometheus(path: str, **parameters: str) -> Any:
    """Asks Prometheus' API."""
    answer = httpx.get(f"{PROMETHEUS}/api/v1/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def query(expression: str) -> dict[str, float]:
    """Returns the value of each series, by its job."""
    result = prometheus("query", query=expression)["result"]
    return {series["metric"]["job"]: float(series["value"][1]) for series in result}


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[httpx.Client]:
    """A client with the key that README.md's commands make."""
    assert not left(), f"docker compose --project-name {PROJECT} down --volumes"
    try:
        start()
        key = docker(*readme()[1]).strip()
        with httpx.Client(base_url=API, headers={"Authorization": f"Bearer {key}"}) as client:
            yield client
    finally:
        print(docker("compose", "ps", "--all"), docker("compose", "logs", "--tail=30"))
        docker("compose", "down", "--volumes")
    assert not left()


def create(client: httpx.Client) -> Any:
    """Creates a payment and returns it."""
    made = client.post("/v1/payments", json={"payment": 12345.67, "data": {"order": 1}})
    assert made.status_code == 201, made.text
    return made.json()


def test_what_ran_once_has_ended_and_all_others_run() -> None:
    running = docker("compose", "ps", "--services", "--status=running").split()
    ended = docker("compose", "ps", "--services", "--status=exited").split()
    assert {*ended} == {"roles", "migrate"}
    assert {*running} == {*docker("compose", "config", "--services").split()} - {*ended}


def test_a_payment_is_in_the_metrics_of_service_and_auditor(client: httpx.Client) -> None:
    create(client)
    eventually(lambda: query("payments_created_total > 0").get("payments"))
    eventually(lambda: query("payments_audit_rows_created_total > 0").get("payments-audit"))


def test_prometheus_scrapes_what_it_is_told_of() -> None:
    eventually(lambda: query("up") == {"payments": 1, "payments-audit": 1})


def test_the_rules_of_the_chart_are_evaluated() -> None:
    def evaluated() -> list[Any]:
        found = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        return [] if any(rule["health"] == "unknown" for rule in found) else found

    found = eventually(evaluated)
    assert [rule for rule in found if rule["health"] != "ok"] == []


def test_grafana_has_the_dashboards_of_the_chart_and_reaches_prometheus() -> None:
    files = (ROOT / "charts" / "payments" / "monitoring" / "dashboards").glob("*.json")
    count = len(list(files))
    with httpx.Client(base_url=f"{GRAFANA}/api") as grafana:
        eventually(lambda: len(grafana.get("/search", params={"type": "dash-db"}).json()) == count)
        [source] = grafana.get("/datasources").json()
        assert grafana.get(f"/datasources/uid/{source['uid']}/health").json()["status"] == "OK"


def test_payments_and_keys_survive_down_and_up(client: httpx.Client) -> None:
    payment = create(client)
    docker("compose", "down")
    start()
    assert client.get(f"/v1/payments/{payment['id']}").json() == payment
