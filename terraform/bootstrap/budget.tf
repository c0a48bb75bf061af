# What may be spent. A platform's budget counts what carries its tag `platform` (activate the tag
# once under Billing, docs/infrastructure.md); the account's counts all. The same figures stop
# `make cost` before anything is applied.

locals {
  budgets = merge(
    { account = { limit_usd = sum([for p in values(var.platforms) : p.monthly_budget_usd]), tag = null } },
    { for name, p in var.platforms : name => { limit_usd = p.monthly_budget_usd, tag = format("user:platform$%s", name) } },
  )
}

resource "aws_budgets_budget" "this" {
  for_each = local.budgets

  name         = "payments-${each.key}"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(each.value.limit_usd)
  limit_unit   = "USD"

  dynamic "cost_filter" {
    for_each = each.value.tag[*]

    content {
      name   = "TagKeyValue"
      values = [cost_filter.value]
    }
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }

    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.key
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.subscribers
    }
  }
}
