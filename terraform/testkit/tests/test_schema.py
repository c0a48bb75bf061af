"""The schema that is read from the bindings is the provider's."""

import pytest

from testkit import schema


@pytest.fixture(scope="module")
def resources() -> dict[str, schema.Schema]:
    named = {
        ("resource", name)
        for name in ("aws_db_instance", "aws_eks_cluster", "aws_wafv2_web_acl", "aws_subnet")
    }
    needed = {("resource", "aws_provider"), ("resource", schema.FIREWALL_RULE)}
    read = schema.read(named | needed)
    return {name: s["block"] for name, s in read["resource_schemas"].items()}


@pytest.mark.parametrize(
    ("resource", "attribute", "expected"),
    [
        ("aws_db_instance", "instance_class", {"type": "string", "required": True}),
        ("aws_db_instance", "address", {"type": "string", "computed": True}),
        ("aws_db_instance", "multi_az", {"type": "bool", "optional": True, "computed": True}),
        (
            "aws_db_instance",
            "allocated_storage",
            {"type": "number", "optional": True, "computed": True},
        ),
        (
            "aws_db_instance",
            "password_wo",
            {"type": "string", "optional": True, "write_only": True},
        ),
        ("aws_subnet", "tags", {"type": ["map", "string"], "optional": True}),
        (
            "aws_eks_cluster",
            "certificate_authority",
            {"type": ["list", ["object", {"data": "string"}]], "computed": True},
        ),
    ],
)
def test_an_attribute_has_its_type_and_flags(
    resources: dict[str, schema.Block],
    resource: str,
    attribute: str,
    expected: dict[str, object],
) -> None:
    found = resources[resource]["attributes"][attribute]
    assert {name: found.get(name) for name in expected} == expected


def test_a_block_knows_how_often_it_may_stand(resources: dict[str, schema.Block]) -> None:
    blocks = resources["aws_eks_cluster"]["block_types"]
    bounds = {
        name: (blocks[name]["min_items"], blocks[name]["max_items"])
        for name in ("vpc_config", "compute_config")
    }
    assert bounds == {"vpc_config": (1, 1), "compute_config": (0, 1)}


def test_a_firewalls_statement_is_typed(resources: dict[str, schema.Block]) -> None:
    rule = resources["aws_wafv2_web_acl"]["block_types"]["rule"]["block"]
    statement = rule["block_types"]["statement"]["block"]["block_types"]
    assert {"rate_based_statement", "managed_rule_group_statement"} <= statement.keys()


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(LookupError, match="resource aws_no_such_thing"):
        schema.read({("resource", "aws_no_such_thing")})
