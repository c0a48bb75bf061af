"""What the charts' tests share: charts rendered by Helm, with what AWS would have told them."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
TOOLS = ROOT / ".venv-charts" / "bin"

ENVIRONMENTS = ("dev", "staging", "production")
CLUSTERS = ("nonprod", "production")

Manifest = dict[str, Any]

# What Terraform tells the charts; the tests' network is the one that these addresses describe.
LOAD_BALANCER, DATABASE, DNS = "10.0.0.0/22", "10.0.16.0/22", "172.20.0.10/32"
PAYMENTS_OUTPUTS: Manifest = {
    "image": {"repository": "registry/payments", "digest": f"sha256:{'0' * 64}"},
    "database": {
        "host": "payments.example.internal",
        "region": "us-east-1",
        "certificateAuthority": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    },
    "ingress": {
        "host": "payments.example.com",
        "wafAclArn": "arn:aws:wafv2:us-east-1:000000000000:regional/webacl/payments/1",
    },
    "networkPolicy": {
        "clients": [{"ipBlock": {"cidr": LOAD_BALANCER}}],
        "database": [{"ipBlock": {"cidr": DATABASE}}],
    },
}
CLUSTER_OUTPUTS: Manifest = {
    "eks": {
        "nodeRole": "payments-nodes",
        "subnetTags": {"kubernetes.io/role/internal-elb": "1"},
        "securityGroupTags": {"aws:eks:cluster-name": "payments"},
    },
    "loadBalancer": {
        "certificateArns": ["arn:aws:acm:us-east-1:000000000000:certificate/1"],
    },
}


class Refused(Exception):
    """Helm rendered nothing; the message is what it said."""


def helm(
    chart: str,
    values: Manifest,
    file: str | None = None,
    namespace: str = "",
    program: str = "helm",
) -> list[Manifest]:
    """Renders a chart as `helm install` would send it, in the order of its sending.

    Raises:
        Refused: the values are.
    """
    files = [f"--values={CHARTS / chart / file}"] if file else []
    result = subprocess.run(
        [
            TOOLS / program,
            "template",
            chart,
            CHARTS / chart,
            f"--namespace={namespace}",
            "--kube-version=1.36.0",
            *files,
            "--values=-",
        ],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Refused(result.stderr)
    manifests = [manifest for manifest in yaml.safe_load_all(result.stdout) if manifest]
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"].setdefault("namespace", namespace)
    return manifests


CLUSTER_WIDE = {
    "IngressClass",
    "IngressClassParams",
    "Namespace",
    "NodeClass",
    "NodePool",
    "StorageClass",
}


def merge(below: Manifest, above: Manifest) -> Manifest:
    """Lays values over others, as Helm does."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge(below[key], value) if both else value
    return merged


def payments(values: Manifest | None = None, environment: str = "production") -> list[Manifest]:
    """Renders the service's chart for an environment."""
    return helm(
        "payments",
        merge(PAYMENTS_OUTPUTS, values or {}),
        f"environments/{environment}.yaml",
        f"payments-{environment}",
    )


@cache
def cluster(name: str) -> list[Manifest]:
    """Renders the cluster's chart for one of the two."""
    return helm("cluster", CLUSTER_OUTPUTS, f"clusters/{name}.yaml", "kube-system")


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Returns the only manifest of a kind, or the one of a name."""
    found = [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    assert len(found) == 1, [m["metadata"]["name"] for m in found]
    return found[0]


def environment_of(container: Manifest) -> dict[str, str]:
    """Returns the variables of a container that have a value in the manifest."""
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def values_of(environment: str) -> Manifest:
    """Returns the values of an environment: the chart's own under the environment's."""
    own = yaml.safe_load((CHARTS / "payments" / "values.yaml").read_text())
    file = CHARTS / "payments" / "environments" / f"{environment}.yaml"
    return merge(own, yaml.safe_load(file.read_text()))


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> str:
    """Each environment's name."""
    name: str = request.param
    return name


@pytest.fixture
def manifests(environment: str) -> list[Manifest]:
    """The service's chart, rendered for each environment."""
    return payments(environment=environment)
