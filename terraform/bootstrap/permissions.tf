# What the pipeline's roles (ci.tf) may do, as tables: a row is a statement, `{name}` is the place's
# own name. Names carry the environment (payments-dev-…), so that dev's role cannot reach production.

locals {
  here = "${var.region}:${local.account}" # the middle of most ARNs

  # Terraform's reading of what it manages. AWS has no narrower resource than `*` for most of it;
  # nothing here reads what a bucket, a secret or a database holds.
  read = [
    "acm:Describe*", "acm:GetCertificate", "acm:List*",
    "backup:Describe*", "backup:Get*", "backup:List*",
    "budgets:Describe*", "budgets:ListTagsForResource", "budgets:ViewBudget",
    "cloudwatch:Describe*", "cloudwatch:ListTagsForResource",
    "ec2:Describe*",
    "ecr:Describe*", "ecr:GetLifecyclePolicy", "ecr:GetRepositoryPolicy", "ecr:ListTagsForResource",
    "eks:Describe*", "eks:List*",
    "iam:Get*", "iam:List*",
    "kms:Describe*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:List*",
    "logs:Describe*", "logs:ListTagsForResource",
    "rds:Describe*", "rds:ListTagsForResource",
    "route53:Get*", "route53:List*",
    "s3:GetAccelerateConfiguration", "s3:GetBucket*", "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration", "s3:GetReplicationConfiguration",
    "secretsmanager:DescribeSecret",
    "sns:Get*", "sns:List*",
    "wafv2:Get*", "wafv2:List*",
  ]

  # Keys have no names; their tag says whose they are. A key is tagged once, when it is made.
  own_keys = {
    resources = ["arn:${local.partition}:kms:*:${local.account}:key/*"]
    only      = [{ test = "StringEquals", variable = "aws:ResourceTag/platform", values = ["{platform}"] }]
  }
  new_key = {
    actions   = ["kms:TagResource"]
    resources = ["arn:${local.partition}:kms:*:${local.account}:key/*"]
    only = [
      { test = "StringEquals", variable = "aws:RequestTag/platform", values = ["{platform}"] },
      { test = "Null", variable = "aws:ResourceTag/platform", values = ["true"] },
    ]
  }

  # Every create, change and delete that a root needs, where it may happen.
  write = {
    platform = {
      Network = {
        actions = [
          "ec2:*Address", "ec2:*AddressAttribute", "ec2:*FlowLogs", "ec2:*InternetGateway", "ec2:*NatGateway",
          "ec2:*Route", "ec2:*RouteTable", "ec2:*SecurityGroup", "ec2:*SecurityGroupEgress",
          "ec2:*SecurityGroupIngress", "ec2:*Subnet", "ec2:*SubnetAttribute", "ec2:*Tags", "ec2:*Vpc",
          "ec2:*VpcAttribute", "ec2:*VpcEndpoint", "ec2:*VpcEndpoints", "ec2:ModifySecurityGroupRules",
          "ec2:RunInstances", "ec2:TerminateInstances", "ec2:ModifyInstanceAttribute",
        ]
        resources = ["arn:${local.partition}:ec2:${local.here}:*/*", "arn:${local.partition}:ec2:${var.region}::image/*"]
      }
      Cluster = {
        actions   = ["eks:*"]
        resources = ["arn:${local.partition}:eks:${local.here}:*/payments-{name}*"]
      }
      Names = {
        actions   = ["route53:ChangeResourceRecordSets", "route53:ChangeTagsForResource", "route53:DeleteHostedZone"]
        resources = ["arn:${local.partition}:route53:::hostedzone/*", "arn:${local.partition}:route53:::change/*"]
        # No host's address: those are external-dns's. Only what delegates to the platform's own hosts and
        # validates their certificates: in whose zone it stands, nothing tells before the zone is there.
        only = [
          { test = "ForAllValues:StringEquals", variable = "route53:ChangeResourceRecordSetsRecordTypes", values = ["CNAME", "NS"] },
          { test = "ForAllValues:StringLike", variable = "route53:ChangeResourceRecordSetsNormalizedRecordNames", values = ["{hosts}", "_*.{hosts}"] },
        ]
      }
      Certificate = {
        actions   = ["acm:*Certificate", "acm:*TagsToCertificate", "acm:*TagsFromCertificate"]
        resources = ["arn:${local.partition}:acm:${local.here}:certificate/*"]
      }
      Firewall = {
        actions = ["wafv2:*"]
        resources = [
          "arn:${local.partition}:wafv2:${local.here}:regional/webacl/payments-{name}/*",
          "arn:${local.partition}:wafv2:${local.here}:regional/managedruleset/*/*",
        ]
      }
      Key    = merge({ actions = ["kms:*"] }, local.own_keys)
      NewKey = local.new_key
      KeyAlias = {
        actions   = ["kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias"]
        resources = ["arn:${local.partition}:kms:${local.here}:alias/payments-{name}"]
      }
      Logs = {
        actions = ["logs:*"]
        resources = [
          "arn:${local.partition}:logs:${local.here}:log-group:/aws/eks/payments-{name}/*",
          "arn:${local.partition}:logs:${local.here}:log-group:/aws/vpc/payments-{name}*",
          "arn:${local.partition}:logs:${local.here}:log-group:aws-waf-logs-payments-{name}*",
        ]
      }
    }
    environment = {
      Database = {
        actions   = ["rds:*"]
        resources = ["arn:${local.partition}:rds:${local.here}:*:payments-{name}*", "arn:${local.partition}:rds:${local.here}:og:default*"]
      }
      DatabaseFirewall = {
        actions   = ["ec2:*SecurityGroup", "ec2:*SecurityGroupEgress", "ec2:*SecurityGroupIngress", "ec2:*Tags", "ec2:ModifySecurityGroupRules"]
        resources = [for kind in ["security-group", "security-group-rule", "vpc"] : "arn:${local.partition}:ec2:${local.here}:${kind}/*"]
      }
      Identities = {
        actions = ["eks:*AccessEntry", "eks:*AccessPolicy", "eks:*PodIdentityAssociation", "eks:TagResource", "eks:UntagResource"]
        resources = [
          "arn:${local.partition}:eks:${local.here}:cluster/payments-{platform}",
          "arn:${local.partition}:eks:${local.here}:access-entry/payments-{platform}/*",
          "arn:${local.partition}:eks:${local.here}:podidentityassociation/payments-{platform}/*",
        ]
      }
      Alarms = {
        actions   = ["cloudwatch:*Alarm", "cloudwatch:*Alarms", "cloudwatch:TagResource", "cloudwatch:UntagResource", "sns:*Topic", "sns:SetTopicAttributes", "sns:Subscribe", "sns:TagResource", "sns:UntagResource"]
        resources = ["arn:${local.partition}:cloudwatch:*:${local.account}:alarm:payments-{name}-*", "arn:${local.partition}:sns:*:${local.account}:payments-{name}-*"]
      }
      Chart = {
        actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        resources = ["arn:${local.partition}:ecr:${local.here}:repository/payments", "arn:${local.partition}:ecr:${local.here}:repository/charts/payments"]
      }
      HealthCheck = {
        actions   = ["route53:*HealthCheck", "route53:ChangeTagsForResource"]
        resources = ["arn:${local.partition}:route53:::healthcheck/*"]
      }
      Backup = {
        actions   = ["backup:*"]
        resources = ["arn:${local.partition}:backup:*:${local.account}:backup-vault:payments-{name}", "arn:${local.partition}:backup:${local.here}:backup-plan:*"]
      }
      # The platform's key, for the services that encrypt with it, and the key of the second region.
      Key    = merge({ actions = ["kms:CreateGrant", "kms:Decrypt", "kms:EnableKeyRotation", "kms:GenerateDataKey*", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion"] }, local.own_keys)
      NewKey = local.new_key
      MasterSecret = {
        # RDS makes and rotates it; nobody in the pipeline reads it.
        actions   = ["secretsmanager:CreateSecret", "secretsmanager:TagResource"]
        resources = ["arn:${local.partition}:secretsmanager:${local.here}:secret:rds!db-*"]
      }
      Logs = {
        actions   = ["logs:*"]
        resources = ["arn:${local.partition}:logs:${local.here}:log-group:/aws/rds/instance/payments-{name}/*"]
      }
    }
  }

  # What AWS cannot bind to a resource: it is not there yet, or has no policy of its own.
  create = {
    platform = [
      "kms:CreateKey", "route53:CreateHostedZone", "acm:RequestCertificate", "eks:CreateCluster",
      "logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:PutResourcePolicy", # the firewall's log
    ]
    environment = [
      "kms:CreateKey", "route53:CreateHealthCheck", "backup:CreateBackupPlan", "backup-storage:MountCapsule", "ecr:GetAuthorizationToken",
      "sns:Unsubscribe", # of any topic, AWS knows no narrower; the nightly plan tells of an address that went
    ]
  }
}

data "aws_iam_policy_document" "read" {
  # checkov:skip=CKV_AWS_356: describing and listing know no resource narrower than `*`
  statement {
    sid       = "Describe"
    actions   = local.read
    resources = ["*"]
  }

  statement {
    sid       = "State"
    actions   = ["s3:ListBucket", "s3:GetObject"]
    resources = [aws_s3_bucket.state.arn, "${aws_s3_bucket.state.arn}/*.tfstate"]
  }

  statement {
    sid       = "StateKey"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.this.arn]
  }

  statement {
    sid       = "ImagesOfAmazon" # where platform/nat.tf finds its operating system
    actions   = ["ssm:GetParameter"]
    resources = ["arn:${local.partition}:ssm:${var.region}::parameter/aws/service/*"]
  }
}

data "aws_iam_policy_document" "publish" {
  # checkov:skip=CKV_AWS_356: ecr:GetAuthorizationToken knows no resource
  statement {
    sid       = "Login"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid = "Push"
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImages",
      "ecr:DescribeImageScanFindings", "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [for repository in aws_ecr_repository.this : repository.arn]
  }
}

data "aws_iam_policy_document" "write" {
  # checkov:skip=CKV_AWS_109: a role that builds a platform grants rights; boundary.tf says which it never can
  # checkov:skip=CKV_AWS_111: bound to names, account and region; what remains is creation
  # checkov:skip=CKV_AWS_356: the few creations that know no resource; see `create`
  for_each = local.places

  dynamic "statement" {
    for_each = local.write[each.value.root]

    content {
      sid       = statement.key
      actions   = statement.value.actions
      resources = [for r in statement.value.resources : replace(replace(r, "{name}", each.value.name), "{platform}", each.value.platform)]

      dynamic "condition" {
        for_each = try(statement.value.only, [])

        content {
          test     = condition.value.test
          variable = condition.value.variable
          values = distinct(flatten([for v in condition.value.values :
            [for host in values(var.platforms[each.value.platform].hosts) : replace(replace(v, "{platform}", each.value.platform), "{hosts}", host)]
          ]))
        }
      }
    }
  }

  statement {
    sid       = "Create"
    actions   = local.create[each.value.root]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "aws:PrincipalAccount"
      values   = [local.account]
    }
  }

  statement {
    sid       = "Roles" # with the boundary on them, and no others
    actions   = ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:DetachRolePolicy", "iam:DeleteRolePolicy"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/payments-${each.value.name}-*"]

    condition {
      test     = "StringEquals"
      variable = "iam:PermissionsBoundary"
      values   = [aws_iam_policy.platform_boundary[each.value.platform].arn]
    }
  }

  statement {
    sid       = "RolesOfThisPlace"
    actions   = ["iam:DeleteRole", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/payments-${each.value.name}-*"]
  }

  statement {
    sid       = "RolesToServices"
    actions   = ["iam:PassRole"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/payments-${each.value.name}-*"]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      # EC2 is who Auto Mode's nodes are handed theirs by; no other role here trusts it.
      values = ["backup.amazonaws.com", "ec2.amazonaws.com", "eks.amazonaws.com", "pods.eks.amazonaws.com", "vpc-flow-logs.amazonaws.com"]
    }
  }

  statement {
    sid       = "RolesOfTheServices" # AWS makes them on first use, and only as it defines them
    actions   = ["iam:CreateServiceLinkedRole"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/aws-service-role/*"]
  }
}

data "aws_iam_policy_document" "write_state" {
  for_each = local.places

  statement {
    sid       = "OwnStateAndItsLock"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.state.arn}/${each.key}.tfstate", "${aws_s3_bucket.state.arn}/${each.key}.tfstate.tflock"]
  }

  statement {
    sid       = "StateKey"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
}
