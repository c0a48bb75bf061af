# A daily copy of the database (database.tf) in a second region, where the settings ask for one: for
# the loss of the region, or of the account's good will. Locked: nobody, not even an administrator,
# deletes a copy before its time. Any moment of the last days is RDS's own to restore.

resource "aws_backup_vault" "local" {
  # checkov:skip=CKV_AWS_166: it has the platform's key
  count = var.backup_copy == null ? 0 : 1

  name          = local.name
  kms_key_arn   = local.key_arn
  force_destroy = true # what it holds for two days is in the other region too
}

resource "aws_backup_vault" "copy" {
  # checkov:skip=CKV_AWS_166: it has a key of its own, of that region
  count = var.backup_copy == null ? 0 : 1

  region      = var.backup_copy.region
  name        = local.name
  kms_key_arn = data.aws_kms_alias.copy[0].target_key_arn
}

resource "aws_backup_vault_lock_configuration" "copy" {
  count = var.backup_copy == null ? 0 : 1

  region              = var.backup_copy.region
  backup_vault_name   = aws_backup_vault.copy[0].name
  min_retention_days  = var.backup_copy.days
  max_retention_days  = var.backup_copy.days
  changeable_for_days = 7 # then for good; a vault locked by mistake can still be taken away
}

# The key is ../bootstrap's, and so nobody's here to delete.
data "aws_kms_alias" "copy" {
  count = var.backup_copy == null ? 0 : 1

  region = var.backup_copy.region
  name   = "alias/payments-${var.platform}"
}

resource "aws_backup_plan" "this" {
  count = var.backup_copy == null ? 0 : 1

  name = local.name

  rule {
    rule_name         = "daily"
    target_vault_name = aws_backup_vault.local[0].name
    schedule          = "cron(0 8 * * ? *)" # after the maintenance window, UTC
    start_window      = 60
    completion_window = 180

    lifecycle {
      delete_after = 2 # the copy is what is kept; RDS itself has the days here
    }

    copy_action {
      destination_vault_arn = aws_backup_vault.copy[0].arn

      lifecycle {
        delete_after = var.backup_copy.days
      }
    }
  }
}

resource "aws_backup_selection" "this" {
  count = var.backup_copy == null ? 0 : 1

  name         = local.name
  plan_id      = aws_backup_plan.this[0].id
  iam_role_arn = aws_iam_role.backup[0].arn
  resources    = [aws_db_instance.this.arn]
}

resource "aws_iam_role" "backup" {
  count = var.backup_copy == null ? 0 : 1

  name                 = "${local.roles}-backup"
  assume_role_policy   = data.aws_iam_policy_document.backup_trust.json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "backup_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["backup.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role_policy_attachment" "backup" {
  count = var.backup_copy == null ? 0 : 1

  role       = aws_iam_role.backup[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AWSBackupServiceRolePolicyForBackup" # restoring is for people
}
