# What alarms.tf promises.

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

run "the_database_is_watched" {
  command = plan

  assert {
    condition = join(" ", sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.metric_name if alarm.namespace == "AWS/RDS"])) == (
      length(var.alarm_subscribers) > 0 ? "CPUCreditBalance CPUUtilization DatabaseConnections FreeStorageSpace FreeableMemory" : ""
    )
    error_message = "CPU, its credits, connections, storage and memory have an alarm each, where somebody hears of it."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.threshold < var.database.max_connections if alarm.metric_name == "DatabaseConnections"])
    error_message = "The alarm on connections comes before the last one is taken."
  }

  assert {
    condition     = join(" ", sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.metric_name if alarm.comparison_operator == "GreaterThanThreshold"])) == (length(var.alarm_subscribers) > 0 ? "CPUUtilization DatabaseConnections" : "")
    error_message = "What runs out is alarmed from below, what piles up from above."
  }

  assert {
    condition     = alltrue([for subscription in aws_db_event_subscription.this : subscription.event_categories == toset(["availability", "deletion", "failover", "failure", "low storage"])]) && length(aws_db_event_subscription.this) == (length(var.alarm_subscribers) > 0 ? 1 : 0)
    error_message = "What RDS reports of itself is heard, but for what it says every day."
  }
}

run "a_backup_that_is_too_old_is_told" {
  command = plan

  assert {
    condition = join(" ", sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.metric_name if alarm.namespace == "AWS/Backup"])) == (
      var.name == "production" ? "NumberOfBackupJobsCompleted NumberOfCopyJobsCompleted" : ""
    )
    error_message = "Production's daily backup, and its copy elsewhere, are watched."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.treat_missing_data == "breaching" && alarm.period * alarm.evaluation_periods == 172800 && alarm.comparison_operator == "LessThanThreshold" if alarm.namespace == "AWS/Backup"])
    error_message = "Two days without one are an alarm, whether a job failed or none ran."
  }
}

run "a_certificate_that_is_not_renewed_is_told" {
  command = plan

  assert {
    condition     = join(" ", [for alarm in aws_cloudwatch_metric_alarm.this : alarm.threshold if alarm.metric_name == "DaysToExpiry" && alarm.comparison_operator == "LessThanThreshold"]) == (length(var.alarm_subscribers) > 0 ? "30" : "")
    error_message = "A month is left to find out why."
  }

  assert {
    condition     = data.aws_acm_certificate.this.domain == var.host && toset(data.aws_acm_certificate.this.key_types) == toset(["EC_prime256v1"])
    error_message = "It is the certificate of this host; without its kind of key AWS finds none."
  }
}

run "somebody_hears_of_it" {
  command = plan

  assert {
    condition     = length(aws_sns_topic_subscription.alarms) == length(aws_sns_topic.alarms) * length(var.alarm_subscribers) && (length(aws_sns_topic.alarms) > 0) == contains(["staging", "production"], var.name)
    error_message = "Alarms of staging and production reach a person; without one there are none."
  }

  assert {
    condition     = alltrue([for region, topic in aws_sns_topic.alarms : topic.kms_master_key_id == data.aws_kms_alias.this.target_key_arn if region == var.region])
    error_message = "The topic is encrypted with a key that CloudWatch and RDS may use."
  }
}

run "staging_and_production_are_watched_from_outside" {
  command = plan

  assert {
    condition     = length(aws_route53_health_check.this) == (contains(["staging", "production"], var.name) ? 1 : 0)
    error_message = "Staging and production are asked for /readyz from outside."
  }

  assert {
    condition     = alltrue([for check in aws_route53_health_check.this : check.type == "HTTPS" && check.resource_path == "/readyz"])
    error_message = "The check goes the way of a client, with TLS."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.outside : alarm.region == "us-east-1" && alarm.treat_missing_data == "breaching"])
    error_message = "Route 53 has its metrics in us-east-1, and silence is an alarm."
  }
}
