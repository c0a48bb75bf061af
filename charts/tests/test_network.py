"""Who may talk to whom: the flows that the network policies allow are these, and no others."""

from typing import Any

import pytest

from tests.conftest import Manifest, cluster, one, outputs, payments

Flow = tuple[str, str, str, str]  # a pod's component, from or to, the other side, port

POD_IDENTITY_AGENT = ("169.254.170.23/32", "fd00:ec2::23/128")
PROMETHEUS = "namespace kubernetes.io/metadata.name=monitoring"

DNS = "172.20.0.10/32"

ALWAYS: set[Flow] = {
    ("api", "from", PROMETHEUS, "TCP 9464"),
    ("api", "to", DNS, "UDP 53"),
    ("api", "to", DNS, "TCP 53"),
    *(("api", "to", agent, "TCP 80") for agent in POD_IDENTITY_AGENT),
    ("audit", "from", PROMETHEUS, "TCP 9464"),
    ("audit", "to", DNS, "UDP 53"),
    ("audit", "to", DNS, "TCP 53"),
    *(("audit", "to", agent, "TCP 80") for agent in POD_IDENTITY_AGENT),
    ("migration", "to", DNS, "UDP 53"),
    ("migration", "to", DNS, "TCP 53"),
    *(("migration", "to", agent, "TCP 80") for agent in POD_IDENTITY_AGENT),
}

DURING_HELM_TEST: set[Flow] = {
    ("api", "from", "pods component=test", "TCP 8000"),
    ("test", "to", "pods component=api", "TCP 8000"),
    ("test", "to", DNS, "UDP 53"),
    ("test", "to", DNS, "TCP 53"),
}


def in_the_network(environment: str) -> set[Flow]:
    """Returns the flows from the load balancer's subnets and to the database's."""
    policy = outputs(f"environment-{environment}")["networkPolicy"]
    clients, database = (
        [p["ipBlock"]["cidr"] for p in policy[key]] for key in ("clients", "database")
    )
    return {("api", "from", subnet, "TCP 8000") for subnet in clients} | {
        (pod, "to", subnet, "TCP 5432")
        for pod in ("api", "audit", "migration")
        for subnet in database
    }


def peer(found: Manifest) -> str:
    """Returns what a peer of a policy selects, in words."""
    words = []
    if "ipBlock" in found:
        assert set(found["ipBlock"]) == {"cidr"}
        words.append(found["ipBlock"]["cidr"])
    for kind, word in (("namespaceSelector", "namespace"), ("podSelector", "pods")):
        if kind in found:
            labels = found[kind]["matchLabels"]
            # In a peer the labels of the release say no more than the component does.
            shown = {
                key.removeprefix("app.kubernetes.io/"): value
                for key, value in labels.items()
                if key not in ("app.kubernetes.io/name", "app.kubernetes.io/instance")
            }
            words.append(f"{word} " + ",".join(f"{k}={v}" for k, v in shown.items()))
    assert words, "an empty peer selects everybody"
    return " ".join(words)


def port(found: Manifest, names: dict[str, int]) -> str:
    """Returns a port of a policy by its number."""
    return f"{found.get('protocol', 'TCP')} {names.get(found['port'], found['port'])}"


def flows(manifests: list[Manifest]) -> set[Flow]:
    """Returns all flows that the policies allow."""
    (container,) = one(manifests, "Deployment", "payments")["spec"]["template"]["spec"][
        "containers"
    ]
    names = {p["name"]: p["containerPort"] for p in container["ports"]}
    found = set()
    for policy in (m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"):
        component = policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rules, direction in (("ingress", "from"), ("egress", "to")):
            assert rules not in policy or rules.title() in policy["policyTypes"]
            for rule in policy.get(rules, ()):
                # A rule without peers or without ports would allow all of them.
                found |= {
                    (component, direction, peer(other), port(number, names))
                    for other in rule[direction]
                    for number in rule["ports"]
                }
    return found


def of_helm_test(manifest: Manifest) -> bool:
    """Whether something is there only while `helm test` runs."""
    annotations: Manifest = manifest["metadata"].get("annotations", {})
    return annotations.get("helm.sh/hook") == "test"


def test_the_flows_are_these_and_no_others(environment: str) -> None:
    manifests = payments(environment=environment)
    always = ALWAYS | in_the_network(environment)
    assert flows([m for m in manifests if not of_helm_test(m)]) == always
    assert flows(manifests) == always | DURING_HELM_TEST


def test_the_way_of_helm_test_is_taken_away_after_it(manifests: list[Manifest]) -> None:
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy" and of_helm_test(m)]
    assert len(policies) == 2
    for policy in policies:
        deletion = policy["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert deletion == "before-hook-creation,hook-succeeded,hook-failed"


def test_without_iam_nobody_asks_the_pod_identity_agent() -> None:
    secrets = {"api": "a", "migrator": "b"}
    database = {"authentication": "secret", "host": "", "secrets": secrets}
    others = {other for _, _, other, _ in flows(payments({"database": database}))}
    assert not others & set(POD_IDENTITY_AGENT)


def test_traces_have_a_way_to_their_collector_alone() -> None:
    collector = {"podSelector": {"matchLabels": {"app": "collector"}}}
    values = {
        "settings": {"PAYMENTS_OTLP_ENDPOINT": "http://collector:4318"},
        "networkPolicy": {"collector": [collector]},
    }
    manifests = payments(values)
    assert flows(manifests) - flows(payments()) == {("api", "to", "pods app=collector", "TCP 4318")}
    pod = one(manifests, "Deployment", "payments")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "PAYMENTS_OTLP_ENDPOINT", "value": "http://collector:4318"} in container["env"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Deployment", "payments"),
        ("Deployment", "payments-audit"),
        ("Job", "payments-migration"),
        ("Pod", "payments-test"),
    ],
)
def test_every_pod_is_under_a_policy_for_both_directions(
    manifests: list[Manifest], kind: str, name: str
) -> None:
    owner = one(manifests, kind, name)
    pod: Any = owner if kind == "Pod" else owner["spec"]["template"]
    types = {
        kind
        for m in manifests
        if m["kind"] == "NetworkPolicy"
        and m["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        for kind in m["spec"]["policyTypes"]
    }
    assert types == {"Ingress", "Egress"}


def test_what_the_charts_do_not_know_may_talk_to_nobody() -> None:
    for name, environments in (("nonprod", ["dev", "staging"]), ("production", ["production"])):
        policies = [m for m in cluster(name) if m["kind"] == "NetworkPolicy"]
        denials = [m for m in policies if m["metadata"]["name"] == "default-deny"]
        assert [m["metadata"]["namespace"] for m in denials] == [
            f"payments-{environment}" for environment in environments
        ]
        assert all(
            m["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for m in denials
        )
