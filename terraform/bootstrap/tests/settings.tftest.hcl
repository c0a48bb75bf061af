# What variables.tf refuses.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
}

run "every_repository_of_an_owner_is_refused" {
  command = plan

  variables {
    repository = "xpto@1234567/*"
  }

  expect_failures = [var.repository]
}

run "a_name_that_others_may_get_is_refused" {
  command = plan

  variables {
    repository = "xpto/payments"
  }

  expect_failures = [var.repository]
}

run "an_environment_on_two_platforms_is_refused" {
  command = plan

  variables {
    platforms = {
      one = { hosts = { dev = "a.xpto.example" }, monthly_budget_usd = 1 }
      two = { hosts = { dev = "b.xpto.example" }, monthly_budget_usd = 1 }
    }
  }

  expect_failures = [var.platforms]
}

run "alarms_that_tell_nobody_are_refused" {
  command = plan

  variables {
    subscribers = []
  }

  expect_failures = [var.subscribers]
}

run "a_copy_of_images_in_the_same_region_is_refused" {
  command = plan

  variables {
    copy_region = "us-east-1"
  }

  expect_failures = [var.copy_region]
}
