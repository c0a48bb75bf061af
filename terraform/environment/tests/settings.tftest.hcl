# What variables.tf refuses, whatever the place.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
  mock_data "aws_eks_cluster" {
    defaults = {
      arn = "arn:aws:eks:us-east-1:123456789012:cluster/payments-test"
      # OpenTofu asks for the whole object, Terraform for what is read of it.
      vpc_config = [{
        vpc_id                  = "vpc-0123456789abcdef0", cluster_security_group_id = "sg-0123456789abcdef0", control_plane_egress_mode = ""
        endpoint_private_access = true, endpoint_public_access = true, public_access_cidrs = [], security_group_ids = [], subnet_ids = []
      }]
    }
  }
  mock_data "aws_subnets" { defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] } }
  mock_data "aws_subnet" { defaults = { cidr_block = "10.0.208.0/24" } }
  mock_data "aws_kms_alias" { defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" } }
  mock_data "aws_wafv2_web_acl" { defaults = { arn = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/payments-test/00000000-0000-0000-0000-000000000000" } }
}

run "production_without_a_standby_is_refused" {
  command = plan

  variables {
    name              = "production"
    platform          = "production"
    firewall          = true
    health_check      = true
    alarm_subscribers = ["someone@xpto.example"]
    database = {
      engine_version       = "18"
      instance_class       = "db.t4g.small"
      storage_gb           = 20
      multi_az             = false
      max_connections      = 100
      backup_days          = 35
      deletion_protection  = true
      performance_insights = true
    }
  }

  expect_failures = [var.database]
}

run "dev_on_productions_platform_is_refused" {
  command = plan

  variables {
    name     = "dev"
    platform = "production"
  }

  expect_failures = [var.platform]
}

run "a_copy_in_the_same_region_is_refused" {
  command = plan

  variables {
    backup_copy = { region = "us-east-1", days = 90 }
  }

  expect_failures = [var.backup_copy]
}

run "a_minor_version_is_refused" {
  command = plan

  variables {
    name     = "dev"
    platform = "nonprod"
    database = {
      engine_version       = "18.1"
      instance_class       = "db.t4g.micro"
      storage_gb           = 20
      multi_az             = false
      max_connections      = 80
      backup_days          = 1
      deletion_protection  = false
      performance_insights = false
    }
  }

  expect_failures = [var.database]
}

run "a_check_that_tells_nobody_is_refused" {
  command = plan

  variables {
    name              = "staging"
    platform          = "nonprod"
    health_check      = true
    alarm_subscribers = []
  }

  expect_failures = [var.health_check]
}
