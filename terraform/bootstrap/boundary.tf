# The permissions boundaries: what no role of payments can ever do, whatever its policies say. A
# platform's is carried by the roles that apply it and by every role that these make, in ../platform
# and ../environment too (which find it by its name): who may write policies for roles of dev could
# otherwise write one that reaches production. The pipeline can neither change a boundary nor make a
# role without it (permissions.tf).

resource "aws_iam_policy" "boundary" {
  name        = "payments-boundary"
  description = "The most that any role of payments can do"
  policy      = data.aws_iam_policy_document.boundary.json
}

resource "aws_iam_policy" "platform_boundary" {
  for_each = var.platforms

  name        = "payments-boundary-${each.key}"
  description = "The most that any role of payments can do on ${each.key}"
  policy      = data.aws_iam_policy_document.platform_boundary[each.key].json
}

data "aws_iam_policy_document" "boundary" {
  # checkov:skip=CKV_AWS_49: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_107: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_108: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_109: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_111: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_356: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV2_AWS_40: a boundary grants nothing; it bounds what policies grant
  statement {
    sid = "TheServicesInUse"
    actions = [for service in [
      "acm", "autoscaling", "backup", "backup-storage", "budgets", "cloudwatch", "cognito-idp", "ec2", "ecr", "eks", "eks-auth",
      "elasticloadbalancing", "iam", "kms", "logs", "rds", "rds-db", "route53", "s3", "secretsmanager", "shield", "sns",
      "sqs", "ssm", "sts", "tag", "waf-regional", "wafv2",
    ] : "${service}:*"]
    resources = ["*"]
  }

  statement {
    sid    = "NoWayOut"
    effect = "Deny"
    actions = [
      "iam:AddClientIDToOpenIDConnectProvider", "iam:AddUserToGroup", "iam:AttachGroupPolicy", "iam:AttachUserPolicy",
      "iam:CreateAccessKey", "iam:CreateGroup", "iam:CreateLoginProfile", "iam:CreateOpenIDConnectProvider",
      "iam:CreateSAMLProvider", "iam:CreateUser", "iam:DeleteOpenIDConnectProvider", "iam:DeleteRolePermissionsBoundary",
      "iam:PutGroupPolicy", "iam:PutRolePermissionsBoundary", "iam:PutUserPolicy", "sts:AssumeRole", "sts:GetFederationToken",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "NoSecret" # the administrator's password is for people; the service logs in with tokens
    effect    = "Deny"
    actions   = ["secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"]
    resources = ["*"]
  }

  statement {
    sid       = "NotItselfNorThePipeline"
    effect    = "Deny"
    actions   = ["iam:Create*", "iam:Delete*", "iam:Put*", "iam:Attach*", "iam:Detach*", "iam:Set*", "iam:Update*", "iam:Tag*", "iam:Untag*"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/payments-ci-*", "arn:${local.partition}:iam::${local.account}:policy/payments-boundary*"]
  }

  statement {
    sid       = "StateStays"
    effect    = "Deny"
    actions   = ["s3:DeleteBucket*", "s3:DeleteObjectVersion", "s3:PutBucket*", "s3:PutLifecycleConfiguration", "s3:PutEncryptionConfiguration"]
    resources = ["arn:${local.partition}:s3:::${var.state_bucket}", "arn:${local.partition}:s3:::${var.state_bucket}/*"]
  }
}

data "aws_iam_policy_document" "platform_boundary" {
  # checkov:skip=CKV_AWS_49: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_107: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_108: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_109: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_111: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV_AWS_356: a boundary grants nothing; it bounds what policies grant
  # checkov:skip=CKV2_AWS_40: a boundary grants nothing; it bounds what policies grant
  for_each = var.platforms

  source_policy_documents = [data.aws_iam_policy_document.boundary.json]

  # Every root tags what it makes with its platform. What AWS does not compare tags of (zones and
  # their records, health checks) is bound by permissions.tf alone.
  statement {
    sid       = "NothingOfAnotherPlatform"
    effect    = "Deny"
    actions   = ["*"]
    resources = ["*"]

    condition {
      test     = "StringNotEquals"
      variable = "aws:ResourceTag/platform"
      values   = [each.key]
    }

    condition {
      test     = "Null"
      variable = "aws:ResourceTag/platform"
      values   = ["false"]
    }
  }

  statement {
    sid     = "NoStateOfAnotherPlatform"
    effect  = "Deny"
    actions = ["s3:DeleteObject", "s3:PutObject"]
    not_resources = flatten([for place, p in local.places :
      [for file in ["tfstate", "tfstate.tflock"] : "${aws_s3_bucket.state.arn}/${place}.${file}"] if p.platform == each.key
    ])
  }
}
