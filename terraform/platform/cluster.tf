# The Kubernetes cluster, EKS in Auto Mode: AWS runs nodes, storage, networking and load balancers.
# The node pool that payments runs on (Graviton; Spot in nonprod) is a Kubernetes object, in
# ../../charts/cluster; add-ons are in addons.tf, what one environment may do in ../environment.

resource "aws_eks_cluster" "this" {
  # checkov:skip=CKV_AWS_37: which logs are worth $0.50 a gigabyte is a setting; production keeps audit and authenticator
  # checkov:skip=CKV_AWS_339: the scanner's list ends before 1.36; prices/eks-calendar.json has the calendar, and a test asks it
  # checkov:skip=CKV_AWS_39: the public endpoint is off unless the settings name the networks that may reach it
  name                          = local.name
  version                       = var.cluster.version
  role_arn                      = aws_iam_role.cluster.arn
  enabled_cluster_log_types     = var.cluster.logs
  deletion_protection           = var.cluster.deletion_protection
  bootstrap_self_managed_addons = false # Auto Mode brings its own

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = false # administrators are named below, whoever applies
  }

  # Auto Mode is these three together; AWS refuses one without the others. The built-in pool
  # `system` takes only add-ons: it gives them a first node before our own pool exists, and is empty
  # once they moved to a cheaper one.
  compute_config {
    enabled       = true
    node_pools    = ["system"]
    node_role_arn = aws_iam_role.node.arn
  }

  kubernetes_network_config {
    service_ipv4_cidr = "172.20.0.0/16" # the NetworkPolicies of ../../charts name its DNS, 172.20.0.10

    elastic_load_balancing {
      enabled = true
    }
  }

  storage_config {
    block_storage {
      enabled = true
    }
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = local.key_arn
    }
  }

  upgrade_policy {
    support_type = "STANDARD" # a forgotten cluster is upgraded, not billed six times as much
  }

  vpc_config {
    subnet_ids              = [for zone in var.network.zones : aws_subnet.this["private-${zone}"].id]
    endpoint_private_access = true
    endpoint_public_access  = length(var.cluster.api_cidrs) > 0
    public_access_cidrs     = length(var.cluster.api_cidrs) > 0 ? var.cluster.api_cidrs : null
  }

  zonal_shift_config {
    enabled = true # traffic can be moved out of a failing zone; it costs nothing
  }

  # A cluster that is deleted before its policies cleans up after itself; the other way round it
  # leaves load balancers and network interfaces behind.
  depends_on = [aws_iam_role_policy.tags, aws_iam_role_policy_attachment.cluster, aws_cloudwatch_log_group.cluster]
}

resource "aws_cloudwatch_log_group" "cluster" {
  # checkov:skip=CKV_AWS_338: how long is a setting, and 30 days cover an incident's reading
  count = length(var.cluster.logs) > 0 ? 1 : 0

  name              = "/aws/eks/${local.name}/cluster" # EKS writes here, and makes it without an end if it is missing
  retention_in_days = var.cluster.log_days
  kms_key_id        = local.key_arn
}

resource "aws_iam_role" "cluster" {
  name                 = "${local.roles}-cluster"
  assume_role_policy   = data.aws_iam_policy_document.cluster_trust.json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "cluster_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "cluster" {
  for_each = toset([
    "AmazonEKSBlockStoragePolicy",
    "AmazonEKSClusterPolicy",
    "AmazonEKSComputePolicy",
    "AmazonEKSLoadBalancingPolicy",
    "AmazonEKSNetworkingPolicy",
  ])

  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

# AWS's policies create only with the tags that they know: a node with the tag `platform`, which the
# budget counts by, would be refused (EKS user guide, Auto Mode cluster IAM role, custom tags).
resource "aws_iam_role_policy" "tags" {
  name   = "create-with-tags"
  role   = aws_iam_role.cluster.name
  policy = data.aws_iam_policy_document.tags.json
}

data "aws_iam_policy_document" "tags" {
  statement {
    actions = [
      "ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:CreateNetworkInterface", "ec2:CreateSecurityGroup",
      "ec2:CreateVolume", "ec2:RunInstances", "elasticloadbalancing:CreateListener", "elasticloadbalancing:CreateLoadBalancer",
      "elasticloadbalancing:CreateRule", "elasticloadbalancing:CreateTargetGroup",
    ]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/eks:eks-cluster-name"
      values   = ["$${aws:PrincipalTag/eks:eks-cluster-name}"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/platform"
      values   = [var.name]
    }
  }
}

resource "aws_iam_role" "node" {
  name                 = "${local.roles}-node"
  assume_role_policy   = data.aws_iam_policy_document.node_trust.json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEC2ContainerRegistryPullOnly", "AmazonEKSWorkerNodeMinimalPolicy"])

  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_eks_access_entry" "admin" {
  for_each = var.cluster.admin_roles

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = "arn:${local.partition}:iam::${local.account}:role/${each.key}"
}

resource "aws_eks_access_policy_association" "admin" {
  for_each = aws_eks_access_entry.admin

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = each.value.principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"

  access_scope {
    type = "cluster"
  }
}

# The pipeline's role of each environment (../bootstrap/ci.tf) installs the chart, in its own namespace
# only. Here and not in ../environment: who may make these entries is an administrator of the cluster. The
# group is for what Kubernetes itself must grant beside: ../../charts/cluster.
resource "aws_eks_access_entry" "deploy" {
  for_each = var.domains

  cluster_name      = aws_eks_cluster.this.name
  principal_arn     = "arn:${local.partition}:iam::${local.account}:role/payments-ci-apply-environment-${each.key}"
  kubernetes_groups = ["payments-${each.key}-deployers"]
}

resource "aws_eks_access_policy_association" "deploy" {
  for_each = aws_eks_access_entry.deploy

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = each.value.principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/AmazonEKSAdminPolicy"

  access_scope {
    type       = "namespace"
    namespaces = ["payments-${each.key}"]
  }
}
