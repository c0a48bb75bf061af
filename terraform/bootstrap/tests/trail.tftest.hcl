# What trail.tf promises.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
}

run "every_call_is_recorded" {
  command = plan

  assert {
    condition     = aws_cloudtrail.this.is_multi_region_trail && aws_cloudtrail.this.enable_log_file_validation
    error_message = "The record is of all regions, and tells when somebody changed it."
  }
}

run "somebody_hears_of_attempts" {
  command = plan

  assert {
    condition     = toset(keys(aws_cloudwatch_event_rule.attempts)) == toset([var.region, var.copy_region, "us-east-1"]) && keys(aws_cloudwatch_event_target.attempts) == keys(aws_cloudwatch_event_rule.attempts)
    error_message = "Where keys and copies are, and where calls to IAM are recorded, attempts are passed on."
  }

  assert {
    condition     = alltrue([for rule in aws_cloudwatch_event_rule.attempts : length(setsubtract(["ScheduleKeyDeletion", "DeleteRecoveryPoint", "DeleteRolePermissionsBoundary", "StopLogging", "DeleteRule", "DeleteBucketPolicy", "Unsubscribe"], jsondecode(rule.event_pattern).detail.eventName)) == 0])
    error_message = "Keys, copies, boundaries and the record itself are watched."
  }

  assert {
    condition     = length(aws_sns_topic_subscription.attempts) == length(aws_sns_topic.attempts) * length(var.subscribers)
    error_message = "Every subscriber hears of every region."
  }
}
