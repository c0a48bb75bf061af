# The key of what bootstrap keeps: the state (state.tf) and the images (registry.tf). Each platform
# has its own (../platform/encryption.tf).

resource "aws_kms_key" "this" {
  description         = "State and images of payments"
  policy              = data.aws_iam_policy_document.key.json
  enable_key_rotation = true
}

resource "aws_kms_alias" "this" {
  name          = "alias/payments-bootstrap"
  target_key_id = aws_kms_key.this.id
}

data "aws_iam_policy_document" "key" {
  # checkov:skip=CKV_AWS_109: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_111: the policy of a key speaks of that key alone
  # checkov:skip=CKV_AWS_356: the policy of a key speaks of that key alone, and `*` is how it says so
  statement {
    sid       = "AccountDecides"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
}
