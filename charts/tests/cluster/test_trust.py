"""What dev's pipeline may ask of the Kubernetes API, and of the controllers that staging shares.

AWS's AmazonEKSAdminPolicy exists on EKS alone. Kubernetes' own ClusterRole `admin` stands for it:
the EKS user guide (access-policy-permissions) describes the permissions as similar.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.conftest import (
    IDLE,
    MONITORING,
    NAMESPACE,
    RELOAD_SECONDS,
    SIBLING,
    CommandFailed,
    Figures,
    Prometheus,
    apply,
    get,
    kubectl,
    pod,
    wait_until,
)
from tests.conftest import Manifest, cluster, one, outputs, payments

GROUP = f"{NAMESPACE}-deployers"  # terraform/platform/cluster.tf gives it to dev's pipeline
AS_PIPELINE = ("--as=pipeline", f"--as-group={GROUP}", "--as-group=system:authenticated")

OWN_HOST = outputs("environment-dev")["ingress"]["host"]
OTHER_HOST = outputs("environment-staging")["ingress"]["host"]


@pytest.fixture(scope="module", autouse=True)
def pipeline(monitoring_kinds: Path) -> None:
    """Gives dev's pipeline what AWS's policy gives it; waits until the admission policies work."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "eks-admin-policy"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "admin",
        },
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": GROUP}],
    }
    apply(binding)
    wait_until(everything_is_denied)


MONITORING_GROUP = "monitoring.coreos.com"

# Verb, and resource.group. What the release needs, in the pipeline's own namespace.
OWN = [
    ("create", "deployments.apps"),
    ("create", "ingresses.networking.k8s.io"),
    ("create", "jobs.batch"),
    ("create", "networkpolicies.networking.k8s.io"),
    ("create", "pods/exec"),
    ("create", f"prometheusrules.{MONITORING_GROUP}"),
    ("create", "secrets"),
    ("create", f"servicemonitors.{MONITORING_GROUP}"),
]

# Denied in the pipeline's own namespace, too: what would change its limits, or reach the shared
# Prometheus and Alertmanager past the admission policies.
LIMITS = [
    ("patch", "namespaces"),
    ("update", "resourcequotas"),
    ("delete", "resourcequotas"),
    ("create", f"alertmanagerconfigs.{MONITORING_GROUP}"),
    ("create", f"alertmanagers.{MONITORING_GROUP}"),
    ("create", f"podmonitors.{MONITORING_GROUP}"),
    ("create", f"probes.{MONITORING_GROUP}"),
    ("create", f"prometheuses.{MONITORING_GROUP}"),
    ("create", f"scrapeconfigs.{MONITORING_GROUP}"),
]

ELSEWHERE = [
    *OWN,
    ("create", "configmaps"),
    ("create", "pods"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("get", "pods/log"),
    ("get", "secrets"),
    ("impersonate", "serviceaccounts"),
    ("list", "pods"),
]

CLUSTER_WIDE = [
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "ingressclasses.networking.k8s.io"),
    ("create", "ingressclassparams.eks.amazonaws.com"),
    ("create", "namespaces"),
    ("create", "nodeclasses.eks.amazonaws.com"),
    ("create", "nodepools.karpenter.sh"),
    ("create", "persistentvolumes"),
    ("create", "priorityclasses.scheduling.k8s.io"),
    ("delete", "validatingadmissionpolicies.admissionregistration.k8s.io"),
    ("delete", "validatingadmissionpolicybindings.admissionregistration.k8s.io"),
    ("get", "nodes/proxy"),
    ("impersonate", "groups"),
    ("impersonate", "users"),
    ("patch", "nodes"),
]

Access = tuple[str, str, str]  # namespace, verb, resource.group


def allowed(asked: list[Access]) -> list[Access]:
    """Returns what the API server allows the pipeline, of what is asked."""
    reviews = []
    for namespace, verb, name in asked:
        resource, _, group = name.partition(".")
        resource, _, subresource = resource.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        reviews.append(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": "pipeline",
                    "groups": [GROUP, "system:authenticated"],
                    "resourceAttributes": attributes,
                },
            }
        )
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    each = '--output=jsonpath={.status.allowed}{"\\n"}'
    answers = kubectl("create", each, "--filename=-", given=given).split()
    return [a for a, answer in zip(asked, answers, strict=True) if answer == "true"]


def test_the_pipeline_administers_its_own_namespace_and_nothing_else(figures: Figures) -> None:
    own = [(NAMESPACE, *access) for access in OWN]
    other = [
        *((NAMESPACE, *access) for access in LIMITS),
        *((n, *access) for n in (SIBLING, MONITORING, "kube-system") for access in ELSEWHERE),
        *(("", *access) for access in CLUSTER_WIDE),
    ]
    assert allowed(own) == own
    assert allowed(other) == []
    figures.add(
        "What dev's pipeline may do beyond a release in its own namespace",
        f"nothing of {len(other)} requests to other namespaces, the cluster and its own limits",
    )


class Denied(NamedTuple):
    """An object that a policy denies, and words of the message of the one rule that it breaks."""

    what: str
    kind: str
    change: Callable[[Manifest], Any]
    message: str


def annotated(name: str, value: str) -> Callable[[Manifest], Any]:
    """Returns a change that adds an annotation."""
    return lambda manifest: manifest["metadata"]["annotations"].update({name: value})


def endpoint(**fields: Any) -> Callable[[Manifest], Any]:
    """Returns a change that adds fields to a ServiceMonitor's endpoint."""
    return lambda manifest: manifest["spec"]["endpoints"][0].update(fields)


def spec(**fields: Any) -> Callable[[Manifest], Any]:
    """Returns a change that adds fields to the spec."""
    return lambda manifest: manifest["spec"].update(fields)


def rule(host: str | None) -> Callable[[Manifest], Any]:
    """Returns a change that adds a rule like the first one for a host, or for all of them."""

    def change(manifest: Manifest) -> None:
        first = manifest["spec"]["rules"][0]
        named = {} if host is None else {"host": host}
        manifest["spec"]["rules"].append({"http": first["http"], **named})

    return change


BACKEND = {"service": {"name": "payments", "port": {"name": "http"}}}
ALB = "alb.ingress.kubernetes.io"
EXTERNAL_DNS = "external-dns.alpha.kubernetes.io"
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105

OTHER_HOSTS = json.dumps([{"field": "host-header", "hostHeaderConfig": {"values": [OTHER_HOST]}}])

ENDPOINTS = "fields of spec.endpoints"

DENIED = [
    Denied("staging's host", "Ingress", rule(OTHER_HOST), "Every rule must name"),
    Denied("every host", "Ingress", rule(None), "Every rule must name"),
    Denied("a wildcard", "Ingress", rule("*.payments.xpto.example"), "Every rule must name"),
    Denied(
        "a certificate's and so a record's name of staging",
        "Ingress",
        spec(tls=[{"hosts": [OWN_HOST, OTHER_HOST]}]),
        "spec.tls may name",
    ),
    Denied("no name for TLS", "Ingress", spec(tls=[{}]), "spec.tls may name"),
    Denied(
        "what no other rule takes",
        "Ingress",
        spec(defaultBackend=BACKEND),
        "Remove spec.defaultBackend",
    ),
    Denied("another class", "Ingress", spec(ingressClassName="nginx"), "Set spec.ingressClassName"),
    Denied("no class", "Ingress", spec(ingressClassName=None), "Set spec.ingressClassName"),
    *(
        Denied(name, "Ingress", annotated(name, value), "Remove the annotations")
        for name, value in (
            (f"{ALB}/group.order", "-1000"),
            (f"{ALB}/group.name", "nonprod"),
            (f"{ALB}/conditions.payments", OTHER_HOSTS),
            (f"{ALB}/actions.payments", '{"type": "fixed-response"}'),
            (f"{ALB}/auth-type", "oidc"),
            (f"{EXTERNAL_DNS}/hostname", OTHER_HOST),
            (f"{EXTERNAL_DNS}/target", "attacker.example"),
        )
    ),
    *(
        Denied(f"endpoint with {name}", "ServiceMonitor", endpoint(**{name: value}), ENDPOINTS)
        for name, value in (
            ("bearerTokenFile", TOKEN),
            ("tlsConfig", {"caFile": TOKEN}),
            ("proxyUrl", "http://attacker:8080"),
            ("honorLabels", True),
            ("metricRelabelings", [{"targetLabel": "namespace", "replacement": SIBLING}]),
            ("relabelings", [{"targetLabel": "namespace", "replacement": SIBLING}]),
            ("path", "/federate"),
        )
    ),
    Denied(
        "staging's pods",
        "ServiceMonitor",
        spec(namespaceSelector={"any": True}),
        "fields of spec other",
    ),
    Denied("a database's address", "Service", spec(externalIPs=["10.20.208.7"]), "externalIPs"),
    Denied("a load balancer of its own", "Service", spec(type="LoadBalancer"), "spec.type"),
    Denied("another's name", "Service", spec(type="ExternalName", externalName="a.b"), "spec.type"),
    Denied("a job's name", "ServiceMonitor", spec(jobLabel="app"), "fields of spec other"),
]


def of_the_chart(kind: str) -> Manifest:
    """Returns what the service's chart makes for dev, under a name of its own."""
    found = copy.deepcopy(one(payments(environment="dev"), kind, "payments"))
    found["metadata"] |= {"name": "asked", "namespace": NAMESPACE}
    found["metadata"].setdefault("annotations", {})
    return found


def create(manifest: Manifest) -> str:
    """Returns what is said to the pipeline that would create this, or nothing if it may."""
    try:
        given = json.dumps(manifest)
        kubectl("create", "--dry-run=server", "--filename=-", *AS_PIPELINE, given=given)
    except CommandFailed as error:
        return str(error)
    return ""


def answer(case: Denied) -> str:
    """Returns what is said to the pipeline that would create what a case has."""
    manifest = of_the_chart(case.kind)
    case.change(manifest)
    return create(manifest)


def everything_is_denied() -> bool:
    """Whether each policy denies, which it does a moment after it was made."""
    return all(answer(next(c for c in DENIED if c.kind == kind)) for kind in POLICIES)


POLICIES = {
    "Ingress": "payments-ingresses",
    "Service": "payments-services",
    "ServiceMonitor": "payments-servicemonitors",
}


def test_the_pipeline_may_make_all_of_the_release() -> None:
    answers = {}
    for manifest in payments(environment="dev"):
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        manifest["metadata"]["name"] += "-asked"  # the release itself may be there
        # As Helm's own client does.
        annotations = manifest["metadata"].setdefault("annotations", {})
        annotations["meta.helm.sh/release-name"] = "payments"
        answers[name] = create(manifest)
    assert {name: said for name, said in answers.items() if said} == {}


@pytest.mark.parametrize("case", DENIED, ids=lambda case: case.what)
def test_what_reaches_for_another_environment_is_denied(case: Denied) -> None:
    said = answer(case)
    assert f"ValidatingAdmissionPolicy '{POLICIES[case.kind]}'" in said
    assert case.message in said


def test_what_was_admitted_cannot_be_changed_into_what_is_denied() -> None:
    given = json.dumps(of_the_chart("Ingress"))
    kubectl("create", "--filename=-", *AS_PIPELINE, given=given)
    change = [{"op": "replace", "path": "/spec/rules/0/host", "value": OTHER_HOST}]
    try:
        with pytest.raises(CommandFailed, match="Every rule must name the host"):
            kubectl(
                "patch",
                "ingress",
                "asked",
                "--type=json",
                f"--patch={json.dumps(change)}",
                *AS_PIPELINE,
            )
    finally:
        kubectl("delete", "ingress", "asked")


RULES = [
    (kind, place)
    for kind, name in POLICIES.items()
    for place, _ in enumerate(
        one(cluster("nonprod"), "ValidatingAdmissionPolicy", name)["spec"]["validations"]
    )
]


@pytest.mark.parametrize(("kind", "place"), RULES)
def test_without_any_one_rule_something_is_admitted(kind: str, place: int) -> None:
    """Shows that each rule is needed, and that each case breaks one rule alone."""
    name = POLICIES[kind]
    validations = get("validatingadmissionpolicy", name)["spec"]["validations"]
    left_out = validations[place]
    words = left_out.get("message", "") + left_out.get("messageExpression", "")
    cases = [case for case in DENIED if case.kind == kind and case.message in words]
    assert cases

    def put(rules: list[Any]) -> None:
        change = json.dumps({"spec": {"validations": rules}})
        kubectl("patch", "validatingadmissionpolicy", name, "--type=merge", f"--patch={change}")

    def its_cases_are_admitted() -> bool:
        return not any(answer(case) for case in cases)

    def its_cases_are_denied() -> bool:
        return all(answer(case) for case in cases)

    put([v for v in validations if v is not left_out])
    try:
        wait_until(its_cases_are_admitted)
    finally:
        put(validations)
        wait_until(its_cases_are_denied)


def test_no_pod_has_the_priority_to_evict_anothers() -> None:
    def it_is_refused() -> bool:
        said = create({**pod("urgent", *IDLE, priorityClassName="system-node-critical")})
        return "no-system-priority" in said

    wait_until(it_is_refused)  # a moment after the quota was made
    assert create(pod("usual", *IDLE)) == ""


def away_from(**whom: Any) -> dict[str, Any]:
    """Returns what keeps a pod from others in the same zone."""
    term = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {}, **whom}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.parametrize("whom", [{"namespaces": [SIBLING]}, {"namespaceSelector": {}}])
def test_no_pod_keeps_anothers_from_being_scheduled(whom: dict[str, Any]) -> None:
    def it_is_refused() -> bool:
        return "no-affinity-to-others" in create(pod("apart", *IDLE, affinity=away_from(**whom)))

    wait_until(it_is_refused)  # a moment after the quota was made
    assert create(pod("apart", *IDLE, affinity=away_from())) == ""


def test_a_rule_reads_and_writes_the_series_of_its_own_namespace_alone(
    prometheus: Prometheus, figures: Figures
) -> None:
    """Here staging's pipeline is the forger: what is measured runs in dev."""
    rules = [
        {"record": "forged", "expr": "vector(1)", "labels": {"namespace": NAMESPACE}},
        {"record": "read", "expr": f'count(up{{namespace="{NAMESPACE}"}}) or vector(0)'},
    ]
    apply(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "forged"},
            "spec": {"groups": [{"name": "forged", "rules": rules}]},
        },
        namespace=SIBLING,
    )

    def rules_are_evaluated() -> bool:
        prometheus.reload()
        return bool(prometheus.query("forged")) and bool(prometheus.query("read"))

    try:
        wait_until(rules_are_evaluated, RELOAD_SECONDS)
        assert [labels["namespace"] for labels, _ in prometheus.query("forged")] == [SIBLING]
        assert [(labels["namespace"], value) for labels, value in prometheus.query("read")] == [
            (SIBLING, 0)
        ]
    finally:
        kubectl("delete", "prometheusrule", "forged", namespace=SIBLING)
    figures.add(
        "A rule of staging's that writes and reads dev's series", "writes and reads its own"
    )
