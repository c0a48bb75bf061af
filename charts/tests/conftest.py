"""What the charts' tests share: charts rendered by Helm, with what AWS would have told them."""

import copy
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest_plugins = ["leaks"]

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
CLIENTS = ROOT / ".cache" / "clients"  # helm, helm3 and kubectl
TOOLS = ROOT / ".venv-tools" / "bin"

# Go modules are kept where the rest of what was downloaded is, and can be removed with it.
GO = {
    **os.environ,
    "GOPATH": str(Path(os.environ.get("XDG_CACHE_HOME", ROOT / ".cache")).absolute() / "go"),
    "GOFLAGS": "-modcacherw",
}

# Module, version and hash of the operator whose kinds the chart makes; the cluster's tests run it.
PROMETHEUS_OPERATOR = (
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
)

ENVIRONMENTS = ("dev", "staging", "production")
CLUSTERS = ("nonprod", "production")

Manifest = dict[str, Any]

# What Terraform does not tell the chart: the image that was built, and the certificates of RDS.
RELEASE: Manifest = {
    "image": {"repository": "registry/payments", "digest": f"sha256:{'0' * 64}"},
    "database": {
        "certificateAuthority": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    },
}


def outputs(place: str) -> Manifest:
    """Returns what Terraform tells Helm of a place, its output `helm_values`.

    The files are examples: terraform/testkit holds their names and shapes to what the roots put
    out, and their values where AWS does not decide them.
    """
    found: Manifest = yaml.safe_load((CHARTS / "tests" / "outputs" / f"{place}.yaml").read_text())
    return found


def go_module(module: str, version: str, digest: str) -> Path:
    """Returns the folder of a Go module, which is downloaded if it is not there."""
    answer = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        cwd="/",
        env=GO,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(answer.stdout)
    assert found["Sum"] == digest, f"{module} is not what it was"
    return Path(found["Dir"])


class Refused(Exception):
    """Helm rendered nothing; the message is what it said."""


def helm(
    chart: str,
    values: Manifest,
    file: str | None = None,
    namespace: str = "",
    program: str = "helm",
    *,
    release: str = "",
) -> list[Manifest]:
    """Renders a chart as `helm install` would send it, in the order of its sending.

    Raises:
        Refused: the values are.
    """
    arguments = (
        release or chart,
        str(CHARTS / chart),
        f"--namespace={namespace}",
        "--kube-version=1.36.0",
        *([f"--values={CHARTS / chart / file}"] if file else []),
    )
    manifests = copy.deepcopy(_rendered(program, arguments, json.dumps(values)))
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"].setdefault("namespace", namespace)
    return manifests


@cache
def _rendered(program: str, arguments: tuple[str, ...], values: str) -> list[Manifest]:
    """Renders once what most tests ask for: Helm takes 0.1 s for each."""
    result = subprocess.run(
        [CLIENTS / program, "template", *arguments, "--values=-"],
        input=values,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Refused(result.stderr)
    # libyaml takes a tenth of the time of yaml.safe_load_all.
    return [found for found in yaml.load_all(result.stdout, yaml.CSafeLoader) if found]


CLUSTER_WIDE = {
    "ClusterRole",
    "IngressClass",
    "IngressClassParams",
    "Namespace",
    "NodeClass",
    "NodePool",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def merge(below: Manifest, above: Manifest) -> Manifest:
    """Lays values over others, as Helm does."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge(below[key], value) if both else value
    return merged


def told(environment: str) -> Manifest:
    """Returns what the service's chart is told beside the environment's own values."""
    return merge(outputs(f"environment-{environment}"), RELEASE)


def payments(values: Manifest | None = None, environment: str = "production") -> list[Manifest]:
    """Renders the service's chart for an environment."""
    return helm(
        "payments",
        merge(told(environment), values or {}),
        f"environments/{environment}.yaml",
        f"payments-{environment}",
    )


@cache
def cluster(name: str) -> list[Manifest]:
    """Renders the cluster's chart for one of the two."""
    return helm("cluster", outputs(f"platform-{name}"), f"clusters/{name}.yaml", "kube-system")


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
