# The permissions boundary: what no role of payments can ever do, whatever its policies say. Every
# role carries it, those of ../platform and ../environment too (they find it by its name), and the
# pipeline can neither change it nor make a role without it (permissions.tf).

resource "aws_iam_policy" "boundary" {
  name        = "payments-boundary"
  description = "The most that any role of payments can do"
  policy      = data.aws_iam_policy_document.boundary.json
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
      "iam:PutGroupPolicy", "iam:PutRolePermissionsBoundary", "iam:PutUserPolicy", "sts:GetFederationToken",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "NotItselfNorThePipeline"
    effect    = "Deny"
    actions   = ["iam:Create*", "iam:Delete*", "iam:Put*", "iam:Attach*", "iam:Detach*", "iam:Set*", "iam:Update*", "iam:Tag*", "iam:Untag*"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/payments-ci-*", "arn:${local.partition}:iam::${local.account}:policy/payments-boundary"]
  }

  statement {
    sid       = "StateStays"
    effect    = "Deny"
    actions   = ["s3:DeleteBucket*", "s3:DeleteObjectVersion", "s3:PutBucket*", "s3:PutLifecycleConfiguration", "s3:PutEncryptionConfiguration"]
    resources = ["arn:${local.partition}:s3:::${var.state_bucket}", "arn:${local.partition}:s3:::${var.state_bucket}/*"]
  }
}
