name     = "dev"
platform = "nonprod"
region   = "us-east-1"
host     = "dev.payments.xpto.example"
firewall = false

database = {
  engine_version       = "18"
  instance_class       = "db.t4g.micro"
  storage_gb           = 20
  multi_az             = false
  max_connections      = 80
  backup_days          = 1
  deletion_protection  = false
  performance_insights = false
}

health_check      = false
alarm_subscribers = []
