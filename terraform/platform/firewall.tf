# The web application firewall, where the settings ask for one ($5 a month, $1 a rule and $0.60 a
# million requests). The Ingress of ../../charts/payments puts it before the load balancer by the ARN
# that outputs.tf gives.

locals {
  # Amazon's own rule groups; a rule named here only counts.
  firewall_groups = {
    AWSManagedRulesCommonRuleSet         = ["SizeRestrictions_BODY"] # it ends at 8 KB, the contract at 64 KiB
    AWSManagedRulesKnownBadInputsRuleSet = []                        # Log4Shell and its like
  }
}

resource "aws_wafv2_web_acl" "this" {
  count = var.firewall == null ? 0 : 1

  name  = local.name
  scope = "REGIONAL"

  default_action {
    allow {}
  }

  rule {
    name     = "rate"
    priority = 0

    action {
      block {
        custom_response {
          response_code = 429
        }
      }
    }

    statement {
      rate_based_statement {
        limit              = var.firewall.requests_per_5_minutes
        aggregate_key_type = "IP"
      }
    }

    visibility_config {
      metric_name                = "rate"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  dynamic "rule" {
    for_each = keys(local.firewall_groups)

    content {
      name     = rule.value
      priority = rule.key + 1

      override_action {
        none {}
      }

      statement {
        managed_rule_group_statement {
          vendor_name = "AWS"
          name        = rule.value

          dynamic "rule_action_override" {
            for_each = local.firewall_groups[rule.value]

            content {
              name = rule_action_override.value

              action_to_use {
                count {}
              }
            }
          }
        }
      }

      visibility_config {
        metric_name                = rule.value
        cloudwatch_metrics_enabled = true
        sampled_requests_enabled   = true
      }
    }
  }

  visibility_config {
    metric_name                = local.name
    cloudwatch_metrics_enabled = true
    sampled_requests_enabled   = true
  }
}

resource "aws_cloudwatch_log_group" "firewall" {
  # checkov:skip=CKV_AWS_338: blocked requests older than the setting says have no reader
  count = var.firewall == null ? 0 : 1

  name              = "aws-waf-logs-${local.name}" # AWS asks for this beginning
  retention_in_days = var.firewall.log_days
  kms_key_id        = local.key_arn
}

resource "aws_wafv2_web_acl_logging_configuration" "this" {
  count = var.firewall == null ? 0 : 1

  resource_arn            = aws_wafv2_web_acl.this[0].arn
  log_destination_configs = [aws_cloudwatch_log_group.firewall[0].arn]

  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }
    }
  }

  redacted_fields { # a blocked request may carry a valid key
    single_header {
      name = "authorization"
    }
  }
}
