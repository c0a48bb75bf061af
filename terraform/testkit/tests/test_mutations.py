"""The promises bite: each planted fault breaks `terraform test`, in the run that is about it."""

import re
from dataclasses import dataclass

import pytest

from testkit.workspace import TerraformError, Workspace, places


@dataclass(frozen=True)
class Fault:
    """In `file`, `right` becomes `wrong`; `place` is where the run `promise` must fail."""

    place: str
    file: str
    right: str
    wrong: str
    promise: str


_ENVIRONMENT = "environment-production"
_PLATFORM = "platform-production"

FAULTS = [
    # bootstrap
    Fault("bootstrap", "state.tf", 'sse_algorithm     = "aws:kms"', 'sse_algorithm     = "AES256"', "state.the_state_is_encrypted_and_versioned"),
    Fault("bootstrap", "state.tf", 'status = "Enabled"', 'status = "Suspended"', "state.the_state_is_encrypted_and_versioned"),
    Fault("bootstrap", "state.tf", "block_public_policy     = true", "block_public_policy     = false", "state.the_state_is_not_public"),
    Fault("bootstrap", "state.tf", '"aws:SecureTransport"', '"aws:MultiFactorAuthPresent"', "state.the_state_refuses_plain_http"),
    Fault("bootstrap", "registry.tf", '"IMMUTABLE"', '"MUTABLE"', "state.images_cannot_be_replaced"),
    Fault("bootstrap", "registry.tf", "scan_on_push = true", "scan_on_push = false", "state.images_cannot_be_replaced"),
    Fault("bootstrap", "encryption.tf", "enable_key_rotation = true", "enable_key_rotation = false", "state.the_state_is_encrypted_and_versioned"),
    Fault("bootstrap", "ci.tf", "environment:${p.github_environment}", "*", "ci.each_role_trusts_exact_subjects"),
    Fault("bootstrap", "ci.tf", '"StringEquals" # never', '"StringLike" # never', "ci.each_role_trusts_exact_subjects"),
    Fault("bootstrap", "budget.tf", "ACTUAL = 80, FORECASTED = 100", "ACTUAL = 80", "ci.spending_is_watched"),
    # platform
    Fault(_PLATFORM, "cluster.tf", 'resources = ["secrets"]', "resources = []", "cluster.secrets_are_encrypted"),
    Fault(_PLATFORM, "encryption.tf", "enable_key_rotation     = true", "enable_key_rotation     = false", "cluster.secrets_are_encrypted"),
    Fault(_PLATFORM, "cluster.tf", 'authentication_mode                         = "API"', 'authentication_mode                         = "API_AND_CONFIG_MAP"', "cluster.nobody_is_an_administrator_by_accident"),
    Fault(_PLATFORM, "cluster.tf", "permissions = false", "permissions = true", "cluster.nobody_is_an_administrator_by_accident"),
    Fault(_PLATFORM, "cluster.tf", "length(var.cluster.api_cidrs) > 0 ? var.cluster.api_cidrs : null", '["0.0.0.0/0"]', "cluster.the_api_is_not_for_the_whole_internet"),
    Fault(_PLATFORM, "cluster.tf", "length(var.cluster.api_cidrs) > 0\n", "false\n", "cluster.the_api_is_not_for_the_whole_internet"),
    Fault(_PLATFORM, "cluster.tf", '"STANDARD"', '"EXTENDED"', "cluster.a_forgotten_version_is_upgraded_not_billed"),
    Fault(_PLATFORM, "cluster.tf", "= var.cluster.deletion_protection", "= false", "cluster.production_is_protected_and_audited"),
    Fault(_PLATFORM, "cluster.tf", "= var.cluster.logs\n", "= []\n", "cluster.production_is_protected_and_audited"),
    Fault(_PLATFORM, "cluster.tf", '["system"]', '["general-purpose", "system"]', "cluster.auto_mode_is_on_as_a_whole"),
    Fault(_PLATFORM, "cluster.tf", '"AmazonEKSWorkerNodeMinimalPolicy"', '"AdministratorAccess"', "cluster.roles_have_what_auto_mode_needs_and_no_more"),
    Fault(_PLATFORM, "network.tf", "map_public_ip_on_launch = false", "map_public_ip_on_launch = true", "network.no_subnet_gives_public_addresses"),
    Fault(_PLATFORM, "network.tf", 'for i, zone in var.network.zones : "database', 'for i, zone in slice(var.network.zones, 0, 2) : "database', "network.every_tier_has_its_zones"),
    Fault("platform-nonprod", "nat.tf", "cidr_ipv4         = var.network.cidr", 'cidr_ipv4         = "0.0.0.0/0"', "network.only_nat_speaks_to_everyone"),
    Fault("platform-nonprod", "nat.tf", '"required"', '"optional"', "network.nat_is_a_machine_in_nonprod_and_two_gateways_in_production"),
    Fault(_PLATFORM, "addons.tf", "= values(var.domains)", "= []", "cluster.add_ons_come_from_the_eks_api"),
    Fault(_PLATFORM, "firewall.tf", "block {\n        custom_response {\n          response_code = 429\n        }\n      }", "count {}", "names.production_is_behind_a_firewall"),
    Fault(_PLATFORM, "firewall.tf", '"authorization"', '"user-agent"', "names.production_is_behind_a_firewall"),
    # environment
    Fault(_ENVIRONMENT, "database.tf", "storage_encrypted     = true", "storage_encrypted     = false", "database.the_database_is_encrypted_with_the_platforms_key"),
    Fault(_ENVIRONMENT, "database.tf", "publicly_accessible    = false", "publicly_accessible    = true", "database.the_database_is_private"),
    Fault(_ENVIRONMENT, "database.tf", "referenced_security_group_id = local.cluster_security_group_id", 'cidr_ipv4                    = "0.0.0.0/0"', "database.the_database_is_private"),
    Fault(_ENVIRONMENT, "database.tf", "multi_az       = var.database.multi_az", "multi_az       = false", "database.only_production_has_a_standby"),
    Fault("environment-dev", "database.tf", "multi_az       = var.database.multi_az", "multi_az       = true", "database.only_production_has_a_standby"),
    Fault(_ENVIRONMENT, "database.tf", "deletion_protection       = var.database.deletion_protection", "deletion_protection       = false", "database.production_cannot_be_deleted_by_mistake"),
    Fault(_ENVIRONMENT, "database.tf", "= var.database.backup_days", "= 7", "database.backups_reach_back_as_far_as_promised"),
    Fault(_ENVIRONMENT, "database.tf", "manage_master_user_password         = true", 'password                            = "payments"', "database.no_password_is_known_to_terraform"),
    Fault(_ENVIRONMENT, "database.tf", "iam_database_authentication_enabled = true", "iam_database_authentication_enabled = false", "database.no_password_is_known_to_terraform"),
    Fault(_ENVIRONMENT, "database.tf", '"rds.force_ssl"                     = { value = "1"', '"rds.force_ssl"                     = { value = "0"', "database.connections_are_encrypted"),
    Fault(_ENVIRONMENT, "database.tf", "apply_immediately           = false", "apply_immediately           = true", "database.changes_wait_for_the_maintenance_window"),
    Fault(_ENVIRONMENT, "identities.tf", "permissions_boundary = local.boundary", "permissions_boundary = null", "identities.every_role_is_bounded"),
    Fault(_ENVIRONMENT, "identities.tf", 'type       = "namespace"', 'type       = "cluster"', "identities.the_pipeline_deploys_to_its_own_namespace"),
    Fault(_ENVIRONMENT, "identities.tf", 'service_account = "payments-migrate"', 'service_account = "default"', "identities.a_pods_identity_is_its_namespace_and_service_account"),
    Fault(_ENVIRONMENT, "backup.tf", "min_retention_days  = var.backup_copy.days", "min_retention_days  = 1", "backup.copies_cannot_be_deleted_early"),
    Fault(_ENVIRONMENT, "alarms.tf", 'treat_missing_data  = "breaching"', 'treat_missing_data  = "ignore"', "alarms.staging_and_production_are_watched_from_outside"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.file}: {f.wrong.strip()[:40]}")
def test_a_planted_fault_is_caught(workspace: Workspace, fault: Fault) -> None:
    root = places()[fault.place]
    file, promise = fault.promise.split(".")
    path = workspace.directory / root / fault.file
    text = path.read_text()
    assert fault.right in text
    path.write_text(text.replace(fault.right, fault.wrong))
    workspace.init(root)
    with pytest.raises(TerraformError) as failure:
        workspace.test(fault.place, "-no-color", f"-filter=tests/{file}.tftest.hcl")
    assert re.search(rf'run "{promise}"\.\.\. fail', str(failure.value)), failure.value
