name   = "production"
region = "us-east-1"

network = {
  cidr          = "10.30.0.0/16"
  zones         = ["us-east-1a", "us-east-1b", "us-east-1c"]
  public_zones  = 2
  nat           = { kind = "gateway", zones = 2 }
  flow_log_days = 30
}

cluster = {
  version     = "1.36"
  admin_roles = ["payments-administrator"]
  api_cidrs   = ["203.0.113.0/24"] # XPTO's office and the pipeline's runners
  logs        = ["audit", "authenticator"]
  log_days    = 90
}

domains = {
  production = "payments.xpto.example"
}

firewall = { requests_per_5_minutes = 6000 } # 20 a second from one address; a client's peak is 5
