# What AWS sees of the environment and Prometheus does not: the database from below, its backups, the
# certificate, and the service from outside. What the service says of itself is in
# ../../charts/payments/monitoring, what is spent in ../bootstrap/budget.tf. Where nobody is to hear of
# it, nothing of this is made.

locals {
  heard    = length(var.alarm_subscribers) > 0
  mebibyte = 1048576

  of_database = {
    namespace  = "AWS/RDS"
    dimensions = { DBInstanceIdentifier = aws_db_instance.this.identifier }
    statistic  = "Average"
    period     = 300 # three of them in a row
    times      = 3
    silence    = "missing"
  }

  # A day without one can be the day of an upgrade; two are a backup that is too old.
  of_backup = {
    namespace  = "AWS/Backup"
    dimensions = { BackupVaultName = local.name }
    is         = "below"
    threshold  = 1
    statistic  = "Sum"
    period     = 86400
    times      = 2
    silence    = "breaching" # a day without a job has no figure
  }

  alarms = merge(
    { for name, alarm in {
      cpu         = { metric = "CPUUtilization", is = "above", threshold = 80, why = "percent; latency grows well before 100" }
      connections = { metric = "DatabaseConnections", is = "above", threshold = floor(0.8 * var.database.max_connections), why = "of ${var.database.max_connections}; the next pods will be refused" }
      storage     = { metric = "FreeStorageSpace", is = "below", threshold = 2 * 1024 * local.mebibyte, why = "bytes; storage grows by itself at 10% free, so growing has stopped" }
      memory      = { metric = "FreeableMemory", is = "below", threshold = 64 * local.mebibyte, why = "bytes, 6% of the smallest instance; the next step is swapping" }
    } : "database-${name}" => merge(local.of_database, alarm) },
    startswith(var.database.instance_class, "db.t") ? {
      database-credits = merge(local.of_database, { metric = "CPUCreditBalance", is = "below", threshold = 60, why = "minutes of full speed left on a burstable instance; each further vCPU-hour costs $0.075" })
    } : {},
    var.backup_copy == null ? {} : {
      backup      = merge(local.of_backup, { metric = "NumberOfBackupJobsCompleted", why = "no daily backup for two days" })
      backup-copy = merge(local.of_backup, { metric = "NumberOfCopyJobsCompleted", why = "no copy in ${var.backup_copy.region} for two days" })
    },
    {
      certificate = {
        namespace  = "AWS/CertificateManager"
        metric     = "DaysToExpiry"
        dimensions = { CertificateArn = data.aws_acm_certificate.this.arn }
        is         = "below"
        threshold  = 30
        statistic  = "Minimum"
        period     = 86400 # it is measured twice a day
        times      = 1
        silence    = "missing"
        why        = "days; AWS renews 45 days before the end, so renewing has failed"
      }
    },
  )

  comparisons = { above = "GreaterThanThreshold", below = "LessThanThreshold" }
}

resource "aws_sns_topic" "alarms" {
  for_each = local.heard ? toset([var.region, "us-east-1"]) : toset([]) # Route 53 has its metrics in us-east-1, wherever the rest is

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

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for name, alarm in local.alarms : name => alarm if local.heard }

  alarm_name          = "${local.name}-${each.key}"
  alarm_description   = "${each.value.metric}: ${each.value.why}. docs/infrastructure.md#alarms"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = each.value.times
  comparison_operator = local.comparisons[each.value.is]
  threshold           = each.value.threshold
  treat_missing_data  = each.value.silence
  alarm_actions       = [aws_sns_topic.alarms[var.region].arn]
  ok_actions          = [aws_sns_topic.alarms[var.region].arn]
}

# What RDS reports of itself. Not the category `backup`, which says twice a day that all is well: how
# old a backup is, the alarms above tell.
resource "aws_db_event_subscription" "this" {
  count = local.heard ? 1 : 0

  name             = "${local.name}-database"
  sns_topic        = aws_sns_topic.alarms[var.region].arn
  source_type      = "db-instance"
  source_ids       = [aws_db_instance.this.identifier]
  event_categories = ["availability", "deletion", "failover", "failure", "low storage"]
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
