# What state.tf, encryption.tf, registry.tf and dns.tf promise.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
}

run "the_state_is_encrypted_and_versioned" {
  command = plan

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.state.rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
    error_message = "The state is encrypted with our own key."
  }

  assert {
    condition     = one(aws_s3_bucket_versioning.state.versioning_configuration).status == "Enabled"
    error_message = "An overwritten state can be had back."
  }

  assert {
    condition     = aws_kms_key.this.enable_key_rotation && alltrue([for key in concat(values(aws_kms_key.platform), values(aws_kms_key.copy)) : key.enable_key_rotation && key.deletion_window_in_days == 30])
    error_message = "Every key rotates, and a deletion can be taken back for a month."
  }
}

run "the_state_is_not_public" {
  command = plan

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.state.block_public_acls,
      aws_s3_bucket_public_access_block.state.block_public_policy,
      aws_s3_bucket_public_access_block.state.ignore_public_acls,
      aws_s3_bucket_public_access_block.state.restrict_public_buckets,
    ])
    error_message = "Nothing can make the bucket public."
  }

  assert {
    condition     = one(aws_s3_bucket_ownership_controls.state.rule).object_ownership == "BucketOwnerEnforced"
    error_message = "Access lists of objects are off."
  }
}

run "the_state_refuses_plain_http" {
  command = plan

  assert {
    condition = (
      data.aws_iam_policy_document.state.statement[0].effect == "Deny" &&
      data.aws_iam_policy_document.state.statement[0].actions == toset(["s3:*"]) &&
      one(data.aws_iam_policy_document.state.statement[0].condition).variable == "aws:SecureTransport"
    )
    error_message = "Requests without TLS are denied."
  }
}

run "the_state_takes_no_other_key" {
  command = plan

  assert {
    condition = (
      data.aws_iam_policy_document.state.statement[1].effect == "Deny" &&
      toset(data.aws_iam_policy_document.state.statement[1].actions) == toset(["s3:PutObject"]) &&
      { for c in data.aws_iam_policy_document.state.statement[1].condition : c.test => one(c.values) if c.variable == "s3:x-amz-server-side-encryption" } == { Null = "false", StringNotEquals = "aws:kms" }
    )
    error_message = "Who asks S3 for another encryption than the bucket's is refused."
  }
}

run "images_cannot_be_replaced" {
  command = plan

  assert {
    condition     = alltrue([for r in aws_ecr_repository.this : r.image_tag_mutability == "IMMUTABLE"])
    error_message = "A tag means one image for ever."
  }

  assert {
    condition     = alltrue([for r in aws_ecr_repository.this : one(r.image_scanning_configuration).scan_on_push && one(r.encryption_configuration).encryption_type == "KMS"])
    error_message = "Images are scanned when they arrive, and encrypted with our own key."
  }
}

run "old_images_end" {
  command = plan

  assert {
    condition     = alltrue([for p in aws_ecr_lifecycle_policy.this : length(jsondecode(p.policy).rules) == 3]) && keys(aws_ecr_lifecycle_policy.this) == keys(aws_ecr_repository.this)
    error_message = "Every repository forgets what nobody needs."
  }

  assert {
    condition     = alltrue([for p in aws_ecr_lifecycle_policy.this : jsondecode(p.policy).rules[0].rulePriority == 1 && jsondecode(p.policy).rules[0].selection.tagPrefixList == ["v"] && jsondecode(p.policy).rules[0].selection.countType == "sinceImagePushed"])
    error_message = "Releases end by age: whatever is pushed never pushes out what production runs."
  }
}

run "images_outlive_the_region" {
  command = plan

  assert {
    condition     = one(one(one(aws_ecr_replication_configuration.this.replication_configuration).rule).destination).region == var.copy_region
    error_message = "Every image is copied to a second region."
  }

  assert {
    condition     = aws_ecr_repository_creation_template.copy.region == var.copy_region && aws_ecr_repository_creation_template.copy.applied_for == toset(["REPLICATION"])
    error_message = "The repositories of the copies are made as the template says."
  }

  assert {
    condition     = aws_ecr_repository_creation_template.copy.image_tag_mutability == "IMMUTABLE" && alltrue([for p in aws_ecr_lifecycle_policy.this : p.policy == aws_ecr_repository_creation_template.copy.lifecycle_policy])
    error_message = "There, too, a tag means one image, and what nobody needs ends."
  }
}

run "hosts_are_delegated_where_the_parent_is_here" {
  command = plan

  assert {
    condition     = { for environment, zone in aws_route53_zone.this : environment => zone.name } == { dev = "dev.payments.xpto.example", staging = "staging.payments.xpto.example", production = "payments.xpto.example" }
    error_message = "Every host has a zone of its own."
  }

  assert {
    condition     = { for environment, record in aws_route53_record.delegation : environment => record.type } == { dev = "NS", staging = "NS" }
    error_message = "Production's zone points at those of the hosts below it."
  }
}
