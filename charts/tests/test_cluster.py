"""What a cluster needs once: namespaces, nodes, and the classes that AWS's controllers read."""

from typing import Any

import pytest

from tests.conftest import (
    CLUSTERS,
    ENVIRONMENTS,
    Refused,
    cluster,
    helm,
    merge,
    one,
    outputs,
)

# The fields of EKS Auto Mode's own kinds, whose definitions are not published, from the user guide
# (automode/create-node-class and automode/auto-configure-alb, 2026).
FIELDS = {
    "NodeClass": {
        "advancedNetworking",
        "certificateBundles",
        "ephemeralStorage",
        "networkPolicy",
        "networkPolicyEventLogs",
        "role",
        "securityGroupSelectorTerms",
        "snatPolicy",
        "subnetSelectorTerms",
        "tags",
    },
    "IngressClassParams": {
        "certificateARNs",
        "group",
        "ipAddressType",
        "listeners",
        "loadBalancerAttributes",
        "namespaceSelector",
        "scheme",
        "subnets",
        "tags",
    },
}


def requirements(name: str) -> dict[str, Any]:
    """Returns what the pool asks of a node."""
    pool = one(cluster(name), "NodePool")["spec"]["template"]["spec"]
    return {item["key"]: item["values"] for item in pool["requirements"]}


def environments(name: str) -> list[str]:
    """Returns the namespaces of a cluster's environments."""
    namespaces = [m["metadata"]["name"] for m in cluster(name) if m["kind"] == "Namespace"]
    return [namespace for namespace in namespaces if namespace != "monitoring"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_namespaces_refuse_what_is_not_restricted(name: str) -> None:
    assert environments(name)
    for namespace in (one(cluster(name), "Namespace", n) for n in environments(name)):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", CLUSTERS)
def test_namespaces_outlive_the_release(name: str) -> None:
    for namespace in (m for m in cluster(name) if m["kind"] == "Namespace"):
        assert namespace["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_network_policies_are_enforced(name: str) -> None:
    settings = one(cluster(name), "ConfigMap", "amazon-vpc-cni")
    assert settings["metadata"]["namespace"] == "kube-system"
    assert settings["data"] == {"enable-network-policy-controller": "true"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_are_graviton(name: str) -> None:
    assert requirements(name)["kubernetes.io/arch"] == ["arm64"]


def test_spot_is_for_what_is_not_production() -> None:
    assert requirements("nonprod")["karpenter.sh/capacity-type"] == ["spot", "on-demand"]
    assert requirements("production")["karpenter.sh/capacity-type"] == ["on-demand"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_pool_cannot_grow_without_end(name: str) -> None:
    assert set(one(cluster(name), "NodePool")["spec"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_volumes_are_encrypted(name: str) -> None:
    assert one(cluster(name), "StorageClass")["parameters"]["encrypted"] == "true"


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_kinds_of_eks_have_only_fields_that_it_knows(name: str) -> None:
    for kind, fields in FIELDS.items():
        manifest = one(cluster(name), kind)
        assert manifest["apiVersion"] == "eks.amazonaws.com/v1"
        assert set(manifest["spec"]) <= fields


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_the_cluster_buys_carries_the_tag_that_the_budget_counts(name: str) -> None:
    assert one(cluster(name), "NodeClass")["spec"]["tags"] == {"platform": name}
    tags = one(cluster(name), "IngressClassParams")["spec"]["tags"]
    assert tags == [{"key": "platform", "value": name}]
    volumes = one(cluster(name), "StorageClass")["parameters"]
    assert volumes["tagSpecification_1"] == f"platform={name}"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_pipeline_may_monitor_its_own_environment_and_nothing_more(name: str) -> None:
    (rule,) = one(cluster(name), "ClusterRole", "payments-deployers")["rules"]
    assert rule["apiGroups"] == ["monitoring.coreos.com"]
    assert rule["resources"] == ["prometheusrules", "servicemonitors"]
    assert "*" not in rule["verbs"]
    assert not [m for m in cluster(name) if m["kind"] == "ClusterRoleBinding"]
    bindings = [m for m in cluster(name) if m["kind"] == "RoleBinding"]
    assert [binding["metadata"]["namespace"] for binding in bindings] == environments(name)
    for binding in bindings:
        (group,) = binding["subjects"]
        assert group["name"] == f"{binding['metadata']['namespace']}-deployers"


@pytest.mark.parametrize("name", CLUSTERS)
def test_admission_policies_deny_in_every_environment(name: str) -> None:
    """What they deny is in cluster/test_trust.py, on a real API server."""
    policies = [m for m in cluster(name) if m["kind"] == "ValidatingAdmissionPolicy"]
    bindings = [m["spec"] for m in cluster(name) if m["kind"] == "ValidatingAdmissionPolicyBinding"]
    names = {policy["metadata"]["name"] for policy in policies}
    assert names == {binding["policyName"] for binding in bindings}
    assert names == {"payments-ingresses", "payments-servicemonitors", "payments-services"}
    assert {policy["spec"]["failurePolicy"] for policy in policies} == {"Fail"}
    for binding in bindings:
        assert binding["validationActions"] == ["Deny"]
        (expression,) = binding["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert expression == {
            "key": "kubernetes.io/metadata.name",
            "operator": "In",
            "values": environments(name),
        }


def test_each_environment_may_serve_its_own_host() -> None:
    hosts: dict[str, str] = {}
    for name in CLUSTERS:
        hosts |= outputs(f"platform-{name}")["loadBalancer"]["hosts"]
    assert hosts == {e: outputs(f"environment-{e}")["ingress"]["host"] for e in ENVIRONMENTS}


def test_an_environment_without_a_host_is_refused() -> None:
    values = merge(
        outputs("platform-production"), {"loadBalancer": {"hosts": {"dev": "a.example"}}}
    )
    values["loadBalancer"]["hosts"].pop("production")
    with pytest.raises(Refused, match=r"loadBalancer\.hosts has no production"):
        helm("cluster", values, "clusters/production.yaml", "kube-system")


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_pod_of_an_environment_evicts_or_keeps_away_another_namespaces(name: str) -> None:
    quotas = [m["metadata"] for m in cluster(name) if m["kind"] == "ResourceQuota"]
    for quota in ("no-system-priority", "no-affinity-to-others"):
        found = [m["namespace"] for m in quotas if m["name"] == quota]
        assert found == environments(name)


def test_a_cluster_that_is_not_eks_gets_the_environments_alone() -> None:
    manifests = helm("cluster", {"environments": ["dev"], "eks": {"enabled": False}})
    assert not [m for m in manifests if "monitoring" in str(m["metadata"])]
    assert sorted({m["kind"] for m in manifests}) == [
        "ClusterRole",
        "Namespace",
        "NetworkPolicy",
        "ResourceQuota",
        "RoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
