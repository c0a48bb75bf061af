"""What Prometheus and Grafana get: the files under monitoring/, as they are."""

import json
import re

import prometheus_client
import pytest

from payments import metrics
from tests.conftest import CHARTS, Manifest, one, payments

MONITORING = CHARTS / "payments" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))

# Prometheus's own, about what it scrapes.
OF_PROMETHEUS = {"up"}


def dashboards(manifests: list[Manifest]) -> list[Manifest]:
    """Returns the ConfigMaps that hold one."""
    configs = [m for m in manifests if m["kind"] == "ConfigMap"]
    return [m for m in configs if "dashboard" in m["metadata"]["name"]]


def test_without_the_operator_nothing_of_its_kinds_is_made() -> None:
    kinds = {m["kind"] for m in payments({"monitoring": {"enabled": False}})}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}
    assert not dashboards(payments({"monitoring": {"enabled": False}}))


# Prometheus takes the name of the Service for the job's.
@pytest.mark.parametrize("job", ["payments", "payments-audit"])
def test_every_pod_is_scraped_on_its_own_port(manifests: list[Manifest], job: str) -> None:
    monitor = one(manifests, "ServiceMonitor", job)["spec"]
    selector = monitor["selector"]["matchLabels"]
    services = [m for m in manifests if m["kind"] == "Service"]
    found = [s for s in services if selector.items() <= s["metadata"]["labels"].items()]
    assert [service["metadata"]["name"] for service in found] == [job]
    labels = one(manifests, "Deployment", job)["spec"]["template"]["metadata"]["labels"]
    assert found[0]["spec"]["selector"].items() <= labels.items()
    assert "jobLabel" not in monitor
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["metrics"]


def test_the_dashboards_are_the_files_and_grafana_finds_them(manifests: list[Manifest]) -> None:
    assert DASHBOARDS
    for manifest, file in zip(dashboards(manifests), DASHBOARDS, strict=True):
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(manifest["data"][file.name]) == json.loads(file.read_text())


def test_rules_and_panels_ask_only_for_metrics_that_the_service_has() -> None:
    assert metrics.active_requests in prometheus_client.REGISTRY._collector_to_names
    known = set(OF_PROMETHEUS)
    for family in prometheus_client.REGISTRY.collect():
        suffixes = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_count", "_sum"],
        }.get(family.type, [""])
        known |= {family.name + suffix for suffix in suffixes}
    text = "".join(file.read_text() for file in RULES + DASHBOARDS)
    asked = set(re.findall(r"([a-z_]+)\{job=", text))
    assert asked
    assert asked <= known, asked - known
