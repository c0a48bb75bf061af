# What variables.tf refuses, whatever the place.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
  mock_data "aws_ssm_parameter" { defaults = { value = "ami-0123456789abcdef0" } }
  mock_data "aws_kms_alias" { defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" } }
  mock_data "aws_route53_zone" { defaults = { zone_id = "Z0123456789ABCDEFGHIJ" } }
  mock_resource "aws_acm_certificate" {
    defaults = {
      domain_validation_options = [
        { domain_name = "dev.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "staging.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
      ]
    }
  }
}

run "an_api_for_everyone_is_refused" {
  command = plan

  variables {
    cluster = { version = "1.36", admin_roles = ["a"], api_cidrs = ["0.0.0.0/0"] }
  }

  expect_failures = [var.cluster]
}

run "two_zones_are_refused" {
  command = plan

  variables {
    network = { cidr = "10.9.0.0/16", zones = ["us-east-1a", "us-east-1b"], nat = { kind = "gateway", zones = 1 } }
  }

  expect_failures = [var.network]
}

run "an_unknown_kind_of_nat_is_refused" {
  command = plan

  variables {
    network = { cidr = "10.9.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nat = { kind = "magic", zones = 1 } }
  }

  expect_failures = [var.network]
}
