# Environment: what dev, staging and production each have to themselves: a database, the identities
# that may log in to it, backups and alarms. It stands on a platform (platform.tf) and is applied
# three times (../settings/environment-*.tfvars).

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
      project     = "payments"
      platform    = var.platform # what the budget of ../bootstrap/budget.tf counts
      environment = var.name
      root        = "environment"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  name      = "payments-${var.name}"
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition

  # What ../bootstrap made for this environment.
  roles    = "payments-environment-${var.name}" # how the names of its roles begin
  boundary = "arn:${local.partition}:iam::${local.account}:policy/payments-workload-environment-${var.name}"
}
