region       = "us-east-1"
repository   = "xpto@1234567/payments@890123456"
state_bucket = "xpto-payments-state"

platforms = {
  nonprod = {
    environments       = ["dev", "staging"]
    monthly_budget_usd = 170
  }
  production = {
    environments       = ["production"]
    monthly_budget_usd = 300
  }
}

budget_subscribers = ["payments-oncall@xpto.example"]
