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

mock_data "aws_eks_cluster" {
  defaults = {
    arn        = "arn:aws:eks:us-east-1:123456789012:cluster/payments-test"
    vpc_config = [{ vpc_id = "vpc-0123456789abcdef0", cluster_security_group_id = "sg-0123456789abcdef0" }]
  }
}

mock_data "aws_subnets" {
  defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] }
}

mock_data "aws_kms_alias" {
  defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
}

mock_data "aws_subnet" {
  defaults = { cidr_block = "10.0.208.0/24" }
}

mock_data "aws_wafv2_web_acl" {
  defaults = { arn = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/payments-test/00000000-0000-0000-0000-000000000000" }
}
