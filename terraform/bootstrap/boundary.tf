# The permissions boundaries: the most that a role can do, whatever its policies say. Two for each place:
#
#   payments-boundary-<place>   the pipeline's role that applies it (ci.tf)
#   payments-workload-<place>   every role that this one makes, in ../platform or ../environment; such a
#                               role can neither make nor change another
#
# Who may write policies could otherwise write one that reaches production. What is shared may be used and
# not changed, what carries another place's tag is denied. ../testkit/tests/test_reach.py tries every call
# on everything of every place.

resource "aws_iam_policy" "boundary" {
  for_each = merge(
    { readers = data.aws_iam_policy_document.readers_boundary.json },
    { for place, document in data.aws_iam_policy_document.boundary : place => document.json },
  )

  name        = "payments-boundary-${each.key}"
  description = "The most that the pipeline can do: ${each.key}"
  policy      = each.value
}

resource "aws_iam_policy" "workload" {
  for_each = data.aws_iam_policy_document.workload

  name        = "payments-workload-${each.key}"
  description = "The most that a role made at ${each.key} can do"
  policy      = each.value.json
}

# What plans and what publishes (ci.tf) can do no more than they are given.
data "aws_iam_policy_document" "readers_boundary" {
  source_policy_documents = [data.aws_iam_policy_document.read.json, data.aws_iam_policy_document.read_states.json, data.aws_iam_policy_document.publish.json]
}

locals {
  workload_boundaries = { for place in keys(local.places) : place => "arn:${local.partition}:iam::${local.account}:policy/payments-workload-${place}" }

  own_roles = { for place, p in local.places : place => "arn:${local.partition}:iam::${local.account}:role/payments-${place}-*" }

  # What places use of bootstrap's. Whose keys, zones and state objects they are, `elsewhere` says.
  use_of_keys   = ["kms:CreateGrant", "kms:Decrypt", "kms:Describe*", "kms:GenerateDataKey*", "kms:Get*", "kms:List*"]
  use_of_images = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:Describe*", "ecr:Get*", "ecr:List*"]
  use_of_zones  = ["route53:ChangeResourceRecordSets", "route53:Get*", "route53:List*"]

  workload = {
    platform = concat(
      [for service in ["acm", "autoscaling", "cognito-idp", "ec2", "eks-auth", "elasticloadbalancing", "logs", "shield", "tag", "waf-regional", "wafv2"] : "${service}:*"],
      ["cloudwatch:PutMetricData", "iam:Get*", "iam:List*", "ssm:GetParameter*"],
      local.use_of_keys, local.use_of_images, local.use_of_zones,
    )
    environment = concat(
      ["backup:*", "backup-storage:*", "ec2:Describe*", "rds-db:connect", "rds:*Tags*", "rds:*DBSnapshot*", "rds:Describe*", "rds:RestoreDBInstance*", "tag:GetResources"],
      local.use_of_keys,
    )
  }
}

data "aws_iam_policy_document" "boundary" {
  # checkov:skip=CKV_AWS_49: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_107: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_108: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_109: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_110: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_111: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_356: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV2_AWS_40: a boundary grants nothing; it bounds what policies grant
  for_each = local.places

  source_policy_documents = [data.aws_iam_policy_document.elsewhere[each.key].json]

  statement {
    sid = "OfItsOwn"
    actions = concat(
      [for service in ["acm", "backup", "backup-storage", "cloudwatch", "ec2", "eks", "logs", "rds", "sns", "wafv2"] : "${service}:*"],
      ["secretsmanager:CreateSecret", "secretsmanager:DescribeSecret", "secretsmanager:RotateSecret", "secretsmanager:TagResource"],
    )
    resources = ["*"]
  }

  statement {
    sid = "OfWhatIsShared"
    actions = concat(
      ["budgets:Describe*", "budgets:List*", "budgets:View*", "iam:Get*", "iam:List*", "s3:DeleteObject", "s3:Get*", "s3:List*", "s3:PutObject", "ssm:GetParameter"],
      # A health check has neither a name nor a tag that IAM compares: making one harms nobody, and what is there stays.
      ["route53:ChangeTagsForResource", "route53:CreateHealthCheck"],
      local.use_of_keys, local.use_of_images, local.use_of_zones,
    )
    resources = ["*"]
  }

  statement {
    sid = "ItsRoles"
    actions = [
      "iam:AttachRolePolicy", "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:PassRole",
      "iam:PutRolePolicy", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy",
    ]
    resources = [local.own_roles[each.key]]
  }

  statement {
    sid       = "RolesOfTheServices" # AWS makes them on first use, and only as it defines them
    actions   = ["iam:CreateServiceLinkedRole"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/aws-service-role/*"]
  }

  statement {
    sid       = "NoRoleWithoutItsBoundary"
    effect    = "Deny"
    actions   = ["iam:AttachRolePolicy", "iam:CreateRole", "iam:PutRolePolicy"]
    resources = ["*"]

    condition {
      test     = "StringNotEquals"
      variable = "iam:PermissionsBoundary"
      values   = [local.workload_boundaries[each.key]]
    }
  }

  # An ordinary change does not name this; taking the password from RDS has to.
  statement {
    sid       = "ThePasswordIsOfRds"
    effect    = "Deny"
    actions   = ["rds:CreateDBInstance", "rds:ModifyDBInstance"]
    resources = ["*"]

    condition {
      test     = "Bool"
      variable = "rds:ManageMasterUserPassword"
      values   = ["false"]
    }
  }

  statement {
    sid       = "CopiesStay"
    effect    = "Deny"
    actions   = ["backup:DeleteBackupVaultLockConfiguration", "backup:DeleteRecoveryPoint", "backup:UpdateRecoveryPointLifecycle", "rds:DeleteDBInstanceAutomatedBackup", "rds:ModifyDBSnapshotAttribute"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "workload" {
  # checkov:skip=CKV_AWS_49: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_107: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_108: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_109: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_110: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_111: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_356: a boundary grants nothing; it bounds what policies grant
  for_each = local.places

  source_policy_documents = [data.aws_iam_policy_document.elsewhere[each.key].json]

  statement {
    sid       = "OfItsKind"
    actions   = local.workload[each.value.root]
    resources = ["*"]
  }

  # What EKS needs of IAM to start nodes.
  dynamic "statement" {
    for_each = each.value.root == "platform" ? [local.own_roles[each.key]] : []

    content {
      sid     = "Nodes"
      actions = ["iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:CreateServiceLinkedRole", "iam:DeleteInstanceProfile", "iam:PassRole", "iam:RemoveRoleFromInstanceProfile", "iam:TagInstanceProfile"]
      resources = [
        statement.value,
        "arn:${local.partition}:iam::${local.account}:instance-profile/eks*",
        "arn:${local.partition}:iam::${local.account}:role/aws-service-role/*",
      ]
    }
  }
}

# What both boundaries of a place deny: everybody else's. Every root tags what it makes, and bootstrap
# what is shared. What bears no tag, or none that AWS compares, is named.
data "aws_iam_policy_document" "elsewhere" {
  for_each = local.places

  dynamic "statement" {
    for_each = {
      Platform    = { tag = "platform", values = [each.value.platform, "shared"] }
      Environment = { tag = "environment", values = each.value.root == "environment" ? [each.value.name] : ["none"] }
      Cluster     = { tag = "aws:eks:cluster-name", values = ["payments-${each.value.platform}"] } # on the security group that EKS makes, which has none of our tags
    }

    content {
      sid       = "NothingOfAnother${statement.key}"
      effect    = "Deny"
      actions   = ["*"]
      resources = ["*"]

      condition {
        test     = "StringNotEquals"
        variable = "aws:ResourceTag/${statement.value.tag}"
        values   = statement.value.values
      }

      condition {
        test     = "Null"
        variable = "aws:ResourceTag/${statement.value.tag}"
        values   = ["false"]
      }
    }
  }

  statement {
    sid           = "NoOtherState"
    effect        = "Deny"
    actions       = ["s3:*"]
    not_resources = concat([aws_s3_bucket.state.arn], [for file in ["tfstate", "tfstate.tflock"] : "${aws_s3_bucket.state.arn}/${each.key}.${file}"])
  }

  statement {
    sid           = "NoOtherZone"
    effect        = "Deny"
    actions       = ["route53:ChangeResourceRecordSets"]
    not_resources = [for environment in keys(var.platforms[each.value.platform].hosts) : aws_route53_zone.this[environment].arn]
  }

  statement {
    sid           = "NoOtherKey"
    effect        = "Deny"
    actions       = ["kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKey*"]
    not_resources = concat([aws_kms_key.this.arn], local.keys[each.value.platform])
  }
}
