# What differs between environments; the values are in ../settings/environment-*.tfvars, side by side.

variable "name" {
  description = "Name of the environment: its database, roles and Kubernetes namespace are payments-<name>."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,19}$", var.name))
    error_message = "name must have 2 to 20 lower-case letters and digits: longer ones pass the limits of IAM and RDS."
  }
}

variable "platform" {
  description = "Platform that it runs on: the cluster payments-<platform>."
  type        = string

  validation {
    condition     = (var.platform == "production") == (var.name == "production")
    error_message = "production runs on the platform production, alone."
  }
}

variable "region" {
  description = "Region of everything but the copies of backups and the check from outside."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of an AWS region, such as us-east-1."
  }
}

variable "database" {
  description = <<-EOT
    PostgreSQL. `engine_version`: the major version; AWS installs minor ones in the maintenance
    window. `storage_gb` grows by itself to five times its size. `max_connections` must hold the pools
    of all pods, (replicas + surge) × PAYMENTS_POOL_SIZE, and 10 for administrators. `backup_days`: how
    far back a moment can be restored. `upgrade_ready`: logical replication, which a blue/green major
    upgrade needs; off otherwise, because it writes more WAL.
  EOT
  type = object({
    engine_version       = string
    instance_class       = string
    storage_gb           = number
    multi_az             = bool
    max_connections      = number
    backup_days          = number
    deletion_protection  = bool
    performance_insights = bool
    upgrade_ready        = optional(bool, false)
  })

  validation {
    condition     = can(regex("^[0-9]{2}$", var.database.engine_version))
    error_message = "database.engine_version must be a major version, such as 18: minor ones come by themselves."
  }

  validation {
    condition     = can(regex("^db\\.[a-z]+[0-9]+g[a-z]*\\.", var.database.instance_class))
    error_message = "database.instance_class must be on Graviton, such as db.t4g.small: the same work for a tenth less."
  }

  validation {
    condition     = var.database.storage_gb >= 20 && var.database.backup_days >= 1 && var.database.backup_days <= 35
    error_message = "database.storage_gb starts at 20, and database.backup_days is 1 to 35: so says RDS."
  }

  validation {
    condition     = var.name != "production" || (var.database.multi_az && var.database.deletion_protection && var.database.backup_days == 35)
    error_message = "production has a standby, protection from deletion and 35 days of backups."
  }
}

variable "backup_copy" {
  description = "Second region that keeps a daily copy for `days`, locked against deletion; null for none."
  type = object({
    region = string
    days   = number
  })
  default = null

  validation {
    condition     = var.backup_copy == null || (try(var.backup_copy.region, "") != var.region && try(var.backup_copy.days, 0) >= 35)
    error_message = "backup_copy goes to another region, for 35 days or more: a shorter one holds nothing that the database's own backups lack."
  }
}

variable "alarm_subscribers" {
  description = "E-mail addresses that alarms go to; each must confirm once. Without one there are no alarms."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.alarm_subscribers : can(regex("^[^@ ]+@[^@ ]+$", a))]) && (var.name != "production" || length(var.alarm_subscribers) > 0)
    error_message = "alarm_subscribers must be e-mail addresses, and production has at least one."
  }
}

variable "host" {
  description = "Host name of the API; its zone is the platform's."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.host))
    error_message = "host must be a host name, without https:// and path."
  }
}

variable "firewall" {
  description = "Whether the load balancer is behind the platform's firewall."
  type        = bool

  validation {
    condition     = var.name != "production" || var.firewall
    error_message = "production is behind the firewall."
  }
}

variable "health_check" {
  description = "Whether AWS asks for https://<host>/readyz from outside every 30 s."
  type        = bool

  validation {
    condition     = (var.name != "production" || var.health_check) && (!var.health_check || length(var.alarm_subscribers) > 0)
    error_message = "production is watched from outside, and a check needs alarm_subscribers to tell."
  }
}
