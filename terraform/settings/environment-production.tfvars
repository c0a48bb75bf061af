name     = "production"
platform = "production"
region   = "us-east-1"
host     = "payments.xpto.example"
firewall = true

database = {
  engine_version       = "18"
  instance_class       = "db.t4g.small"
  storage_gb           = 20
  multi_az             = true
  max_connections      = 180
  backup_days          = 35
  deletion_protection  = true
  performance_insights = true
}

health_check      = true
alarm_subscribers = ["payments-oncall@xpto.example"]
backup_copy       = { region = "us-west-2", days = 90 }
