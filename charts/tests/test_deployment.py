"""The pods: what they may do, when they are replaced, and how they end."""

from typing import Any

from payments import config
from tests.conftest import Manifest, environment_of, one, payments, values_of

POD_KINDS = ("Deployment", "Job", "Pod")

# The longest time between the end of a pod's place in Kubernetes and the last request that an ALB
# sends it: the controller's reaction and the load balancer's own.
LOAD_BALANCER_LAG_SECONDS = 10

# The pool is closed within the request timeout; the rest is for the process to end.
END_SECONDS = 10


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Returns the specification of every pod that the chart makes."""
    return [
        manifest["spec"] if manifest["kind"] == "Pod" else manifest["spec"]["template"]["spec"]
        for manifest in manifests
        if manifest["kind"] in POD_KINDS
    ]


def deployment(manifests: list[Manifest]) -> Any:
    """Returns the specification of the API's deployment."""
    return one(manifests, "Deployment", "payments")["spec"]


def test_every_pod_is_restricted_in_full(manifests: list[Manifest]) -> None:
    assert len(pods(manifests)) == len(POD_KINDS) + 1  # the auditor's is a Deployment too
    for pod in pods(manifests):
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert all(set(volume) == {"name", "configMap"} for volume in pod.get("volumes", ()))
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_no_pod_has_a_token_for_the_kubernetes_api(manifests: list[Manifest]) -> None:
    assert all(pod["automountServiceAccountToken"] is False for pod in pods(manifests))


def test_no_pod_is_told_of_the_services_around_it(manifests: list[Manifest]) -> None:
    assert all(pod["enableServiceLinks"] is False for pod in pods(manifests))


def test_every_container_asks_for_what_it_needs_and_has_no_cpu_limit(
    manifests: list[Manifest],
) -> None:
    for pod in pods(manifests):
        for container in pod["containers"]:
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert set(container["resources"]["limits"]) == {"memory"}
            assert (
                container["resources"]["limits"]["memory"]
                == container["resources"]["requests"]["memory"]
            )


def test_every_image_is_named_by_its_digest(manifests: list[Manifest]) -> None:
    images = {container["image"] for pod in pods(manifests) for container in pod["containers"]}
    assert images == {f"registry/payments@sha256:{'0' * 64}"}


def test_without_a_digest_the_image_is_the_charts_version() -> None:
    manifests = payments({"image": {"digest": ""}})
    assert deployment(manifests)["template"]["spec"]["containers"][0]["image"] == (
        "registry/payments:0.1.0"
    )


def test_a_rolling_update_takes_no_pod_away_before_the_next_is_ready(
    manifests: list[Manifest],
) -> None:
    assert deployment(manifests)["strategy"] == {
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}
    }


def test_the_autoscaler_alone_counts_the_pods(manifests: list[Manifest]) -> None:
    assert "replicas" not in deployment(manifests)
    fixed = payments({"autoscaling": {"enabled": False}, "replicas": 3})
    assert deployment(fixed)["replicas"] == 3
    assert not [m for m in fixed if m["kind"] == "HorizontalPodAutoscaler"]


def test_live_never_asks_the_database_and_ready_does(manifests: list[Manifest]) -> None:
    (container,) = deployment(manifests)["template"]["spec"]["containers"]
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


def test_a_readiness_probe_waits_longer_than_the_service_gives_the_database(
    manifests: list[Manifest],
) -> None:
    (container,) = deployment(manifests)["template"]["spec"]["containers"]
    ready = config.Settings(database_url="postgresql://").ready_timeout_seconds
    assert container["readinessProbe"]["timeoutSeconds"] > ready


def test_a_pod_serves_on_until_nobody_sends_to_it_and_is_not_killed_before_it_ends(
    environment: str,
) -> None:
    manifests = payments(environment=environment)
    spec = deployment(manifests)["template"]["spec"]
    (container,) = spec["containers"]
    variables = environment_of(container)
    delay = int(variables["PAYMENTS_SHUTDOWN_DELAY_SECONDS"])
    timeout = int(variables["PAYMENTS_SHUTDOWN_TIMEOUT_SECONDS"])
    defaults = config.Settings(database_url="postgresql://")
    longest_request = defaults.body_timeout_seconds + defaults.request_timeout_seconds

    # The service drains by itself, so that no preStop hook hides the signal from it.
    assert "lifecycle" not in container
    assert delay > LOAD_BALANCER_LAG_SECONDS
    assert timeout >= longest_request
    assert spec["terminationGracePeriodSeconds"] >= delay + timeout + END_SECONDS
    attributes = one(manifests, "Ingress")["metadata"]["annotations"][
        "alb.ingress.kubernetes.io/target-group-attributes"
    ]
    assert f"deregistration_delay.timeout_seconds={timeout}," in attributes


def test_pods_spread_over_zones_and_hosts(environment: str) -> None:
    spec = deployment(payments(environment=environment))["template"]["spec"]
    spread = {c["topologyKey"]: c["whenUnsatisfiable"] for c in spec["topologySpreadConstraints"]}
    how = "DoNotSchedule" if environment == "production" else "ScheduleAnyway"
    assert spread == {"topology.kubernetes.io/zone": how, "kubernetes.io/hostname": how}


def test_production_stands_in_two_zones_at_the_least() -> None:
    manifests = payments(environment="production")
    zones, _ = deployment(manifests)["template"]["spec"]["topologySpreadConstraints"]
    assert zones["minDomains"] == 2
    assert one(manifests, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2


def test_one_pod_can_be_drained_even_where_it_is_the_only_one(manifests: list[Manifest]) -> None:
    budget = one(manifests, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_the_service_and_the_budget_select_the_api_and_nothing_else(
    manifests: list[Manifest],
) -> None:
    labels = deployment(manifests)["template"]["metadata"]["labels"]
    others = [
        one(manifests, "Deployment", "payments-audit")["spec"]["template"]["metadata"]["labels"],
        one(manifests, "Job")["spec"]["template"]["metadata"]["labels"],
        one(manifests, "Pod")["metadata"]["labels"],
    ]
    for selector in (
        one(manifests, "Service", "payments")["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        deployment(manifests)["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not any(selector.items() <= other.items() for other in others)


def test_a_setting_arrives_as_it_was_written() -> None:
    settings = {
        "PAYMENTS_PAGE_LIMIT_BYTES": 4194304,
        "PAYMENTS_LOG_LEVEL": "WARNING",
        "PAYMENTS_AUTHENTICATION": True,
        "PAYMENTS_ACQUIRE_TIMEOUT_SECONDS": 1.7,
    }
    (container,) = deployment(payments({"settings": settings}))["template"]["spec"]["containers"]
    variables = environment_of(container)
    assert {name: variables[name] for name in settings} == {
        "PAYMENTS_PAGE_LIMIT_BYTES": "4194304",
        "PAYMENTS_LOG_LEVEL": "WARNING",
        "PAYMENTS_AUTHENTICATION": "true",
        "PAYMENTS_ACQUIRE_TIMEOUT_SECONDS": "1.7",
    }


def test_the_service_takes_the_settings_that_it_is_given(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        for container in pod["containers"]:
            variables = environment_of(container) if "env" in container else {}
            if "PAYMENTS_POOL_SIZE" in variables:
                config.load(variables)


def test_the_auditor_is_there_where_prometheus_is(manifests: list[Manifest]) -> None:
    spec = one(manifests, "Deployment", "payments-audit")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == ["audit", "--serve"]
    assert {
        container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    } == {"/livez"}
    names = {m["metadata"]["name"] for m in payments({"monitoring": {"enabled": False}})}
    assert names
    assert not [name for name in names if "audit" in name]


def test_scaling_in_is_slow_and_scaling_out_is_not(environment: str) -> None:
    scaler = one(payments(environment=environment), "HorizontalPodAutoscaler")["spec"]
    autoscaling = values_of(environment)["autoscaling"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (
        autoscaling["minReplicas"],
        autoscaling["maxReplicas"],
    )
    assert scaler["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_requests_a_pod_are_a_metric_only_where_asked_for() -> None:
    def kinds(manifests: list[Manifest]) -> list[str]:
        scaler = one(manifests, "HorizontalPodAutoscaler")["spec"]
        return [metric["type"] for metric in scaler["metrics"]]

    assert kinds(payments()) == ["Resource"]
    assert kinds(payments({"autoscaling": {"requestsPerSecond": 500}})) == ["Resource", "Pods"]


def test_the_charts_test_is_the_smoke_test(manifests: list[Manifest]) -> None:
    (container,) = one(manifests, "Pod")["spec"]["containers"]
    assert container["args"] == ["smoke", "http://payments", "--wait-seconds=40"]
    assert "command" not in container
    assert "env" not in container  # no key: what needs none is checked


def test_the_charts_test_knows_that_no_key_is_asked_for() -> None:
    inside = {
        "settings": {"PAYMENTS_AUTHENTICATION": False},
        "ingress": {"enabled": False, "host": ""},
    }
    (container,) = one(payments(inside), "Pod")["spec"]["containers"]
    assert container["args"][-1] == "--anonymous"
