# What ci.tf, boundary.tf and budget.tf promise. What the roles may do is decoded in
# ../../testkit/tests.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
}

run "each_role_trusts_exact_subjects" {
  command = plan

  assert {
    condition = { for role, d in data.aws_iam_policy_document.ci_trust : role => one([for c in d.statement[0].condition : toset(c.values) if endswith(c.variable, ":sub")]) } == {
      plan                         = toset(["repo:xpto@1234567/payments@890123456:pull_request", "repo:xpto@1234567/payments@890123456:ref:refs/heads/main"])
      publish                      = toset(["repo:xpto@1234567/payments@890123456:environment:publish"])
      apply-platform-nonprod       = toset(["repo:xpto@1234567/payments@890123456:environment:platform-nonprod"])
      apply-platform-production    = toset(["repo:xpto@1234567/payments@890123456:environment:platform-production"])
      apply-environment-dev        = toset(["repo:xpto@1234567/payments@890123456:environment:dev"])
      apply-environment-staging    = toset(["repo:xpto@1234567/payments@890123456:environment:staging"])
      apply-environment-production = toset(["repo:xpto@1234567/payments@890123456:environment:production"])
    }
    error_message = "A role trusts this repository's branch or environment, and nothing that looks like it."
  }

  assert {
    condition     = alltrue(flatten([for d in data.aws_iam_policy_document.ci_trust : [for c in d.statement[0].condition : c.test == "StringEquals"]]))
    error_message = "Subject and audience are compared whole."
  }
}

run "every_role_is_bounded" {
  command = plan

  assert {
    condition     = toset(keys(aws_iam_role.ci)) == toset(keys(local.ci_roles)) && { for place, policy in aws_iam_policy.workload : place => policy.name } == { for place in keys(local.places) : place => "payments-workload-${place}" }
    error_message = "The boundaries of workloads have the names by which the other roots find them."
  }

  assert {
    condition     = alltrue([for role in aws_iam_role.ci : role.max_session_duration == 3600])
    error_message = "A stolen session ends within the hour."
  }
}

run "plan_reads_and_publish_pushes" {
  command = plan

  assert {
    condition     = toset([for key, p in aws_iam_role_policy.ci : p.name if startswith(key, "plan/") || startswith(key, "publish/")]) == toset(["read", "states", "publish"])
    error_message = "Neither can change what runs."
  }
}

run "spending_is_watched" {
  command = plan

  assert {
    condition     = { for name, b in aws_budgets_budget.this : name => b.limit_amount } == { account = "475", nonprod = "170", production = "305" }
    error_message = "Each platform has its budget, and the account their sum."
  }

  assert {
    condition     = alltrue([for b in aws_budgets_budget.this : toset([for n in b.notification : n.notification_type]) == toset(["ACTUAL", "FORECASTED"]) && alltrue([for n in b.notification : length(n.subscriber_email_addresses) > 0])])
    error_message = "Somebody hears of it before the month is over."
  }
}
