# What database.tf promises of each environment, one promise a run; the settings are those of the
# place that is tested.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
  mock_data "aws_eks_cluster" {
    defaults = {
      arn = "arn:aws:eks:us-east-1:123456789012:cluster/payments-test"
      # OpenTofu asks for the whole object, Terraform for what is read of it.
      vpc_config = [{
        vpc_id                  = "vpc-0123456789abcdef0", cluster_security_group_id = "sg-0123456789abcdef0", control_plane_egress_mode = ""
        endpoint_private_access = true, endpoint_public_access = true, public_access_cidrs = [], security_group_ids = [], subnet_ids = []
      }]
    }
  }
  mock_data "aws_subnets" { defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] } }
  mock_data "aws_subnet" { defaults = { cidr_block = "10.0.208.0/24" } }
  mock_data "aws_kms_alias" { defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" } }
  mock_data "aws_wafv2_web_acl" { defaults = { arn = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/payments-test/00000000-0000-0000-0000-000000000000" } }
}

run "the_database_is_encrypted_with_the_platforms_key" {
  command = plan

  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == data.aws_kms_alias.this.target_key_arn
    error_message = "The database's storage must be encrypted with the platform's key."
  }
}

run "the_database_is_private" {
  command = plan

  assert {
    condition     = !aws_db_instance.this.publicly_accessible
    error_message = "The database must have no public address."
  }

  assert {
    condition     = aws_db_subnet_group.this.subnet_ids == toset(data.aws_subnets.database.ids)
    error_message = "The database must be in the database subnets, and in no others."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.database.referenced_security_group_id == data.aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
    error_message = "Only the cluster's nodes may reach the database."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.database.cidr_ipv4 == null && aws_vpc_security_group_ingress_rule.database.from_port == 5432 && aws_vpc_security_group_ingress_rule.database.to_port == 5432
    error_message = "The way to the database is one port, and no network."
  }
}

run "only_production_has_a_standby" {
  command = plan

  assert {
    condition     = aws_db_instance.this.multi_az == (var.name == "production")
    error_message = "Multi-AZ costs as much as the database: production has it, the others do not."
  }
}

run "production_cannot_be_deleted_by_mistake" {
  command = plan

  assert {
    condition     = var.name != "production" || (aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && !aws_db_instance.this.delete_automated_backups)
    error_message = "Production's database is protected, and leaves a snapshot and its backups."
  }
}

run "backups_reach_back_as_far_as_promised" {
  command = plan

  assert {
    condition     = aws_db_instance.this.backup_retention_period == lookup({ staging = 7, production = 35 }, var.name, 1)
    error_message = "Backups reach back 7 days in staging, 35 in production, and 1 elsewhere."
  }
}

run "no_password_is_known_to_terraform" {
  command = plan

  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null && aws_db_instance.this.password_wo_version == null
    error_message = "RDS makes and keeps the master password; a plan or state must not."
  }

  assert {
    condition     = aws_db_instance.this.iam_database_authentication_enabled
    error_message = "The service logs in with IAM tokens."
  }
}

run "connections_are_encrypted" {
  command = plan

  assert {
    condition     = one([for p in aws_db_parameter_group.this.parameter : p.value if p.name == "rds.force_ssl"]) == "1"
    error_message = "PostgreSQL must refuse connections without TLS."
  }
}

run "the_engine_is_postgresql_18_or_newer_on_graviton" {
  command = plan

  assert {
    condition     = aws_db_instance.this.engine == "postgres" && tonumber(aws_db_instance.this.engine_version) >= 18 && aws_db_parameter_group.this.family == "postgres${var.database.engine_version}"
    error_message = "Engine and parameters are those of one PostgreSQL, 18 or newer."
  }

  assert {
    condition     = strcontains(aws_db_instance.this.instance_class, "t4g") && aws_db_instance.this.storage_type == "gp3"
    error_message = "The price in docs/cost.md is that of t4g and gp3."
  }
}

run "changes_wait_for_the_maintenance_window" {
  command = plan

  assert {
    condition     = !aws_db_instance.this.apply_immediately && aws_db_instance.this.auto_minor_version_upgrade && aws_db_instance.this.allow_major_version_upgrade == var.database.upgrade_ready
    error_message = "Minor versions come in the window, major ones when asked for, restarts never by surprise."
  }
}

run "a_forgotten_version_is_upgraded_not_billed" {
  command = plan

  assert {
    condition     = aws_db_instance.this.engine_lifecycle_support == "open-source-rds-extended-support-disabled"
    error_message = "Extended support costs $0.10 a vCPU-hour, three times the instance."
  }
}

run "logs_are_kept_and_end" {
  command = plan

  assert {
    condition     = aws_db_instance.this.enabled_cloudwatch_logs_exports == toset(["iam-db-auth-error", "postgresql", "upgrade"])
    error_message = "PostgreSQL's log, upgrades and refused tokens are kept."
  }

  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.database : group.retention_in_days == 30 && group.kms_key_id == data.aws_kms_alias.this.target_key_arn])
    error_message = "Logs are encrypted, and end after 30 days."
  }
}
