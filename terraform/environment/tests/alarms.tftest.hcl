# What alarms.tf promises.

mock_provider "aws" {
  source = "./tests/aws"
}

run "the_database_is_watched" {
  command = plan

  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.database : alarm.metric_name]) == toset(["CPUCreditBalance", "CPUUtilization", "DatabaseConnections", "FreeStorageSpace", "FreeableMemory"])
    error_message = "CPU, its credits, connections, storage and memory have an alarm each."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.database["connections"].threshold < var.database.max_connections
    error_message = "The alarm on connections comes before the last one is taken."
  }

  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.database : (alarm.comparison_operator == "LessThanThreshold") == contains(["storage", "memory", "credits"], name)])
    error_message = "What runs out is alarmed from below, what piles up from above."
  }
}

run "somebody_hears_of_it" {
  command = plan

  assert {
    condition     = var.name == "dev" || length(aws_sns_topic_subscription.alarms) > 0
    error_message = "Alarms of staging and production reach a person."
  }

  assert {
    condition     = aws_sns_topic.alarms[var.region].kms_master_key_id == data.aws_kms_alias.this.target_key_arn
    error_message = "The topic is encrypted with a key that CloudWatch may use."
  }
}

run "staging_and_production_are_watched_from_outside" {
  command = plan

  assert {
    condition     = length(aws_route53_health_check.this) == (var.name == "dev" ? 0 : 1)
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
