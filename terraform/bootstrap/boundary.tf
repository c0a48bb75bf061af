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

  own_roles = { for place in keys(local.places) : place => "arn:${local.partition}:iam::${local.account}:role/payments-${place}-*" }

  own_zones = { for platform, p in var.platforms : platform => [for environment in keys(p.hosts) : aws_route53_zone.this[environment].arn] }

  # A database is known by an id that it gets when it is made; whose it is, the names of its logins say.
  own_logins = { for place, p in local.places : place => [
    for login in ["app", "migrator"] : "arn:${local.partition}:rds-db:${local.here}:dbuser:*/payments_${login}_${p.name}"
  ] }

  use_of_keys = ["kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKey*", "kms:RetireGrant"]

  copies_stay = [
    "backup:DeleteBackupVaultLockConfiguration", "backup:DeleteRecoveryPoint", "backup:UpdateRecoveryPointLifecycle",
    "rds:DeleteDBInstanceAutomatedBackup", "rds:ModifyDBSnapshotAttribute",
  ]

  of_its_own = {
    platform = [for service in ["acm", "ec2", "eks", "logs", "wafv2"] : "${service}:*"]
    environment = concat(
      [for service in ["backup", "backup-storage", "cloudwatch", "ec2", "eks", "logs", "rds", "sns"] : "${service}:*"],
      ["secretsmanager:CreateSecret", "secretsmanager:DescribeSecret", "secretsmanager:RotateSecret", "secretsmanager:TagResource"],
    )
  }

  # What EKS does with the cluster's role and the nodes', external-dns and flow logs with theirs; and what
  # the environment's pods and AWS Backup do.
  workload = {
    for place, p in local.places : place => p.root == "platform" ? {
      Cluster = {
        actions = [
          "acm:Describe*", "acm:List*", "autoscaling:Describe*", "cloudwatch:PutMetricData", "cognito-idp:Describe*", "ec2:*", "ecr:BatchCheckLayerAvailability",
          "ecr:BatchGetImage", "ecr:Describe*", "ecr:Get*", "ecr:List*", "eks-auth:*", "elasticloadbalancing:*", "iam:Get*", "iam:List*", "kms:DescribeKey",
          "route53:List*", "shield:Describe*", "shield:Get*", "ssm:GetParameter*", "tag:GetResources", "waf-regional:Get*", "wafv2:Get*", "wafv2:List*",
        ]
        resources = ["*"]
      }
      Firewall = {
        actions   = ["wafv2:AssociateWebACL", "wafv2:DisassociateWebACL"]
        resources = ["arn:${local.partition}:wafv2:${local.here}:regional/webacl/payments-${p.name}/*", "arn:${local.partition}:elasticloadbalancing:${local.here}:loadbalancer/app/*"]
      }
      FlowLogs = {
        actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        resources = ["arn:${local.partition}:logs:${local.here}:log-group:/aws/vpc/payments-${p.name}", "arn:${local.partition}:logs:${local.here}:log-group:/aws/vpc/payments-${p.name}:*"]
      }
      Keys    = { actions = local.use_of_keys, resources = local.keys[p.platform] }
      Records = { actions = ["route53:ChangeResourceRecordSets"], resources = local.own_zones[p.platform] }
      Nodes = {
        actions = ["iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:CreateServiceLinkedRole", "iam:DeleteInstanceProfile", "iam:PassRole", "iam:RemoveRoleFromInstanceProfile", "iam:TagInstanceProfile"]
        resources = [
          local.own_roles[place],
          "arn:${local.partition}:iam::${local.account}:instance-profile/eks*",
          "arn:${local.partition}:iam::${local.account}:role/aws-service-role/*",
        ]
      }
      } : merge(
      { LogIn = { actions = ["rds-db:connect"], resources = local.own_logins[place] } },
      var.platforms[p.platform].backup_copies ? {
        Backup = {
          actions = ["backup:CopyFromBackupVault", "backup:CopyIntoBackupVault", "rds:AddTagsToResource", "rds:CopyDBSnapshot", "rds:CreateDBSnapshot", "rds:DeleteDBSnapshot"]
          resources = [
            "arn:${local.partition}:backup:*:${local.account}:backup-vault:payments-${p.name}",
            "arn:${local.partition}:rds:${local.here}:db:payments-${p.name}",
            "arn:${local.partition}:rds:*:${local.account}:snapshot:awsbackup:*",
          ]
        }
        BackupReads = { actions = ["backup:Describe*", "kms:DescribeKey", "rds:Describe*", "rds:ListTagsForResource", "tag:GetResources"], resources = ["*"] }
        Keys        = { actions = local.use_of_keys, resources = local.keys[p.platform] }
      } : {},
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
    sid       = "OfItsOwn"
    actions   = local.of_its_own[each.value.root]
    resources = ["*"]
  }

  statement {
    sid = "OfWhatIsShared"
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:Describe*", "ecr:Get*", "ecr:List*", "iam:Get*", "iam:List*", "kms:Describe*", "kms:Get*",
      "kms:List*", "route53:Get*", "route53:List*", "ssm:GetParameter",
      # A health check has neither a name nor a tag that IAM compares: making one does no harm, and what is there stays.
      "route53:ChangeTagsForResource", "route53:CreateHealthCheck",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "Keys"
    actions   = local.use_of_keys
    resources = local.keys[each.value.platform]
  }

  statement {
    sid       = "StateKey"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }

  statement {
    sid       = "State"
    actions   = ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"]
    resources = concat([aws_s3_bucket.state.arn], [for file in ["tfstate", "tfstate.tflock"] : "${aws_s3_bucket.state.arn}/${each.key}.${file}"])
  }

  statement {
    sid       = "Records"
    actions   = ["route53:ChangeResourceRecordSets"]
    resources = local.own_zones[each.value.platform]
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

  # A database can be changed; what it is restored from, and who knows its password, cannot.
  dynamic "statement" {
    for_each = each.value.root == "environment" ? [local.copies_stay] : []

    content {
      sid       = "CopiesStay"
      effect    = "Deny"
      actions   = statement.value
      resources = ["*"]
    }
  }

  dynamic "statement" {
    # A creation says that RDS manages it; an ordinary change says nothing.
    for_each = each.value.root == "environment" ? { Create = "BoolIfExists", Modify = "Bool" } : {}

    content {
      sid       = "ThePasswordIsOfRds${statement.key}"
      effect    = "Deny"
      actions   = ["rds:${statement.key}DBInstance"]
      resources = ["*"]

      condition {
        test     = statement.value
        variable = "rds:ManageMasterUserPassword"
        values   = ["false"]
      }
    }
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

  dynamic "statement" {
    for_each = local.workload[each.key]

    content {
      sid       = statement.key
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }

  dynamic "statement" {
    for_each = each.value.root == "platform" ? ["ec2"] : []

    content {
      sid       = "NoSettingsOfTheAccount" # EKS has the rest of EC2
      effect    = "Deny"
      actions   = ["ec2:*EnclaveCertificateIamRole", "ec2:Disable*", "ec2:Enable*"]
      resources = ["*"]
    }
  }
}

# What carries another's tag.
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
}
