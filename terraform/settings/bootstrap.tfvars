region       = "us-east-1"
repository   = "xpto@1234567/payments@890123456"
state_bucket = "xpto-payments-state"
copy_region  = "us-west-2"

platforms = {
  nonprod = {
    hosts              = { dev = "dev.payments.xpto.example", staging = "staging.payments.xpto.example" }
    monthly_budget_usd = 170
  }
  production = {
    hosts              = { production = "payments.xpto.example" }
    monthly_budget_usd = 305 # 300 was the aim: docs/cost.md
    backup_copies      = true
  }
}

subscribers = ["payments-oncall@xpto.example"]
