# What AWS sees of the environment and Prometheus does not: the database from below, and the service
# from outside. What the service says of itself is in ../../charts/payments/monitoring.

locals {
  mebibyte = 1048576

  # Each is an average over five minutes, three times in a row.
  database_alarms = {
    cpu         = { metric = "CPUUtilization", is = "above", threshold = 80, why = "percent; latency grows well before 100" }
    connections = { metric = "DatabaseConnections", is = "above", threshold = floor(0.8 * var.database.max_connections), why = "of ${var.database.max_connections}; the next pods will be refused" }
    storage     = { metric = "FreeStorageSpace", is = "below", threshold = 2 * 1024 * local.mebibyte, why = "bytes; storage grows by itself at 10% free, so growing has stopped" }
    memory      = { metric = "FreeableMemory", is = "below", threshold = 128 * local.mebibyte, why = "bytes; the next step is swapping" }
    credits     = { metric = "CPUCreditBalance", is = "below", threshold = 60, why = "minutes of full speed left on a burstable instance" }
  }

  comparisons = { above = "GreaterThanThreshold", below = "LessThanThreshold" }
}

resource "aws_sns_topic" "alarms" {
  for_each = toset([var.region, "us-east-1"]) # Route 53 has its metrics in us-east-1, wherever the rest is

  region            = each.key
  name              = "${local.name}-alarms"
  kms_master_key_id = each.key == var.region ? local.key_arn : null # a key does not leave its region
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each = merge([for region, topic in aws_sns_topic.alarms : {
    for address in var.alarm_subscribers : "${region} ${address}" => { region = region, topic_arn = topic.arn, address = address }
  }]...)

  region    = each.value.region
  topic_arn = each.value.topic_arn
  protocol  = "email"
  endpoint  = each.value.address
}

resource "aws_cloudwatch_metric_alarm" "database" {
  for_each = { for name, alarm in local.database_alarms : name => alarm if name != "credits" || startswith(var.database.instance_class, "db.t") }

  alarm_name          = "${local.name}-database-${each.key}"
  alarm_description   = "${each.value.metric}: ${each.value.why}. docs/infrastructure.md#alarms"
  namespace           = "AWS/RDS"
  metric_name         = each.value.metric
  dimensions          = { DBInstanceIdentifier = aws_db_instance.this.identifier }
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = local.comparisons[each.value.is]
  threshold           = each.value.threshold
  alarm_actions       = [aws_sns_topic.alarms[var.region].arn]
  ok_actions          = [aws_sns_topic.alarms[var.region].arn]
}

# From outside: name, certificate, load balancer, service and database, as a client meets them.
resource "aws_route53_health_check" "this" {
  count = var.health_check ? 1 : 0

  type              = "HTTPS"
  fqdn              = var.host
  port              = 443
  resource_path     = "/readyz"
  request_interval  = 30
  failure_threshold = 3

  tags = { Name = local.name }
}

resource "aws_cloudwatch_metric_alarm" "outside" {
  count = var.health_check ? 1 : 0

  region              = "us-east-1"
  alarm_name          = "${local.name}-outside"
  alarm_description   = "https://${var.host}/readyz fails from most places. docs/infrastructure.md#alarms"
  namespace           = "AWS/Route53"
  metric_name         = "HealthCheckStatus"
  dimensions          = { HealthCheckId = aws_route53_health_check.this[0].id }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 2
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching" # a check that says nothing is no good news
  alarm_actions       = [aws_sns_topic.alarms["us-east-1"].arn]
  ok_actions          = [aws_sns_topic.alarms["us-east-1"].arn]
}
