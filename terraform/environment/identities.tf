# Who a pod is to AWS. EKS Pod Identity gives the pods of a service account the credentials of one
# role, and the role may log in to one database as one PostgreSQL role (../../api/migrations/roles.sql)
# and do nothing else. `payments roles --environment <name>` makes the PostgreSQL role. It has the
# environment's name, because IAM cannot name a database before it exists (../bootstrap/boundary.tf).
# Names must match ../../charts/payments: the namespace is payments-<environment>.

locals {
  namespace = local.name

  identities = {
    app      = { service_account = "payments", database_role = "payments_app_${var.name}" }
    migrator = { service_account = "payments-migrator", database_role = "payments_migrator_${var.name}" }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.identities

  name                 = "${local.roles}-${each.key}"
  description          = "Logs in to ${local.name} as ${each.value.database_role}"
  assume_role_policy   = data.aws_iam_policy_document.trust[each.key].json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "trust" {
  for_each = local.identities

  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [data.aws_eks_cluster.this.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = [local.namespace]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = [each.value.service_account]
    }
  }
}

resource "aws_iam_role_policy" "this" {
  for_each = local.identities

  name   = "log-in"
  role   = aws_iam_role.this[each.key].name
  policy = data.aws_iam_policy_document.log_in[each.key].json
}

data "aws_iam_policy_document" "log_in" {
  for_each = local.identities

  statement {
    actions   = ["rds-db:connect"]
    resources = ["arn:${local.partition}:rds-db:${var.region}:${local.account}:dbuser:${aws_db_instance.this.resource_id}/${each.value.database_role}"]
  }
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = local.identities

  cluster_name    = data.aws_eks_cluster.this.name
  namespace       = local.namespace
  service_account = each.value.service_account
  role_arn        = aws_iam_role.this[each.key].arn
}
