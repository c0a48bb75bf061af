# Bootstrap: what must be there before anything else can be applied, and outlives it: the state
# bucket, the image registry, keys, zones, the pipeline's identities and the budgets. An administrator
# applies it by hand, once an account (docs/infrastructure.md); the roots platform/ and environment/ follow.

terraform {
  required_version = ">= 1.11" # use_lockfile without DynamoDB

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "6.62.0"
    }
  }

  # Bucket, key and region come from ../run, one state a place. `encrypt` is left out: it asks S3 for a
  # key of its own, and so past the bucket's (state.tf). The very first apply has no bucket
  # yet: it starts on local state and moves it here.
  backend "s3" {
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project  = "payments"
      platform = "shared" # what carries no tag, a pipeline could tag as its own (permissions.tf)
      root     = "bootstrap"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
}
