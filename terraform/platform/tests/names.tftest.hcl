# What dns.tf and firewall.tf promise.

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

run "every_host_has_a_certificate" {
  command = plan

  assert {
    condition     = tomap({ for environment, c in aws_acm_certificate.this : environment => c.domain_name }) == tomap(var.domains)
    error_message = "Every environment's host has a certificate of its own."
  }

  assert {
    condition     = alltrue([for c in aws_acm_certificate.this : c.validation_method == "DNS"]) && toset(keys(aws_route53_record.validation)) == toset(keys(var.domains)) && toset(keys(aws_acm_certificate_validation.this)) == toset(keys(var.domains))
    error_message = "It is validated, and renewed, by records that Terraform makes."
  }
}

run "production_is_behind_a_firewall" {
  command = plan

  assert {
    condition     = length(aws_wafv2_web_acl.this) == (var.name == "production" ? 1 : 0)
    error_message = "Production has the firewall; nonprod saves its $8 a month."
  }

  assert {
    condition     = alltrue([for acl in aws_wafv2_web_acl.this : acl.scope == "REGIONAL" && toset(acl.rule[*].name) == toset(["rate", "AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"])])
    error_message = "It limits the rate of an address, and knows the usual attacks."
  }

  assert {
    condition     = alltrue([for acl in aws_wafv2_web_acl.this : length(one([for r in acl.rule : r if r.name == "rate"]).action[0].block) == 1])
    error_message = "Too many requests are blocked, not only counted."
  }

  assert {
    condition     = alltrue([for log in aws_wafv2_web_acl_logging_configuration.this : log.redacted_fields[0].single_header[0].name == "authorization"])
    error_message = "Keys of clients do not get into the log."
  }
}
