# What backup.tf promises: production alone has locked copies in a second region.

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

run "production_keeps_copies_in_a_second_region" {
  command = plan

  assert {
    condition     = length(aws_backup_plan.this) == (var.name == "production" ? 1 : 0)
    error_message = "Copies in a second region are production's."
  }

  assert {
    condition     = alltrue([for vault in aws_backup_vault.copy : vault.region != var.region])
    error_message = "A copy in the same region is lost with it."
  }

  assert {
    condition     = alltrue([for plan in aws_backup_plan.this : one(one(one(plan.rule).copy_action).lifecycle).delete_after == 90])
    error_message = "Copies are kept for 90 days."
  }
}

run "destroy_is_stopped_by_the_copies_alone" {
  command = plan

  assert {
    condition     = alltrue([for vault in aws_backup_vault.local : vault.force_destroy]) && alltrue([for vault in aws_backup_vault.copy : vault.force_destroy != true])
    error_message = "The vault here goes with the days it holds, the one elsewhere only when it is empty."
  }
}

run "copies_cannot_be_deleted_early" {
  command = plan

  assert {
    condition     = length(aws_backup_vault_lock_configuration.copy) == length(aws_backup_vault.copy) && alltrue([for lock in aws_backup_vault_lock_configuration.copy : lock.min_retention_days == 90 && lock.changeable_for_days != null])
    error_message = "The vault of copies is locked for as long as they are kept."
  }
}
