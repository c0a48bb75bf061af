# What AWS would answer: values of the right form, so that the real provider takes them too.

mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" } # the documents themselves are decoded in ../../testkit/tests
}

mock_data "aws_ssm_parameter" {
  defaults = { value = "ami-0123456789abcdef0" }
}

mock_data "aws_route53_zone" {
  defaults = { zone_id = "Z0123456789ABCDEFGHIJ" }
}
