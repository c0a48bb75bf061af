# What the pipeline's roles (ci.tf) may do, as tables: a row is a statement, `{name}` is the place's
# own name, `{keys}` and `{zones}` are what bootstrap made for its platform. Names carry the environment
# (payments-dev-…), so that dev's role cannot reach production; what has no name is told by its tags.

locals {
  here = "${var.region}:${local.account}" # the middle of most ARNs

  # Terraform's reading of what it manages. AWS has no narrower resource than `*` for most of it;
  # nothing here reads what a bucket, a secret or a database holds.
  read = [
    "acm:Describe*", "acm:GetCertificate", "acm:List*",
    "backup:Describe*", "backup:Get*", "backup:List*",
    "cloudwatch:Describe*", "cloudwatch:ListTagsForResource",
    "ec2:Describe*",
    "ecr:Describe*", "ecr:GetLifecyclePolicy", "ecr:GetRepositoryPolicy", "ecr:ListTagsForResource",
    "eks:Describe*", "eks:List*",
    "iam:Get*", "iam:List*",
    "kms:Describe*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:List*",
    "logs:Describe*", "logs:ListTagsForResource",
    "rds:Describe*", "rds:ListTagsForResource",
    "route53:Get*", "route53:List*",
    "secretsmanager:DescribeSecret",
    "sns:Get*", "sns:List*",
    "wafv2:Get*", "wafv2:List*",
  ]

  # Whose a thing is, as IAM compares tags: what is there, and what a call makes. A platform's resources
  # are told from those of its environments by `root`.
  whose = {
    platform    = { platform = "{platform}", root = "platform" }
    environment = { platform = "{platform}", environment = "{name}" }
  }
  is  = { for root, tags in local.whose : root => [for tag, value in tags : { test = "StringEquals", variable = "aws:ResourceTag/${tag}", values = [value] }] }
  new = { for root, tags in local.whose : root => [for tag, value in tags : { test = "StringEquals", variable = "aws:RequestTag/${tag}", values = [value] }] }

  # Tags are given with the creation: to what is there and has none, nobody gives any.
  untagged      = [{ test = "Null", variable = "aws:ResourceTag/platform", values = ["true"] }]
  with_creation = [{ test = "Null", variable = "ec2:CreateAction", values = ["false"] }]

  ec2 = "arn:${local.partition}:ec2:${local.here}"

  # Through a service that encrypts with the key, never by itself.
  by_services = [{ test = "StringLike", variable = "kms:ViaService", values = ["*.amazonaws.com"] }]

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
        resources = [for kind in local.network : "${local.ec2}:${kind}/*"]
        only      = local.is.platform
      }
      # Three, because tags of what a call makes are compared for everything that it names: a subnet is
      # not made in a VPC because the subnet's tag is right.
      NewVpc = {
        actions   = ["ec2:CreateVpc"]
        resources = ["${local.ec2}:vpc/*"]
        only      = local.new.platform
      }
      NewInVpc = {
        actions   = ["ec2:AllocateAddress", "ec2:CreateRouteTable", "ec2:CreateSecurityGroup", "ec2:CreateSubnet"]
        resources = [for kind in ["elastic-ip", "route-table", "security-group", "subnet"] : "${local.ec2}:${kind}/*"]
        only      = local.new.platform
      }
      NewNetwork = {
        actions = [
          "ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateFlowLogs", "ec2:CreateInternetGateway",
          "ec2:CreateNatGateway", "ec2:CreateVpcEndpoint", "ec2:RunInstances",
        ]
        resources = [for kind in ["instance", "internet-gateway", "natgateway", "security-group-rule", "vpc-endpoint", "vpc-flow-log"] : "${local.ec2}:${kind}/*"]
        only      = local.new.platform
      }
      NewNetworksTags = {
        actions   = ["ec2:CreateTags"]
        resources = [for kind in local.network : "${local.ec2}:${kind}/*"]
        only      = concat(local.new.platform, local.with_creation)
      }
      # The group that comes with the VPC. That of EKS has none of our tags either, and stays out of reach.
      DefaultGroup = {
        actions   = ["ec2:CreateTags"]
        resources = ["${local.ec2}:security-group/*"]
        only      = concat(local.new.platform, local.untagged, [{ test = "Null", variable = "aws:ResourceTag/aws:eks:cluster-name", values = ["true"] }])
      }
      NatsParts = {
        actions   = ["ec2:RunInstances"] # what an instance brings along, untagged
        resources = ["${local.ec2}:network-interface/*", "${local.ec2}:volume/*", "arn:${local.partition}:ec2:${var.region}::image/*"]
      }
      Cluster = {
        actions = ["eks:*"]
        resources = concat(
          ["arn:${local.partition}:eks:${local.here}:cluster/payments-{name}"],
          [for kind in ["access-entry", "addon", "podidentityassociation"] : "arn:${local.partition}:eks:${local.here}:${kind}/payments-{name}/*"],
        )
      }
      Validation = {
        actions   = ["route53:ChangeResourceRecordSets"]
        resources = ["{zones}"]
        only      = [{ test = "ForAllValues:StringEquals", variable = "route53:ChangeResourceRecordSetsRecordTypes", values = ["CNAME"] }]
      }
      Certificate = {
        actions   = ["acm:AddTagsToCertificate", "acm:DeleteCertificate", "acm:RemoveTagsFromCertificate", "acm:UpdateCertificateOptions"]
        resources = ["arn:${local.partition}:acm:${local.here}:certificate/*"]
        only      = local.is.platform
      }
      NewCertificate = {
        actions   = ["acm:AddTagsToCertificate"]
        resources = ["arn:${local.partition}:acm:${local.here}:certificate/*"]
        only      = concat(local.new.platform, local.untagged)
      }
      Firewall = {
        actions = ["wafv2:*"]
        resources = [
          "arn:${local.partition}:wafv2:${local.here}:regional/webacl/payments-{name}/*",
          "arn:${local.partition}:wafv2:${local.here}:regional/managedruleset/*/*",
        ]
      }
      Key = {
        actions   = local.use_of_keys
        resources = ["{keys}"]
        only      = local.by_services
      }
      Logs = {
        actions = ["logs:*"]
        resources = flatten([for group in ["/aws/eks/payments-{name}/cluster", "/aws/vpc/payments-{name}", "aws-waf-logs-payments-{name}"] :
          ["arn:${local.partition}:logs:${local.here}:log-group:${group}", "arn:${local.partition}:logs:${local.here}:log-group:${group}:*"]
        ])
      }
    }
    environment = {
      Database = {
        actions = [
          "rds:AddTagsToResource", "rds:CreateDBInstance", "rds:CreateDBParameterGroup", "rds:CreateDBSnapshot", "rds:CreateDBSubnetGroup",
          "rds:CreateEventSubscription", "rds:DeleteDBInstance", "rds:DeleteDBParameterGroup", "rds:DeleteDBSubnetGroup", "rds:DeleteEventSubscription",
          "rds:ModifyDBInstance", "rds:ModifyDBParameterGroup", "rds:ModifyDBSubnetGroup", "rds:ModifyEventSubscription", "rds:RebootDBInstance",
          "rds:RemoveTagsFromResource", "rds:ResetDBParameterGroup",
        ]
        resources = concat(
          [for kind in ["db", "subgrp"] : "arn:${local.partition}:rds:${local.here}:${kind}:payments-{name}"],
          [for kind in ["es", "pg", "snapshot"] : "arn:${local.partition}:rds:${local.here}:${kind}:payments-{name}-*"],
          ["arn:${local.partition}:rds:${local.here}:og:default*"],
        )
      }
      DatabaseFirewall = {
        actions   = ["ec2:*SecurityGroup", "ec2:*SecurityGroupEgress", "ec2:*SecurityGroupIngress", "ec2:*Tags", "ec2:ModifySecurityGroupRules"]
        resources = [for kind in ["security-group", "security-group-rule"] : "${local.ec2}:${kind}/*"]
        only      = local.is.environment
      }
      NewDatabaseFirewall = {
        actions   = ["ec2:CreateSecurityGroup"]
        resources = ["${local.ec2}:security-group/*"]
        only      = local.new.environment
      }
      NewDatabaseFirewallsRules = {
        actions   = ["ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress"]
        resources = ["${local.ec2}:security-group-rule/*"]
        only      = local.new.environment
      }
      NewDatabaseFirewallsTags = {
        actions   = ["ec2:CreateTags"]
        resources = [for kind in ["security-group", "security-group-rule"] : "${local.ec2}:${kind}/*"]
        only      = concat(local.new.environment, local.with_creation)
      }
      DatabaseFirewallsVpc = {
        actions   = ["ec2:CreateSecurityGroup"]
        resources = ["${local.ec2}:vpc/*"]
        only      = local.is.platform
      }
      Identities = {
        actions   = ["eks:DeletePodIdentityAssociation", "eks:TagResource", "eks:UntagResource", "eks:UpdatePodIdentityAssociation"]
        resources = ["arn:${local.partition}:eks:${local.here}:podidentityassociation/payments-{platform}/*"]
        only      = local.is.environment
      }
      NewIdentities = {
        actions   = ["eks:CreatePodIdentityAssociation"]
        resources = ["arn:${local.partition}:eks:${local.here}:cluster/payments-{platform}"]
        only      = local.new.environment
      }
      NewIdentitiesTags = {
        actions   = ["eks:TagResource"]
        resources = ["arn:${local.partition}:eks:${local.here}:podidentityassociation/payments-{platform}/*"]
        only      = concat(local.new.environment, local.untagged)
      }
      Alarms = {
        actions   = ["cloudwatch:DeleteAlarms", "cloudwatch:TagResource", "cloudwatch:UntagResource", "sns:*Topic", "sns:SetTopicAttributes", "sns:Subscribe", "sns:TagResource", "sns:Unsubscribe", "sns:UntagResource"]
        resources = ["arn:${local.partition}:cloudwatch:*:${local.account}:alarm:payments-{name}-*", "arn:${local.partition}:sns:*:${local.account}:payments-{name}-*"]
      }
      AlarmsToItsOwnTopics = {
        actions   = ["cloudwatch:PutMetricAlarm"]
        resources = ["arn:${local.partition}:cloudwatch:*:${local.account}:alarm:payments-{name}-*"]
        only      = [{ test = "ForAllValues:ArnLike", variable = "cloudwatch:AlarmActions", values = ["arn:${local.partition}:sns:*:${local.account}:payments-{name}-*"] }]
      }
      Chart = {
        actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        resources = [for repository in aws_ecr_repository.this : repository.arn]
      }
      # It can be made and no more: there is nothing by which IAM tells one from another.
      HealthCheck = {
        actions   = ["route53:ChangeTagsForResource"]
        resources = ["arn:${local.partition}:route53:::healthcheck/*"]
      }
      Backup = {
        actions   = ["backup:CreateBackupVault", "backup:DeleteBackupVault", "backup:TagResource", "backup:UntagResource"]
        resources = ["arn:${local.partition}:backup:*:${local.account}:backup-vault:payments-{name}"]
      }
      BackupLock = {
        actions   = ["backup:PutBackupVaultLockConfiguration"]
        resources = ["arn:${local.partition}:backup:*:${local.account}:backup-vault:payments-{name}"]
        only      = [{ test = "NumericGreaterThanEquals", variable = "backup:MinRetentionDays", values = ["35"] }] # what settings may ask for at least
      }
      BackupPlan = {
        actions   = ["backup:*BackupPlan", "backup:*BackupSelection", "backup:TagResource", "backup:UntagResource"]
        resources = ["arn:${local.partition}:backup:${local.here}:backup-plan:*"]
        only      = local.is.environment
      }
      NewBackupPlan = {
        actions   = ["backup:CreateBackupPlan", "backup:TagResource"]
        resources = ["arn:${local.partition}:backup:${local.here}:backup-plan:*"]
        only      = concat(local.new.environment, local.untagged)
      }
      Key = {
        actions   = local.use_of_keys
        resources = ["{keys}"]
        only      = local.by_services
      }
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

  # What the network is made of, as IAM names it.
  network = [
    "elastic-ip", "instance", "internet-gateway", "natgateway", "route-table", "security-group", "security-group-rule", "subnet", "volume",
    "vpc", "vpc-endpoint", "vpc-flow-log",
  ]

  # What AWS cannot bind to a resource: it is not there yet, or has no policy of its own.
  create = {
    platform = [
      "acm:RequestCertificate", "eks:CreateCluster",
      "logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:PutResourcePolicy", # the firewall's log
    ]
    environment = [
      "route53:CreateHealthCheck", "backup-storage:MountCapsule", "ecr:GetAuthorizationToken",
    ]
  }
}

locals {
  # What bootstrap made for a platform.
  given = { for platform, p in var.platforms : platform => {
    "{keys}"  = local.keys[platform]
    "{zones}" = local.own_zones[platform]
  } }

  # Which services take a role. EC2 is who Auto Mode's nodes are handed theirs by.
  handed_to = {
    platform    = ["ec2.amazonaws.com", "eks.amazonaws.com", "pods.eks.amazonaws.com", "vpc-flow-logs.amazonaws.com"]
    environment = ["backup.amazonaws.com", "pods.eks.amazonaws.com"]
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
    sid       = "ImagesOfAmazon" # where platform/nat.tf finds its operating system
    actions   = ["ssm:GetParameter"]
    resources = ["arn:${local.partition}:ssm:${var.region}::parameter/aws/service/*"]
  }
}

# Who plans reads the state of every place, who applies that of its own.
data "aws_iam_policy_document" "read_states" {
  statement {
    sid       = "States"
    actions   = ["s3:ListBucket", "s3:GetObject"]
    resources = [aws_s3_bucket.state.arn, "${aws_s3_bucket.state.arn}/*.tfstate"]
  }

  statement {
    sid       = "StatesKey"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.this.arn]
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
      sid     = statement.key
      actions = statement.value.actions
      resources = flatten([for r in statement.value.resources :
        lookup(local.given[each.value.platform], r, [replace(replace(r, "{name}", each.value.name), "{platform}", each.value.platform)])
      ])

      dynamic "condition" {
        for_each = try(statement.value.only, [])

        content {
          test     = condition.value.test
          variable = condition.value.variable
          values   = [for v in condition.value.values : replace(replace(v, "{name}", each.value.name), "{platform}", each.value.platform)]
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
    sid       = "Roles" # with the boundary on them, and no others: boundary.tf
    actions   = ["iam:AttachRolePolicy", "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:PutRolePolicy", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy"]
    resources = [local.own_roles[each.key]]
  }

  statement {
    sid       = "RolesToServices"
    actions   = ["iam:PassRole"]
    resources = [local.own_roles[each.key]]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = local.handed_to[each.value.root]
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
    sid       = "WhereItIs"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.state.arn]
  }

  statement {
    sid       = "StateKey"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
}
