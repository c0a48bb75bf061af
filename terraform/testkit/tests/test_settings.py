"""The settings fit each other, AWS's limits and the calendar; the code names no environment."""

import datetime
import ipaddress
import itertools
import json
import re
from typing import Any

import pytest
from awscli.botocore.session import Session

from testkit.tests.conftest import Life, at
from testkit.workspace import ROOTS, TERRAFORM

everywhere = at(*ROOTS)

# The longest name that each service takes.
NAME_LIMITS = {
    "aws_iam_role": ("name", 64),
    "aws_eks_cluster": ("name", 100),
    "aws_db_instance": ("identifier", 63),
    "aws_db_subnet_group": ("name", 255),
    "aws_security_group": ("name", 255),
    "aws_s3_bucket": ("bucket", 63),
    "aws_backup_vault": ("name", 50),
    "aws_wafv2_web_acl": ("name", 128),
    "aws_sns_topic": ("name", 256),
    "aws_cloudwatch_metric_alarm": ("alarm_name", 255),
    "aws_ecr_repository": ("name", 256),
}

# Where a value must be one that the service's API names: resource, path to it, service, shape.
# RDS's classes, engines and versions are plain text to its API; prices/ has the ones in use.
NAMED_VALUES = [
    ("aws_eks_cluster", "access_config.authentication_mode", "eks", "AuthenticationMode"),
    ("aws_eks_cluster", "upgrade_policy.support_type", "eks", "SupportType"),
    ("aws_eks_cluster", "enabled_cluster_log_types", "eks", "LogType"),
    ("aws_eks_addon", "resolve_conflicts_on_update", "eks", "ResolveConflicts"),
    ("aws_instance", "instance_type", "ec2", "InstanceType"),
    ("aws_instance", "root_block_device.volume_type", "ec2", "VolumeType"),
    ("aws_flow_log", "traffic_type", "ec2", "TrafficType"),
    ("aws_acm_certificate", "key_algorithm", "acm", "KeyAlgorithm"),
    ("aws_acm_certificate", "validation_method", "acm", "ValidationMethod"),
    ("aws_wafv2_web_acl", "scope", "wafv2", "Scope"),
    ("aws_ecr_repository", "image_tag_mutability", "ecr", "ImageTagMutability"),
    ("aws_ecr_repository", "encryption_configuration.encryption_type", "ecr", "EncryptionType"),
    ("aws_budgets_budget", "budget_type", "budgets", "BudgetType"),
    ("aws_budgets_budget", "time_unit", "budgets", "TimeUnit"),
    ("aws_budgets_budget", "notification.notification_type", "budgets", "NotificationType"),
    ("aws_cloudwatch_metric_alarm", "comparison_operator", "cloudwatch", "ComparisonOperator"),
    ("aws_cloudwatch_metric_alarm", "statistic", "cloudwatch", "Statistic"),
    ("aws_ecr_repository_creation_template", "image_tag_mutability", "ecr", "ImageTagMutability"),
    ("aws_ecr_repository_creation_template", "applied_for", "ecr", "RCTAppliedFor"),
    ("aws_route53_health_check", "type", "route53", "HealthCheckType"),
    ("aws_s3_bucket_ownership_controls", "rule.object_ownership", "s3", "ObjectOwnership"),
]


def _values(resource: Any, path: str) -> list[Any]:
    found = [resource]
    for name in path.split("."):
        found = [inner for outer in found for inner in _many(outer[name])]
    return found


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


@everywhere
def test_names_are_within_what_aws_takes(life: Life) -> None:
    for type_, (attribute, limit) in NAME_LIMITS.items():
        for address, values in life.resources(type_).items():
            assert 1 <= len(values[attribute]) <= limit, address


@everywhere
def test_values_are_ones_that_the_service_knows(life: Life) -> None:
    session = Session()
    for type_, path, service, shape in NAMED_VALUES:
        known = set(session.get_service_model(service).shape_for(shape).enum)
        for address, values in life.resources(type_).items():
            assert set(_values(values, path)) <= known, f"{address}.{path}"


@at("platform")
def test_the_cluster_is_in_standard_support(life: Life) -> None:
    calendar = json.loads((TERRAFORM / "prices" / "eks-calendar.json").read_text())
    (cluster,) = life.resources("aws_eks_cluster").values()
    end = datetime.date.fromisoformat(calendar["end_of_standard_support"][cluster["version"]])
    days_left = (end - datetime.datetime.now(datetime.UTC).date()).days
    assert days_left > calendar["warn_days"], (
        f"standard support of EKS {cluster['version']} ends on {end}, then the hour costs six times"
        " as much: docs/infrastructure.md#upgrade-the-cluster"
    )


@at("platform")
def test_subnets_lie_in_the_network_and_do_not_overlap(life: Life) -> None:
    (vpc,) = life.resources("aws_vpc").values()
    network = ipaddress.ip_network(vpc["cidr_block"])
    subnets = [ipaddress.ip_network(s["cidr_block"]) for s in life.resources("aws_subnet").values()]
    assert all(subnet.subnet_of(network) for subnet in subnets)  # type: ignore[arg-type]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(subnets, 2))


def _settings() -> dict[str, str]:
    return {p.stem: p.read_text() for p in sorted((TERRAFORM / "settings").glob("*.tfvars"))}


def test_networks_of_platforms_do_not_overlap() -> None:
    """They may be peered one day, and a runner may have a way into both."""
    found = [re.findall(r'cidr\s+= "(.+)"', text) for text in _settings().values()]
    networks = [ipaddress.ip_network(cidr) for cidrs in found for cidr in cidrs]
    assert len(networks) == 2
    assert not networks[0].overlaps(networks[1])


def test_hosts_and_regions_are_the_same_everywhere() -> None:
    """Bootstrap makes the zones that platforms look up, and the key that environments copy with."""
    settings = _settings()
    pairs = {
        place: dict(re.findall(r'(\w+)\s*= "((?:[\w-]+\.)+example)"', text))
        for place, text in settings.items()
    }
    of_platforms = pairs["platform-nonprod"] | pairs["platform-production"]
    assert pairs["bootstrap"] == of_platforms
    for environment, host in of_platforms.items():
        assert pairs[f"environment-{environment}"] == {"host": host}
    (copies,) = re.findall(r'copy_region\s*= "(.+)"', settings["bootstrap"])
    assert f'region = "{copies}"' in settings["environment-production"].split("backup_copy")[1]
    assert re.findall(r"(\w+) = \{\n[^}]*\}[^}]*backup_copies\s*= true", settings["bootstrap"]) == [
        "production"
    ]


@pytest.mark.parametrize("root", ["platform", "environment"])
def test_settings_read_side_by_side(root: str) -> None:
    """The same settings in the same order; what is left out is that variable's default."""
    orders = [
        re.findall(r"^(\w+)\s+=", text, re.MULTILINE)
        for place, text in _settings().items()
        if place.startswith(root)
    ]
    variables = re.findall(
        r'^variable "(\w+)"', (TERRAFORM / root / "variables.tf").read_text(), re.MULTILINE
    )
    for order in orders:
        assert set(order) <= set(variables)
    whole = max(orders, key=len)
    for order in orders:
        assert [name for name in whole if name in order] == [n for n in order if n in whole]


@pytest.mark.parametrize("root", ROOTS)
def test_the_code_names_no_environment(root: str) -> None:
    """What differs is a setting. Two rules hold production to its settings, in variables.tf."""
    for path in sorted((TERRAFORM / root).glob("*.tf")):
        if path.name != "variables.tf":
            code = re.sub(r"#.*", "", path.read_text())
            assert not re.search(r'"(dev|staging|production|nonprod)"', code), path.name


@pytest.mark.parametrize("root", ROOTS)
def test_everything_declared_is_used(root: str) -> None:
    text = "\n".join(p.read_text() for p in sorted((TERRAFORM / root).glob("*.tf")))
    code = re.sub(r"(?m)#.*$", "", text)
    declared = {f"var.{name}" for name in re.findall(r'^variable "(\w+)"', code, re.MULTILINE)}
    declared |= {
        f"data.{t}.{n}" for t, n in re.findall(r'^data "(\w+)" "(\w+)"', code, re.MULTILINE)
    }
    for block in re.findall(r"^locals \{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL):
        declared |= {f"local.{name}" for name in re.findall(r"^  (\w+)\s+=", block, re.MULTILINE)}
    unused = {d for d in declared if not re.search(rf"(?<![\w.]){re.escape(d)}(?!\w)", code)}
    assert unused == set()


@pytest.mark.parametrize("root", ROOTS)
def test_every_variable_says_what_it_is_and_what_it_refuses(root: str) -> None:
    text = (TERRAFORM / root / "variables.tf").read_text()
    for name, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL):
        assert "description" in body, name
        assert "  type " in body, name
        if name != "addons":  # EKS itself refuses an unknown add-on or version
            assert "validation {" in body, name
        for message in re.findall(r'error_message = "(.+)"', body):
            assert message.endswith("."), name


def test_roots_pin_the_same_versions() -> None:
    pins = {
        tuple(re.findall(r'(?:required_version|version)\s+= "(.+?)"', text))
        for text in ((TERRAFORM / root / "versions.tf").read_text() for root in ROOTS)
    }
    assert pins == {(">= 1.11", "6.62.0")}


@pytest.mark.parametrize("root", ROOTS)
def test_the_state_is_written_with_the_buckets_key(root: str) -> None:
    """`encrypt` without a key's id asks S3 for AES256, and so past the default of the bucket."""
    (backend,) = re.findall(
        r'backend "s3" \{\n(.*?)\n  \}', (TERRAFORM / root / "versions.tf").read_text(), re.DOTALL
    )
    assert backend.split() == ["use_lockfile", "=", "true"]
