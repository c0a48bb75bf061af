"""compose.yaml says of the service what is true of it. tests/compose starts it."""

import re
from typing import Any

import msgspec

from payments import config
from tests.conftest import API_DIRECTORY

FILE = API_DIRECTORY.parent / "compose.yaml"
COMPOSE: dict[str, Any] = msgspec.yaml.decode(FILE.read_bytes())
SERVICES = COMPOSE["services"]
IMAGE = "payments:local"
OWN = {name: service for name, service in SERVICES.items() if service["image"] == IMAGE}


def test_what_is_not_built_here_is_pinned_by_digest() -> None:
    assert set(OWN) == {"roles", "migrate", "api", "audit"}
    for name, service in SERVICES.items():
        if name not in OWN:
            assert re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"]), name


def test_what_is_built_here_is_built_once_and_never_pulled() -> None:
    assert [name for name, service in OWN.items() if "build" in service] == ["api"]
    assert {service["pull_policy"] for service in OWN.values()} == {"never"}


def test_its_commands_are_those_of_the_readme() -> None:
    readme = (API_DIRECTORY.parent / "README.md").read_text().splitlines()
    head = FILE.read_text().partition("\nname:")[0].splitlines()
    commands = [line for line in readme if line.startswith("docker compose ")]
    assert len(commands) == 2
    assert [line[4:] for line in head if line.startswith("#   docker compose ")] == commands


def test_the_settings_are_the_services() -> None:
    for service in OWN.values():
        config.load(service["environment"])


def test_prometheus_asks_the_port_that_metrics_are_on() -> None:
    prometheus = msgspec.yaml.decode(COMPOSE["configs"]["prometheus"]["content"])
    jobs = {"payments": "api", "payments-audit": "audit"}
    targets = {job["job_name"]: job["static_configs"] for job in prometheus["scrape_configs"]}
    ports = {n: config.load(SERVICES[n]["environment"]).metrics_port for n in jobs.values()}
    # The label that the operator would give, and that the chart's rules ask for.
    assert targets == {
        job: [{"targets": [f"{name}:{ports[name]}"], "labels": {"namespace": "payments"}}]
        for job, name in jobs.items()
    }
    settings = config.load(SERVICES["api"]["environment"])
    assert SERVICES["api"]["ports"] == [f"127.0.0.1:8000:{settings.http_port}"]


def test_the_service_has_time_to_drain() -> None:
    settings = config.load(SERVICES["api"]["environment"])
    drain = settings.shutdown_delay_seconds + settings.shutdown_timeout_seconds
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > drain
