# Platform: the network, the cluster and the names that environments share. Applied twice: nonprod
# carries dev and staging, production carries production (../settings/platform-*.tfvars). What an
# environment has to itself, its database first, is in ../environment; what runs inside the cluster
# is installed by Helm (../../charts).

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "6.62.0"
    }
  }

  backend "s3" {
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project  = "payments"
      platform = var.name # what the budget of ../bootstrap/budget.tf counts
      root     = "platform"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_kms_alias" "this" {
  name = "alias/${local.name}"
}

locals {
  name      = "payments-${var.name}"
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition

  # What ../bootstrap made for this platform.
  roles    = "payments-platform-${var.name}" # how the names of its roles begin
  boundary = "arn:${local.partition}:iam::${local.account}:policy/payments-workload-platform-${var.name}"
  key_arn  = data.aws_kms_alias.this.target_key_arn
}
