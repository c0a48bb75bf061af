# What identities.tf promises. What the roles may do is decoded in ../../testkit/tests.

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

run "a_pods_identity_is_its_namespace_and_service_account" {
  command = plan

  assert {
    condition = { for name, a in aws_eks_pod_identity_association.this : name => [a.namespace, a.service_account] } == {
      app      = ["payments-${var.name}", "payments"]
      migrator = ["payments-${var.name}", "payments-migrator"]
    }
    error_message = "The identities are those of the chart's two service accounts, in this environment's namespace."
  }
}

run "every_role_is_bounded" {
  command = plan

  assert {
    condition     = alltrue([for role in concat(values(aws_iam_role.this), aws_iam_role.backup) : endswith(role.permissions_boundary, ":policy/payments-workload-environment-${var.name}")])
    error_message = "Every role carries the boundary."
  }
}
