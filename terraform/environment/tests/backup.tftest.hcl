# What backup.tf promises: production alone has locked copies in a second region.

mock_provider "aws" {
  source = "./tests/aws"
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

run "copies_cannot_be_deleted_early" {
  command = plan

  assert {
    condition     = length(aws_backup_vault_lock_configuration.copy) == length(aws_backup_vault.copy) && alltrue([for lock in aws_backup_vault_lock_configuration.copy : lock.min_retention_days == 90 && lock.changeable_for_days != null])
    error_message = "The vault of copies is locked for as long as they are kept."
  }
}
