"""Every manifest is one that Kubernetes 1.36 and the operators accept, field by field."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.conftest import (
    CLUSTERS,
    ENVIRONMENTS,
    PROMETHEUS_OPERATOR,
    ROOT,
    TOOLS,
    cluster,
    go_module,
    payments,
)
from tests.test_ingress import GATEWAY

KUBERNETES = "1.36"

# Kinds that are not Kubernetes' own, and where their definitions are: Go module, its version and
# its hash, and the file. Karpenter's and Gateway API's are the newest that build with Go 1.26.
DEFINITIONS = {
    "HTTPRoute": (
        "sigs.k8s.io/gateway-api",
        "v1.5.0",
        "h1:duoo14Ky/fJXpjpmyMISE2RTBGnfCg8zICfTYLTnBJA=",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "NodePool": (
        "sigs.k8s.io/karpenter",
        "v1.13.0",
        "h1:7/ZergHciATEZ/hubSe9S2fB4iYWcRZqrWIItupUjVM=",
        "pkg/apis/crds/karpenter.sh_nodepools.yaml",
    ),
    "PrometheusRule": (
        *PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "ServiceMonitor": (
        *PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}

# EKS publishes no definition of its kinds; test_cluster.py holds their fields.
OF_EKS = {"NodeClass", "IngressClassParams"}

RENDERED = {
    **{f"payments in {name}": payments(environment=name) for name in ENVIRONMENTS},
    "payments behind a gateway": payments(GATEWAY),
    **{f"cluster {name}": cluster(name) for name in CLUSTERS},
}
ALL = [manifest for manifests in RENDERED.values() for manifest in manifests]


def test_kubernetes_accepts_them(tmp_path: Path) -> None:
    own = [m for m in ALL if m["kind"] not in DEFINITIONS.keys() | OF_EKS]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(own))
    result = subprocess.run(
        [TOOLS / "kubernetes-validate", "--strict", "-k", KUBERNETES, file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("passed") == len(own), result.stdout


@pytest.mark.slow  # Go downloads the definitions
@pytest.mark.parametrize("name", RENDERED)
def test_the_operators_accept_it(name: str) -> None:
    for manifest in RENDERED[name]:
        if manifest["kind"] in DEFINITIONS:
            jsonschema.validate(
                manifest, strict(definition(manifest["kind"], manifest["apiVersion"]))
            )


@pytest.mark.slow
def test_a_wrong_field_is_found() -> None:
    monitor, _ = [m for m in RENDERED["payments in dev"] if m["kind"] == "ServiceMonitor"]
    wrong = {**monitor, "spec": {**monitor["spec"], "endpoint": []}}
    with pytest.raises(jsonschema.ValidationError, match="'endpoint' was unexpected"):
        jsonschema.validate(wrong, strict(definition("ServiceMonitor", monitor["apiVersion"])))


def test_the_operator_that_the_clusters_tests_run_is_that_of_the_definitions() -> None:
    _, version, _ = PROMETHEUS_OPERATOR
    assert f"\nOPERATOR_VERSION := {version}\n" in (ROOT / "Makefile").read_text()


@cache
def definition(kind: str, api_version: str) -> Any:
    """Returns the schema of a kind from its operator's own definition of it."""
    module, version, digest, path = DEFINITIONS[kind]
    crd = yaml.safe_load((go_module(module, version, digest) / path).read_text())
    (served,) = [v for v in crd["spec"]["versions"] if v["name"] == api_version.split("/")[1]]
    return served["schema"]["openAPIV3Schema"]


def strict(schema: Any) -> Any:
    """Returns a schema that forbids unknown members, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str):
        closed["pattern"] = pattern.replace(
            "^(?i)", "(?i)^"
        )  # Go's place for a flag is not Python's
    open_ = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_:
        closed["additionalProperties"] = False
    return closed
