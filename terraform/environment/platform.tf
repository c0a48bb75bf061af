# What this environment stands on, asked of AWS by name: ../platform made it. Reading its state
# instead would show every value of the platform to whoever may plan dev.

data "aws_eks_cluster" "this" {
  name = "payments-${var.platform}"
}

data "aws_subnets" "database" {
  filter {
    name   = "vpc-id"
    values = [local.vpc_id]
  }

  tags = { tier = "database" }
}

data "aws_subnets" "public" {
  filter {
    name   = "vpc-id"
    values = [local.vpc_id]
  }

  tags = { tier = "public" } # where the load balancer is
}

# Their addresses are what the NetworkPolicies of ../../charts/payments allow.
data "aws_subnet" "this" {
  for_each = toset(concat(data.aws_subnets.database.ids, data.aws_subnets.public.ids))

  id = each.key
}

data "aws_wafv2_web_acl" "this" {
  count = var.firewall ? 1 : 0

  name  = "payments-${var.platform}"
  scope = "REGIONAL"
}

# Of the host's name, with the key that ../platform/dns.tf asks for: without `key_types` only RSA is found.
data "aws_acm_certificate" "this" {
  domain      = var.host
  statuses    = ["ISSUED"]
  key_types   = ["EC_prime256v1"]
  most_recent = true
}

data "aws_kms_alias" "this" {
  name = "alias/payments-${var.platform}"
}

locals {
  vpc_id                    = data.aws_eks_cluster.this.vpc_config[0].vpc_id
  cluster_security_group_id = data.aws_eks_cluster.this.vpc_config[0].cluster_security_group_id # every Auto Mode node is in it
  key_arn                   = data.aws_kms_alias.this.target_key_arn
}
