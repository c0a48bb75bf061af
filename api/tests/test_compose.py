"""compose.yaml says of the service what is true of it."""

import re
from typing import Any

import msgspec

from payments import config
from tests.conftest import API_DIRECTORY

COMPOSE: dict[str, Any] = msgspec.yaml.decode((API_DIRECTORY.parent / "compose.yaml").read_bytes())
SERVICES = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service.get("build") == "api"}


def test_what_is_not_built_here_is_pinned_by_digest() -> None:
    assert set(OWN) == {"roles", "migrate", "api", "audit"}
    for name, service in SERVICES.items():
        if name not in OWN:
            assert re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"]), name


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
