"""What the roots tell Helm is what the charts' tests render with: ../../../charts/tests/outputs."""

from typing import Any

import yaml

from testkit.tests.conftest import Life, at
from testkit.workspace import TERRAFORM

EXAMPLES = TERRAFORM.parent / "charts" / "tests" / "outputs"

# Any value will do for these, but not none: whether there is a firewall is a setting.
DECIDED_BY_AWS = {
    "database.host",
    "ingress.wafAclArn",
    "loadBalancer.certificateArns[]",
    "networkPolicy.clients[].ipBlock.cidr",
    "networkPolicy.database[].ipBlock.cidr",
}


def _leaves(value: Any, path: str = "") -> set[tuple[str, Any]]:
    if isinstance(value, dict):
        return {leaf for key, v in value.items() for leaf in _leaves(v, f"{path}.{key}".strip("."))}
    if isinstance(value, list):
        return {leaf for v in value for leaf in _leaves(v, f"{path}[]")}
    return {(path, "decided by AWS" if value and path in DECIDED_BY_AWS else value)}


@at("platform", "environment")
def test_the_charts_are_tested_with_what_helm_is_told(life: Life) -> None:
    told = yaml.safe_load(life.state["values"]["outputs"]["helm_values"]["value"])
    example = yaml.safe_load((EXAMPLES / f"{life.place}.yaml").read_text())
    assert _leaves(told) == _leaves(example)


@at("environment")
def test_the_service_is_told_where_the_load_balancer_and_the_database_are(life: Life) -> None:
    """A network policy with the two exchanged would shut the service off from both."""
    told = yaml.safe_load(life.state["values"]["outputs"]["helm_values"]["value"])["networkPolicy"]
    for name, tier in {"clients": "public", "database": "database"}.items():
        subnets = life.data(f"data.aws_subnets.{tier}")
        assert subnets["tags"] == {"tier": tier}
        networks = [life.data(f'data.aws_subnet.this["{i}"]')["cidr_block"] for i in subnets["ids"]]
        assert [block["ipBlock"]["cidr"] for block in told[name]] == networks
