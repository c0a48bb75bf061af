"""The simulation of IAM decides as AWS documents it; what it reads is AWS's own reference."""

from collections.abc import Iterator
from typing import Any

import pytest

from testkit.provider import ACCOUNT, RESOURCES, arn
from testkit.simulation import (
    ANYTHING,
    Call,
    Context,
    Document,
    Identity,
    Simulator,
    Write,
    simulating,
)
from testkit.tests.conftest import Life, at
from testkit.workspace import ROOTS

pytestmark = pytest.mark.slow

ROLE = f"arn:aws:iam::{ACCOUNT}:role/x"
DATABASE = f"arn:aws:rds:us-east-1:{ACCOUNT}:db:payments"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulating() as running:
        yield running


def policy(effect: str, **more: Any) -> Document:
    """A policy of one statement, about everything where it names no resource."""
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": effect, "Resource": "*"} | more],
    }


TAGGED = {"StringEquals": {"aws:ResourceTag/platform": "dev"}}
DEV: Context = {"aws:ResourceTag/platform": "dev"}

# policies, boundary, context, whether it may delete the database
DECISIONS: dict[str, tuple[list[Document], Document | None, Context, bool]] = {
    "allowed": ([policy("Allow", Action="rds:Delete*")], None, {}, True),
    "in other letters": ([policy("Allow", Action="RDS:deletedbinstance")], None, {}, True),
    "no policy": ([], None, {}, False),
    "of another service": ([policy("Allow", Action="ec2:*")], None, {}, False),
    "of another resource": ([policy("Allow", Action="rds:*", Resource=ROLE)], None, {}, False),
    "denied": ([ANYTHING, policy("Deny", Action="rds:*")], None, {}, False),
    "denied all others": ([ANYTHING, policy("Deny", NotAction="ec2:*")], None, {}, False),
    "a boundary alone": ([], ANYTHING, {}, False),
    "within a boundary": ([ANYTHING], policy("Allow", Action="rds:*"), {}, True),
    "outside a boundary": ([ANYTHING], policy("Allow", Action="ec2:*"), {}, False),
    "with its tag": ([policy("Allow", Action="rds:*", Condition=TAGGED)], None, DEV, True),
    "without its tag": ([policy("Allow", Action="rds:*", Condition=TAGGED)], None, {}, False),
}


@pytest.mark.parametrize("situation", DECISIONS)
def test_a_decision(simulator: Simulator, situation: str) -> None:
    policies, boundary, context, expected = DECISIONS[situation]
    call = Call("rds:DeleteDBInstance", DATABASE, context)
    assert simulator.allowed(Identity(ROLE, tuple(policies), boundary), [call]) == [expected]


def test_aws_compares_no_tags_of_zones(simulator: Simulator) -> None:
    [zone, role] = simulator.writes(["arn:aws:route53:::hostedzone/Z1", ROLE])
    assert Write("route53:DeleteHostedZone", compares_tags=False, takes_tags=False) in zone
    assert Write("iam:TagRole", compares_tags=True, takes_tags=True) in role
    assert "iam:GetRole" not in {write.action for write in role}


def test_a_call_that_aws_does_not_know_is_an_error() -> None:
    with simulating() as simulator, pytest.raises(RuntimeError, match="stderr"):
        simulator.allowed(Identity(ROLE, (ANYTHING,), None), [Call("rds:Destroy", DATABASE, {})])


@at(*ROOTS)
def test_every_type_that_has_tags_has_its_arn(life: Life) -> None:
    types = {address.split(".")[0]: values for address, values in life.resources().items()}
    assert {type_ for type_, values in types.items() if "tags_all" in values} <= RESOURCES.keys()


@at(*ROOTS)
def test_aws_knows_each_arn_and_each_call(life: Life, simulator: Simulator) -> None:
    types = {address.split(".")[0]: values for address, values in life.resources().items()}
    known = {type_: arn(type_, values) for type_, values in types.items() if type_ in RESOURCES}
    anywhere = {write.action for write in simulator.writes(["*"])[0]}
    for type_, found in zip(known, simulator.writes([*known.values()]), strict=True):
        assert found, type_
        row = RESOURCES[type_]
        calls = {*row.get("create", "").split(), *row.get("change", "").split()}
        assert calls <= {write.action for write in found} | anywhere, type_
