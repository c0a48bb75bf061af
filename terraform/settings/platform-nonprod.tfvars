name   = "nonprod"
region = "us-east-1"

network = {
  cidr         = "10.20.0.0/16"
  zones        = ["us-east-1a", "us-east-1b", "us-east-1c"]
  public_zones = 2
  nat          = { kind = "instance", zones = 1 }
}

cluster = {
  version             = "1.36"
  admin_roles         = ["payments-administrator"]
  api_cidrs           = ["203.0.113.0/24"] # XPTO's office and the pipeline's runners
  deletion_protection = false
}

domains = {
  dev     = "dev.payments.xpto.example"
  staging = "staging.payments.xpto.example"
}

firewall = null
