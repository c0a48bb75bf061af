"""Each place's life in simulation: what is applied, whether it stays so, and how it ends."""

from testkit.tests.conftest import Life, at
from testkit.workspace import ROOTS

everywhere = at(*ROOTS)

# What AWS cannot tag, or what is not a thing of its own, has no `tags_all` in the schema.
OF_EVERY_ROOT = {"project", "root"}
OF_ROOT = {
    "bootstrap": OF_EVERY_ROOT,
    "platform": OF_EVERY_ROOT | {"platform"},
    "environment": OF_EVERY_ROOT | {"platform", "environment"},
}


@everywhere
def test_a_second_plan_finds_nothing_to_do(life: Life) -> None:
    changes = {
        change["address"]: change["change"]["actions"]
        for change in life.second_plan["resource_changes"]
        if change["change"]["actions"] not in (["no-op"], ["read"])
    }
    assert changes == {}


@everywhere
def test_destroy_finishes_but_never_takes_the_state_along(life: Life) -> None:
    if life.root == "bootstrap":
        assert "aws_s3_bucket.state" in life.refusal
        assert "prevent_destroy" in life.refusal
    else:
        assert life.refusal == ""
        assert "values" not in life.left


@everywhere
def test_everything_that_can_be_tagged_is(life: Life) -> None:
    missing = {
        address: OF_ROOT[life.root] - (values["tags_all"] or {}).keys()
        for address, values in life.resources().items()
        if "tags_all" in values
    }
    assert {address: tags for address, tags in missing.items() if tags} == {}


@everywhere
def test_no_secret_is_in_the_state(life: Life) -> None:
    secrets = ("password", "secret_string", "private_key", "token")
    found = {
        f"{address}.{name}"
        for address, values in life.resources().items()
        for name in secrets
        if values.get(name)
    }
    assert found == set()


@everywhere
def test_nothing_but_nat_is_open_to_the_world(life: Life) -> None:
    """The load balancer's group, the one other way in, is made in the cluster."""
    ways_in = [
        address
        for address, rule in life.resources("aws_vpc_security_group_ingress_rule").items()
        if rule["cidr_ipv4"] == "0.0.0.0/0" or rule["cidr_ipv6"] == "::/0"
    ]
    assert ways_in == []
    ways_out = {
        address.split("[")[0]
        for address, rule in life.resources("aws_vpc_security_group_egress_rule").items()
        if rule["cidr_ipv4"] == "0.0.0.0/0"
    }
    assert ways_out <= {"aws_vpc_security_group_egress_rule.nat"}


@everywhere
def test_every_key_rotates_and_every_log_ends(life: Life) -> None:
    assert all(key["enable_key_rotation"] for key in life.resources("aws_kms_key").values())
    assert all(
        log["retention_in_days"] and log["kms_key_id"]
        for log in life.resources("aws_cloudwatch_log_group").values()
    )


@at("environment")
def test_the_database_is_in_the_subnets_that_nothing_outside_reaches(life: Life) -> None:
    """With mocks all subnets are the same; here a group of public ones would show."""
    (group,) = life.resources("aws_db_subnet_group").values()
    assert set(group["subnet_ids"]) == set(life.data("data.aws_subnets.database")["ids"])
    assert not set(group["subnet_ids"]) & set(life.data("data.aws_subnets.public")["ids"])


@at("platform")
def test_nodes_are_in_the_private_subnets(life: Life) -> None:
    (cluster,) = life.resources("aws_eks_cluster").values()
    private = {
        s["id"] for s in life.resources("aws_subnet").values() if s["tags"]["tier"] == "private"
    }
    assert set(cluster["vpc_config"][0]["subnet_ids"]) == private
