# The database: PostgreSQL on RDS, in subnets that nothing outside reaches. The service and the
# migrations log in with IAM tokens (identities.tf); the master password is made, kept and rotated by
# RDS. Its tables are ../../api/migrations, its copies elsewhere backup.tf, its alarms alarms.tf.

resource "aws_db_instance" "this" {
  # checkov:skip=CKV_AWS_118: what the operating system does is Performance Insights' to show, without a role and a log of its own
  # checkov:skip=CKV_AWS_157: the standby costs as much as the database: production only, and variables.tf holds it there
  # checkov:skip=CKV_AWS_293: dev and staging may be torn down; variables.tf holds production to it
  # checkov:skip=CKV2_AWS_69: rds.force_ssl is on, in a parameter that the scanner does not follow; a test does
  # checkov:skip=CKV_AWS_353: off in dev, by setting
  identifier     = local.name
  engine         = "postgres"
  engine_version = var.database.engine_version
  instance_class = var.database.instance_class
  multi_az       = var.database.multi_az

  engine_lifecycle_support = "open-source-rds-extended-support-disabled" # a forgotten version is upgraded, not billed by the vCPU

  storage_type          = "gp3"
  allocated_storage     = var.database.storage_gb
  max_allocated_storage = 5 * var.database.storage_gb
  storage_encrypted     = true
  kms_key_id            = local.key_arn

  db_name                             = "payments"
  username                            = "payments_admin" # `payments roles` runs as it, once
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = local.key_arn
  iam_database_authentication_enabled = true

  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.database.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-ecc384-g1" # valid until 2121; its root is in AWS's global bundle
  parameter_group_name   = aws_db_parameter_group.this.name

  # Quiet hours in the Americas; the backup is over before the maintenance begins.
  backup_window               = "06:00-06:30"
  maintenance_window          = "Tue:07:00-Tue:07:30"
  backup_retention_period     = var.database.backup_days
  copy_tags_to_snapshot       = true
  delete_automated_backups    = !var.database.deletion_protection
  deletion_protection         = var.database.deletion_protection
  skip_final_snapshot         = !var.database.deletion_protection
  final_snapshot_identifier   = "${local.name}-final"
  auto_minor_version_upgrade  = true
  allow_major_version_upgrade = var.database.upgrade_ready
  apply_immediately           = false # a change that restarts waits for the window

  performance_insights_enabled          = var.database.performance_insights
  performance_insights_kms_key_id       = var.database.performance_insights ? local.key_arn : null
  performance_insights_retention_period = var.database.performance_insights ? 7 : null # days; what costs nothing
  enabled_cloudwatch_logs_exports       = keys(aws_cloudwatch_log_group.database)
}

resource "aws_db_subnet_group" "this" {
  name        = local.name
  description = "The database subnets of payments-${var.platform}"
  subnet_ids  = data.aws_subnets.database.ids
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${local.name}-postgres${var.database.engine_version}-"
  family      = "postgres${var.database.engine_version}"
  description = "PostgreSQL of ${local.name}"

  dynamic "parameter" {
    for_each = local.parameters

    content {
      name         = parameter.key
      value        = parameter.value.value
      apply_method = parameter.value.static ? "pending-reboot" : "immediate"
    }
  }

  lifecycle {
    create_before_destroy = true # a major version has a family of its own
  }
}

locals {
  parameters = merge(
    {
      "rds.force_ssl"                     = { value = "1", static = false }
      max_connections                     = { value = tostring(var.database.max_connections), static = true }
      log_min_duration_statement          = { value = "500", static = false }   # ms: ten times the slowest statement of a healthy day
      log_lock_waits                      = { value = "1", static = false }     # who waits longer than a second for a lock
      log_statement                       = { value = "ddl", static = false }   # who changed a table, and when
      log_autovacuum_min_duration         = { value = "10000", static = false } # ms
      idle_in_transaction_session_timeout = { value = "60000", static = false } # ms: a forgotten BEGIN blocks VACUUM
    },
    var.database.upgrade_ready ? { "rds.logical_replication" = { value = "1", static = true } } : {},
  )
}

resource "aws_cloudwatch_log_group" "database" {
  # checkov:skip=CKV_AWS_338: statements older than a month have no reader, and cost to keep
  for_each = toset(["iam-db-auth-error", "postgresql", "upgrade"])

  name              = "/aws/rds/instance/${local.name}/${each.key}" # RDS writes here, and makes it without an end if it is missing
  retention_in_days = 30
  kms_key_id        = local.key_arn
}

resource "aws_security_group" "database" {
  name        = "${local.name}-database"
  description = "PostgreSQL, from the nodes of payments-${var.platform} only"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-database" }
}

# Which pods of the cluster is for the NetworkPolicies of ../../charts/payments, and for IAM.
resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from the nodes"
  referenced_security_group_id = local.cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}
