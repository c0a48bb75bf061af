"""What Prometheus and Grafana get: the files under monitoring/, as they are."""

import json
import re

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from payments import audit, metrics
from tests.conftest import CHARTS, ENVIRONMENTS, Manifest, Refused, helm, merge, one, payments, told

MONITORING = CHARTS / "payments" / "monitoring"
STACK = CHARTS / "cluster" / "monitoring" / "kube-prometheus-stack.yaml"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))

# What the kubelet and kube-state-metrics say, and panels alone ask for; rules: metrics.yaml.
OF_THE_CLUSTER = {
    "container_cpu_usage_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_ready",
    "kube_pod_container_resource_requests",
}


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


def test_a_release_of_another_name_would_not_be_watched() -> None:
    with pytest.raises(Refused, match="The release is called other"):
        helm("payments", told("dev"), "environments/dev.yaml", release="other")
    unwatched = merge(told("dev"), {"monitoring": {"enabled": False}})
    assert helm("payments", unwatched, "environments/dev.yaml", release="other")


def test_one_release_of_a_cluster_brings_the_dashboards() -> None:
    for platform in ("nonprod", "production"):
        told_of = yaml.safe_load((CHARTS / "cluster" / "clusters" / f"{platform}.yaml").read_text())
        brought = [e for e in told_of["environments"] if dashboards(payments(environment=e))]
        assert len(brought) == 1


def test_series_rules_and_dashboards_cannot_speak_for_another_namespace() -> None:
    values = yaml.safe_load(STACK.read_text())
    spec = values["prometheus"]["prometheusSpec"]
    assert spec["enforcedNamespaceLabel"] == "namespace"
    assert {excluded["namespace"] for excluded in spec["excludedFromEnforcement"]} == {"monitoring"}
    with_dashboards = {f"payments-{e}" for e in ENVIRONMENTS if dashboards(payments(environment=e))}
    searched = values["grafana"]["sidecar"]["dashboards"]["searchNamespace"]
    assert {*searched} == {"monitoring", *with_dashboards}


def test_the_dashboards_are_the_files_and_grafana_finds_them() -> None:
    assert DASHBOARDS
    manifests = payments()
    for manifest, file in zip(dashboards(manifests), DASHBOARDS, strict=True):
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(manifest["data"][file.name]) == json.loads(file.read_text())


def emitted(registry: CollectorRegistry) -> set[str]:
    """Returns the names that a registry's metrics have where they are scraped."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in suffixes.get(family.type, [""])
    }


def test_rules_and_panels_ask_only_for_metrics_that_there_are() -> None:
    audited = CollectorRegistry()
    audit.Auditor(audited)
    assert metrics.active_requests in REGISTRY._collector_to_names
    known = {
        "service": emitted(REGISTRY),
        "auditor": emitted(audited),
        "prometheus": {"ALERTS", "up"},
        "rules": {*re.findall(r"record: (\S+)", "".join(file.read_text() for file in RULES))},
    }
    listed: dict[str, list[str]] = yaml.safe_load((CHARTS / "tests" / "metrics.yaml").read_text())
    for name in {*known} & {*listed}:
        assert {*listed[name]} <= known[name]
    text = "".join(file.read_text() for file in RULES + DASHBOARDS)
    asked = {*re.findall(r"([A-Za-z_:][\w:]*)\{", text)}
    assert asked >= OF_THE_CLUSTER
    assert asked <= OF_THE_CLUSTER.union(*known.values(), *listed.values())
