# What variables.tf refuses, whatever the place.

mock_provider "aws" {
  source = "./tests/aws"
}

run "production_without_a_standby_is_refused" {
  command = plan

  variables {
    name              = "production"
    platform          = "production"
    firewall          = true
    health_check      = true
    alarm_subscribers = ["someone@xpto.example"]
    database = {
      engine_version       = "18"
      instance_class       = "db.t4g.small"
      storage_gb           = 20
      multi_az             = false
      max_connections      = 100
      backup_days          = 35
      deletion_protection  = true
      performance_insights = true
    }
  }

  expect_failures = [var.database]
}

run "dev_on_productions_platform_is_refused" {
  command = plan

  variables {
    name     = "dev"
    platform = "production"
  }

  expect_failures = [var.platform]
}

run "a_copy_in_the_same_region_is_refused" {
  command = plan

  variables {
    backup_copy = { region = "us-east-1", days = 90 }
  }

  expect_failures = [var.backup_copy]
}

run "a_minor_version_is_refused" {
  command = plan

  variables {
    name     = "dev"
    platform = "nonprod"
    database = {
      engine_version       = "18.1"
      instance_class       = "db.t4g.micro"
      storage_gb           = 20
      multi_az             = false
      max_connections      = 80
      backup_days          = 1
      deletion_protection  = false
      performance_insights = false
    }
  }

  expect_failures = [var.database]
}
