# What variables.tf refuses, whatever the place.

mock_provider "aws" {
  source = "./tests/aws"
}

run "an_api_for_everyone_is_refused" {
  command = plan

  variables {
    cluster = { version = "1.36", admin_roles = ["a"], api_cidrs = ["0.0.0.0/0"] }
  }

  expect_failures = [var.cluster]
}

run "two_zones_are_refused" {
  command = plan

  variables {
    network = { cidr = "10.9.0.0/16", zones = ["us-east-1a", "us-east-1b"], nat = { kind = "gateway", zones = 1 } }
  }

  expect_failures = [var.network]
}

run "an_unknown_kind_of_nat_is_refused" {
  command = plan

  variables {
    network = { cidr = "10.9.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nat = { kind = "magic", zones = 1 } }
  }

  expect_failures = [var.network]
}

run "a_host_outside_the_parent_zone_is_refused" {
  command = plan

  variables {
    domains       = { dev = "dev.elsewhere.example" }
    parent_domain = "payments.xpto.example"
  }

  expect_failures = [var.parent_domain]
}
