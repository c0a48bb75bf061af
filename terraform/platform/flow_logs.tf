# A record of refused connections in the VPC (network.tf), where the setting asks for one. Accepted
# ones are many, cost $0.50 a gigabyte, and are in the load balancer's and the service's own logs.

resource "aws_flow_log" "this" {
  count = var.network.flow_log_days > 0 ? 1 : 0

  vpc_id                   = aws_vpc.this.id
  traffic_type             = "REJECT"
  max_aggregation_interval = 600 # seconds; the other choice, 60, writes up to ten times as much
  log_destination          = aws_cloudwatch_log_group.flow[0].arn
  iam_role_arn             = aws_iam_role.flow[0].arn
}

resource "aws_cloudwatch_log_group" "flow" {
  # checkov:skip=CKV_AWS_338: refused connections older than the setting says have no reader
  count = var.network.flow_log_days > 0 ? 1 : 0

  name              = "/aws/vpc/${local.name}"
  retention_in_days = var.network.flow_log_days
  kms_key_id        = local.key_arn
}

resource "aws_iam_role" "flow" {
  count = var.network.flow_log_days > 0 ? 1 : 0

  name                 = "${local.roles}-flow-logs"
  assume_role_policy   = data.aws_iam_policy_document.flow_trust.json
  permissions_boundary = local.boundary
}

data "aws_iam_policy_document" "flow_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["vpc-flow-logs.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role_policy" "flow" {
  count = var.network.flow_log_days > 0 ? 1 : 0

  name   = "write"
  role   = aws_iam_role.flow[0].name
  policy = data.aws_iam_policy_document.flow[0].json
}

data "aws_iam_policy_document" "flow" {
  count = var.network.flow_log_days > 0 ? 1 : 0

  statement {
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = [aws_cloudwatch_log_group.flow[0].arn, "${aws_cloudwatch_log_group.flow[0].arn}:*"]
  }
}
