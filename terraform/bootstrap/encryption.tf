# The keys. One for what bootstrap keeps: the state (state.tf) and the images (registry.tf). One a
# platform, for everything at rest on it; the roots find it by its alias. What dev could decrypt, nonprod
# could anyway. And one in the second region for each platform whose backups are copied there, which would
# be the platform's if the first were lost. All are made here, where only people change anything: who
# deletes a key deletes what it encrypts.

resource "aws_kms_key" "this" {
  description         = "State, images and record of payments"
  policy              = data.aws_iam_policy_document.own_key.json
  enable_key_rotation = true
}

resource "aws_kms_alias" "this" {
  name          = "alias/payments-bootstrap"
  target_key_id = aws_kms_key.this.id
}

resource "aws_kms_key" "platform" {
  for_each = var.platforms

  description             = "Everything at rest on payments-${each.key}"
  policy                  = data.aws_iam_policy_document.platform_key.json
  enable_key_rotation     = true
  deletion_window_in_days = 30

  tags = { platform = each.key }
}

resource "aws_kms_alias" "platform" {
  for_each = var.platforms

  name          = "alias/payments-${each.key}"
  target_key_id = aws_kms_key.platform[each.key].id
}

resource "aws_kms_key" "copy" {
  for_each = { for platform, p in var.platforms : platform => p if p.backup_copies }

  region                  = var.copy_region
  description             = "Copies of the backups of payments-${each.key}"
  policy                  = data.aws_iam_policy_document.platform_key.json
  enable_key_rotation     = true
  deletion_window_in_days = 30

  tags = { platform = each.key }
}

resource "aws_kms_alias" "copy" {
  for_each = aws_kms_key.copy

  region        = var.copy_region
  name          = "alias/payments-${each.key}"
  target_key_id = each.value.id
}

locals {
  keys = { for platform, key in aws_kms_key.platform : platform => concat([key.arn], [for owner, copy in aws_kms_key.copy : copy.arn if owner == platform]) }
}

data "aws_iam_policy_document" "key" {
  # checkov:skip=CKV_AWS_109: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_111: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_356: the policy of a key speaks of that key alone, and `*` is how it says so
  statement {
    sid       = "AccountDecides"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
}

data "aws_iam_policy_document" "own_key" {
  # checkov:skip=CKV_AWS_109: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_111: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_356: the policy of a key speaks of that key alone, and `*` is how it says so
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid       = "CloudTrailWrites" # trail.tf
    actions   = ["kms:DescribeKey", "kms:GenerateDataKey*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [local.trail_arn]
    }
  }
}

data "aws_iam_policy_document" "platform_key" {
  # checkov:skip=CKV_AWS_109: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_111: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_356: the policy of a key speaks of that key alone, and `*` is how it says so
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid       = "Logs"
    actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${var.region}.amazonaws.com", "logs.${var.copy_region}.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:*:${local.account}:log-group:*"]
    }
  }

  statement {
    sid       = "AlarmsToEncryptedTopics"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "events.rds.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}
