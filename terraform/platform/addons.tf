# Add-ons that Auto Mode (cluster.tf) does not bring, installed and kept by the EKS API:
# metrics-server, which the autoscaler of ../../charts/payments reads, and external-dns, which makes
# the records of its Ingresses in the zones of dns.tf.

locals {
  anywhere = [{ key = "CriticalAddonsOnly", operator = "Exists" }] # the built-in pool `system` asks for it

  addon_values = {
    metrics-server = { tolerations = local.anywhere }
    external-dns = {
      tolerations   = local.anywhere
      sources       = ["ingress"]
      domainFilters = values(var.domains)
      policy        = "sync" # a deleted Ingress takes its record along
      registry      = "txt"
      txtOwnerId    = local.name
      txtPrefix     = "%%{record_type}-owner." # keeps the owner's note of a zone's own name inside the zone
    }
  }

  addon_roles = { external-dns = aws_iam_role.external_dns.arn }
}

resource "aws_eks_addon" "this" {
  for_each = var.addons

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = each.value.version
  configuration_values        = jsonencode(lookup(local.addon_values, each.key, {}))
  resolve_conflicts_on_update = "OVERWRITE"

  dynamic "pod_identity_association" {
    for_each = { for name, arn in local.addon_roles : name => arn if name == each.key }

    content {
      service_account = pod_identity_association.key
      role_arn        = pod_identity_association.value
    }
  }
}

resource "aws_iam_role" "external_dns" {
  name                 = "${local.roles}-external-dns"
  assume_role_policy   = data.aws_iam_policy_document.external_dns_trust.json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "external_dns_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_eks_cluster.this.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = ["external-dns"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = ["external-dns"]
    }
  }
}

resource "aws_iam_role_policy" "external_dns" {
  name   = "records"
  role   = aws_iam_role.external_dns.name
  policy = data.aws_iam_policy_document.external_dns.json
}

data "aws_iam_policy_document" "external_dns" {
  # checkov:skip=CKV_AWS_356: route53:ListHostedZones knows no resource
  statement {
    sid       = "OwnZones"
    actions   = ["route53:ChangeResourceRecordSets", "route53:ListResourceRecordSets", "route53:ListTagsForResource"]
    resources = [for zone in data.aws_route53_zone.this : zone.arn]
  }

  statement {
    sid       = "FindThem"
    actions   = ["route53:ListHostedZones"]
    resources = ["*"]
  }
}
