"""Least privilege, read from the policy documents as IAM gets them."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
from policy_sentry.querying.actions import get_action_data, get_actions_for_service

from testkit.provider import ACCOUNT
from testkit.tests.conftest import Life, at
from testkit.workspace import ROOTS, places

everywhere = at(*ROOTS)

Statement = dict[str, Any]

# A boundary grants nothing, and a key's policy speaks of that key: `*` is how AWS has both written.
DOCUMENTS = "data.aws_iam_policy_document."
BOUNDARIES = tuple(DOCUMENTS + name for name in ("boundary[", "workload[", "readers_boundary"))
KEYS = tuple(DOCUMENTS + name for name in ("key", "own_key", "platform_key"))

INLINE_LIMIT = 10240  # characters of all inline policies of a role
MANAGED_LIMIT = 6144  # characters of one managed policy


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def statements(life: Life) -> Iterator[tuple[str, Statement]]:
    for address, document in life.documents().items():
        for statement in json.loads(document["json"])["Statement"]:
            yield address, statement


def policy(life: Life, address: str) -> list[Statement]:
    found: list[Statement] = json.loads(life.resources()[address]["policy"])["Statement"]
    return found


@everywhere
def test_nobody_may_do_everything_with_everything(life: Life) -> None:
    too_wide = [
        (address, action)
        for address, statement in statements(life)
        if statement["Effect"] == "Allow" and not address.startswith((*BOUNDARIES, *KEYS))
        for action in _many(statement["Action"])
        if action.endswith("*")
        and "*" in _many(statement.get("Resource", []))
        and not _reads(action)
    ]
    assert too_wide == []


def _reads(action: str) -> bool:
    return action.split(":")[1].startswith(("Describe", "Get", "List", "View"))


@everywhere
def test_only_a_denial_speaks_to_everyone(life: Life) -> None:
    for address, statement in statements(life):
        if "*" in json.dumps(statement.get("Principal", "")):
            assert statement["Effect"] == "Deny", address


@everywhere
def test_a_policy_fits_into_iam(life: Life) -> None:
    inline: dict[str, int] = {}
    for values in life.resources("aws_iam_role_policy").values():
        size = len(json.dumps(json.loads(values["policy"]), separators=(",", ":")))
        inline[values["role"]] = inline.get(values["role"], 0) + size
    assert {role: size for role, size in inline.items() if size > INLINE_LIMIT} == {}
    for address, values in life.resources("aws_iam_policy").items():
        size = len(json.dumps(json.loads(values["policy"]), separators=(",", ":")))
        assert size <= MANAGED_LIMIT, address


@everywhere
def test_every_role_carries_the_boundary(life: Life) -> None:
    for address, role in life.resources("aws_iam_role").items():
        if life.root == "bootstrap":
            place = role["name"].removeprefix("payments-ci-").removeprefix("apply-")
            expected = f"boundary-{place if place in places() else 'readers'}"
        else:
            expected = f"workload-{life.place}"
            assert role["name"].startswith(f"payments-{life.place}-"), address
        assert role["permissions_boundary"] == f"arn:aws:iam::{ACCOUNT}:policy/payments-{expected}"


# AWS binds these to a resource since the reference that is read here was taken.
NARROWED = {"sns:Unsubscribe"}


@at("bootstrap", "environment")  # what ../../platform grants is on ARNs that the stand-in made up
def test_every_action_exists_and_takes_the_resources_that_are_named(life: Life) -> None:
    """What is granted on a resource that the action does not know is granted in vain."""
    for address, statement in statements(life):
        for wanted in set(_many(statement.get("Action", []))) - {"*"}:
            actions = _actions(wanted.lower())
            assert actions, f"{address}: {wanted}"
            named = _many(statement.get("Resource", "*"))
            if statement["Effect"] == "Allow" and "*" not in named and wanted not in NARROWED:
                known = {arn for action in actions for arn in _resources(action)}
                assert any(_overlap(a, b) for a in named for b in known), f"{address}: {wanted}"


@cache
def _actions(wanted: str) -> list[str]:
    service = wanted.split(":", maxsplit=1)[0]
    return [action for action in _actions_of(service) if fnmatchcase(action, wanted)]


@cache
def _actions_of(service: str) -> list[str]:
    known = get_actions_for_service(service)
    return sorted(action.lower() for action in known)


@cache
def _resources(action: str) -> list[str]:
    """The ARNs that an action can be bound to, `*` in place of every name."""
    service, name = action.split(":")
    formats = (row["resource_arn_format"] for row in get_action_data(service, name)[service])
    return [re.sub(r"\$\{\w+\}", "*", arn) for arn in formats if arn != "*"]


@cache
def _overlap(one: str, other: str) -> bool:
    """Whether some text matches both patterns, in which `*` is the only wildcard."""
    if not one or not other:
        return set(one + other) <= {"*"}
    if one[0] == "*":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "*":
        return _overlap(other, one)
    return one[0] == other[0] and _overlap(one[1:], other[1:])


@at("environment")
def test_a_pod_may_log_in_as_one_database_role_and_nothing_else(life: Life) -> None:
    (database,) = life.resources("aws_db_instance").values()
    prefix = f"arn:aws:rds-db:us-east-1:{ACCOUNT}:dbuser:{database['resource_id']}"
    for identity in ("app", "migrator"):
        role = f"payments_{identity}_{life.place.removeprefix('environment-')}"
        assert policy(life, f'aws_iam_role_policy.this["{identity}"]') == [
            {"Effect": "Allow", "Action": "rds-db:connect", "Resource": f"{prefix}/{role}"}
        ]


@everywhere
def test_only_its_own_service_account_takes_a_pods_role(life: Life) -> None:
    roles = {
        address: json.loads(role["assume_role_policy"])["Statement"]
        for address, role in life.resources("aws_iam_role").items()
        if "pods.eks.amazonaws.com" in role["assume_role_policy"]
    }
    for address, (statement,) in roles.items():
        condition = statement["Condition"]
        pod = tuple(
            condition["StringEquals"][f"aws:RequestTag/kubernetes-{what}"]
            for what in ("namespace", "service-account")
        )
        namespace = f"payments-{life.place.removeprefix('environment-')}"
        assert pod in {
            (namespace, "payments"),
            (namespace, "payments-migrator"),
            ("external-dns", "external-dns"),
        }, address
        assert ":cluster/payments-" in condition["ArnEquals"]["aws:SourceArn"], address


@at("platform")
def test_external_dns_changes_its_own_zones_only(life: Life) -> None:
    zones = {zone["arn"] for zone in life.read("aws_route53_zone").values()}
    for statement in policy(life, "aws_iam_role_policy.external_dns"):
        if "route53:ChangeResourceRecordSets" in _many(statement["Action"]):
            assert set(_many(statement["Resource"])) == zones


@at("platform")
def test_the_cluster_buys_with_its_own_platforms_tag(life: Life) -> None:
    """Its budget counts by the tag, which EKS's own policies would refuse."""
    (statement,) = policy(life, "aws_iam_role_policy.tags")
    bought = {"ec2:CreateFleet", "ec2:CreateVolume", "ec2:RunInstances"}
    bought |= {"elasticloadbalancing:CreateLoadBalancer"}
    assert bought <= set(_many(statement["Action"]))
    assert statement["Condition"] == {
        "StringEquals": {
            "aws:RequestTag/eks:eks-cluster-name": "${aws:PrincipalTag/eks:eks-cluster-name}",
            "aws:RequestTag/platform": life.place.removeprefix("platform-"),
        }
    }


@at("bootstrap")
@pytest.mark.parametrize("platform", ["nonprod", "production"])
def test_who_rings_an_alarm_may_encrypt_it(life: Life, platform: str) -> None:
    """Their topic is encrypted: without this, what they say is lost in silence."""
    (ringing,) = (
        statement
        for statement in policy(life, f'aws_kms_key.platform["{platform}"]')
        if statement.get("Sid") == "AlarmsToEncryptedTopics"
    )
    services = {"cloudwatch.amazonaws.com", "events.rds.amazonaws.com"}
    assert set(ringing["Principal"]["Service"]) == services
    assert set(ringing["Action"]) == {"kms:Decrypt", "kms:GenerateDataKey*"}


@at("bootstrap")
def test_the_plans_role_reads_no_secret_and_writes_nothing(life: Life) -> None:
    actions = {
        action
        for statement in policy(life, 'aws_iam_role_policy.ci["plan/read"]')
        for action in _many(statement["Action"])
    }
    assert {a for a in actions if not _reads(a)} == set()
    for secret in ("secretsmanager:GetSecretValue", "ssm:GetParameters", "ec2:GetPasswordData"):
        assert not any(fnmatchcase(secret, action) for action in actions), secret


@at("bootstrap")
def test_the_pipeline_writes_no_hosts_address(life: Life) -> None:
    """A certificate is validated by a CNAME; where a host leads, external-dns says."""
    for platform in ("nonprod", "production"):
        (writing,) = (
            statement
            for statement in policy(
                life, f'aws_iam_role_policy.ci["apply-platform-{platform}/write"]'
            )
            if statement["Action"] == "route53:ChangeResourceRecordSets"
        )
        assert writing["Condition"] == {
            "ForAllValues:StringEquals": {
                "route53:ChangeResourceRecordSetsRecordTypes": "CNAME",
            }
        }


@at("bootstrap")
@pytest.mark.parametrize(
    ("root", "services"),
    [
        ("platform", {"ec2", "eks", "pods.eks", "vpc-flow-logs"}),
        ("environment", {"backup", "pods.eks"}),
    ],
)
def test_a_role_is_handed_to_the_services_that_take_it(
    life: Life, root: str, services: set[str]
) -> None:
    (passing,) = (
        statement
        for statement in policy(life, f'aws_iam_role_policy.ci["apply-{root}-production/write"]')
        if statement["Action"] == "iam:PassRole"
    )
    handed_to = passing["Condition"]["StringEquals"]["iam:PassedToService"]
    assert {service.removesuffix(".amazonaws.com") for service in handed_to} == services


# What a root asks of AWS beside what its resources are named after.
NEEDED = {
    "platform-production": {"logs:CreateLogDelivery", "logs:PutResourcePolicy"},
    "environment-production": {"rds:CreateEventSubscription", "sns:Unsubscribe"},
}


@at("bootstrap")
def test_a_places_role_may_do_what_its_resources_need_beside(life: Life) -> None:
    for place, needed in NEEDED.items():
        granted = {
            action
            for statement in policy(life, f'aws_iam_role_policy.ci["apply-{place}/write"]')
            for action in _many(statement["Action"])
        }
        missing = {n for n in needed if not any(fnmatchcase(n, g) for g in granted)}
        assert missing == set(), place
