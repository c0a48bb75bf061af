# The record of every call in the account, and e-mail about attempts to take away keys, copies, boundaries,
# this record or its e-mail. A call that is denied is recorded like any other, and EventBridge passes on
# what is recorded. The pipeline's own calls of some of these names are reported too.

locals {
  trail_arn = "arn:${local.partition}:cloudtrail:${var.region}:${local.account}:trail/payments"

  recorded = toset([var.region, var.copy_region, "us-east-1"]) # calls to IAM, which has no region, are us-east-1's

  attempts = concat(local.copies_stay, [
    "cloudtrail:DeleteTrail", "cloudtrail:PutEventSelectors", "cloudtrail:StopLogging", "cloudtrail:UpdateTrail",
    "events:DeleteRule", "events:DisableRule", "events:RemoveTargets",
    "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeleteRolePermissionsBoundary", "iam:PutRolePermissionsBoundary", "iam:SetDefaultPolicyVersion",
    "kms:DisableKey", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion",
    "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:PutBucketLifecycle", "s3:PutBucketPolicy",
    "sns:DeleteTopic", "sns:Unsubscribe",
  ])
}

resource "aws_cloudtrail" "this" {
  # checkov:skip=CKV_AWS_252: what is to be heard of is passed on below
  # checkov:skip=CKV2_AWS_10: the same; a log group would cost by the gigabyte
  name                       = "payments"
  s3_bucket_name             = aws_s3_bucket.trail.id
  is_multi_region_trail      = true
  enable_log_file_validation = true
  kms_key_id                 = aws_kms_key.this.arn

  depends_on = [aws_s3_bucket_policy.trail]
}

resource "aws_s3_bucket" "trail" {
  # checkov:skip=CKV_AWS_18: who reads the record is in the record
  # checkov:skip=CKV_AWS_21: nothing is written twice, and CloudTrail's digests tell what was changed
  # checkov:skip=CKV_AWS_144: it is of every region already
  # checkov:skip=CKV2_AWS_62: what is to be heard of is passed on below
  bucket = "${var.state_bucket}-trail"
}

resource "aws_s3_bucket_server_side_encryption_configuration" "trail" {
  bucket = aws_s3_bucket.trail.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "trail" {
  bucket = aws_s3_bucket.trail.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "trail" {
  bucket = aws_s3_bucket.trail.id

  rule {
    id     = "old-records"
    status = "Enabled"

    filter {}

    expiration {
      days = 400 # a year, and the month in which somebody asks about it
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_s3_bucket_policy" "trail" {
  bucket = aws_s3_bucket.trail.id
  policy = data.aws_iam_policy_document.trail.json
}

data "aws_iam_policy_document" "trail" {
  statement {
    sid       = "CloudTrailLooks"
    actions   = ["s3:GetBucketAcl"]
    resources = [aws_s3_bucket.trail.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [local.trail_arn]
    }
  }

  statement {
    sid       = "CloudTrailWrites"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.trail.arn}/AWSLogs/${local.account}/*"]

    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [local.trail_arn]
    }
  }

  statement {
    sid       = "OnlyEncryptedConnections"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.trail.arn, "${aws_s3_bucket.trail.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

# EventBridge sees the calls of its own region.
resource "aws_cloudwatch_event_rule" "attempts" {
  for_each = local.recorded

  region      = each.key
  name        = "payments-attempts"
  description = "Calls that take away what is to stay; denied ones too"
  event_pattern = jsonencode({
    source      = distinct([for call in local.attempts : "aws.${split(":", call)[0]}"])
    detail-type = ["AWS API Call via CloudTrail"]
    detail      = { eventName = [for call in local.attempts : split(":", call)[1]] }
  })
}

resource "aws_cloudwatch_event_target" "attempts" {
  for_each = aws_cloudwatch_event_rule.attempts

  region = each.key
  rule   = each.value.name
  arn    = aws_sns_topic.attempts[each.key].arn

  input_transformer {
    input_paths = { action = "$.detail.eventName", who = "$.detail.userIdentity.arn", error = "$.detail.errorCode", when = "$.time" }
    # A JSON text. What is absent, as the error of a call that succeeded, stays empty.
    input_template = "\"<action> by <who> at <when>: <error>. docs/infrastructure.md#alarms\""
  }
}

resource "aws_sns_topic" "attempts" {
  # checkov:skip=CKV_AWS_26: it says who did what, which is no secret of the account's administrators; a key in each region would cost more than all else here
  for_each = local.recorded

  region = each.key
  name   = "payments-attempts"
}

resource "aws_sns_topic_policy" "attempts" {
  for_each = aws_sns_topic.attempts

  region = each.key
  arn    = each.value.arn
  policy = data.aws_iam_policy_document.attempts[each.key].json
}

data "aws_iam_policy_document" "attempts" {
  for_each = aws_sns_topic.attempts

  statement {
    sid       = "EventBridgePublishes"
    actions   = ["sns:Publish"]
    resources = [each.value.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.attempts[each.key].arn]
    }
  }
}

resource "aws_sns_topic_subscription" "attempts" {
  for_each = { for pair in setproduct(keys(aws_sns_topic.attempts), var.subscribers) : join(" ", pair) => { region = pair[0], address = pair[1] } }

  region    = each.value.region
  topic_arn = aws_sns_topic.attempts[each.value.region].arn
  protocol  = "email"
  endpoint  = each.value.address
}
