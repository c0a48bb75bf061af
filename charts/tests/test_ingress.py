"""The way in: TLS, the load balancer's health check, and what a stranger can reach."""

from typing import Any

from payments import config
from tests.conftest import ENVIRONMENTS, Manifest, cluster, one, outputs, payments

ALB = "alb.ingress.kubernetes.io/"

GATEWAY = {
    "ingress": {"enabled": False},
    "httpRoute": {
        "enabled": True,
        "hostnames": ["payments.example.com"],
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
    },
}


def annotations(manifests: list[Manifest]) -> dict[str, str]:
    """Returns what the Ingress tells the load balancer."""
    found = one(manifests, "Ingress")["metadata"]["annotations"]
    assert all(key.startswith(ALB) for key in found)
    return {key.removeprefix(ALB): value for key, value in found.items()}


def attributes(name: str) -> dict[str, str]:
    """Returns the load balancer's attributes in a cluster."""
    found: list[dict[str, str]] = one(cluster(name), "IngressClassParams")["spec"][
        "loadBalancerAttributes"
    ]
    return {item["key"]: item["value"] for item in found}


def test_everything_is_sent_to_tls(manifests: list[Manifest], environment: str) -> None:
    assert annotations(manifests)["listen-ports"] == '[{"HTTP": 80}, {"HTTPS": 443}]'
    assert annotations(manifests)["ssl-redirect"] == "443"
    assert annotations(manifests)["ssl-policy"].startswith("ELBSecurityPolicy-TLS13-1-2-Res")
    host = outputs(f"environment-{environment}")["ingress"]["host"]
    assert one(manifests, "Ingress")["spec"]["tls"] == [{"hosts": [host]}]


def test_the_firewall_stands_before_production() -> None:
    """Where there is none, its ARN is empty, which must not become an annotation."""
    behind = {e for e in ENVIRONMENTS if "wafv2-acl-arn" in annotations(payments(environment=e))}
    assert behind == {"production"}
    found = annotations(payments(environment="production"))["wafv2-acl-arn"]
    assert found == outputs("environment-production")["ingress"]["wafAclArn"]


def test_the_load_balancer_asks_pods_whether_they_are_ready(manifests: list[Manifest]) -> None:
    found = annotations(manifests)
    assert found["target-type"] == "ip"
    assert found["healthcheck-path"] == "/readyz"
    assert found["success-codes"] == "200"
    times = (
        float(found["healthcheck-timeout-seconds"]),
        float(found["healthcheck-interval-seconds"]),
    )
    assert config.Settings(database_url="postgresql://").ready_timeout_seconds < times[0] < times[1]


def test_a_pod_counts_as_ready_only_when_the_load_balancer_says_so() -> None:
    for name in ("nonprod", "production"):
        namespaces = [m for m in cluster(name) if m["kind"] == "Namespace"]
        for namespace in (m for m in namespaces if m["metadata"]["name"] != "monitoring"):
            label = namespace["metadata"]["labels"]["eks.amazonaws.com/pod-readiness-gate-inject"]
            assert label == "enabled"


def test_it_leads_to_the_api_and_never_to_the_metrics(manifests: list[Manifest]) -> None:
    (rule,) = one(manifests, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": "payments", "port": {"name": "http"}}}
    ports = {p["name"]: p for p in one(manifests, "Service", "payments")["spec"]["ports"]}
    assert ports["http"] == {"name": "http", "port": 80, "targetPort": "http"}
    assert ports["metrics"]["targetPort"] == "metrics"


def test_the_gateway_is_an_alternative_that_leads_to_the_api() -> None:
    manifests = payments(GATEWAY)
    spec = one(manifests, "HTTPRoute")["spec"]
    assert [m for m in manifests if m["kind"] == "Ingress"] == []
    assert spec["hostnames"] == ["payments.example.com"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    (rule,) = spec["rules"]
    assert rule["backendRefs"] == [{"name": "payments", "port": 80}]


def test_the_load_balancer_refuses_what_could_smuggle_a_request() -> None:
    for name in ("nonprod", "production"):
        assert attributes(name)["routing.http.drop_invalid_header_fields.enabled"] == "true"
        assert attributes(name)["routing.http.desync_mitigation_mode"] == "strictest"


def test_the_service_keeps_idle_connections_longer_than_the_load_balancer() -> None:
    keep_alive = config.Settings(database_url="postgresql://").keep_alive_seconds
    for name in ("nonprod", "production"):
        assert int(attributes(name)["idle_timeout.timeout_seconds"]) < keep_alive


def test_dev_and_staging_share_a_load_balancer_and_production_has_its_own() -> None:
    groups: list[Any] = [
        one(cluster(name), "IngressClassParams")["spec"]["group"]["name"]
        for name in ("nonprod", "production")
    ]
    assert groups == ["nonprod", "production"]
    assert attributes("nonprod")["deletion_protection.enabled"] == "false"
    assert attributes("production")["deletion_protection.enabled"] == "true"
