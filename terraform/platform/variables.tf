# What differs between platforms; the values are in ../settings/platform-*.tfvars, side by side.

variable "name" {
  description = "Name of the platform: the cluster is payments-<name>."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,19}$", var.name))
    error_message = "name must have 2 to 20 lower-case letters and digits: longer ones pass the limits of IAM and RDS."
  }
}

variable "region" {
  description = "Region of everything on the platform."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of an AWS region, such as us-east-1."
  }
}

variable "network" {
  description = <<-EOT
    The VPC. `zones`: the three that it spans. `public_zones`: in how many of them there is a public
    subnet, for the load balancer and NAT; each costs the load balancer a public address. `nat.kind`: `gateway`, or
    `instance` (a tenth of the price, a machine to care for). `nat.zones`: how many zones leave
    through a NAT of their own; the others use the first one's. `flow_log_days`: how long refused
    connections are kept, 0 for no record.
  EOT
  type = object({
    cidr         = string
    zones        = list(string)
    public_zones = optional(number, 2)
    nat = object({
      kind  = string
      zones = number
    })
    flow_log_days = optional(number, 0)
  })

  validation {
    condition     = can(cidrnetmask(var.network.cidr)) && endswith(var.network.cidr, "/16")
    error_message = "network.cidr must be an IPv4 /16: subnets are cut from it by position."
  }

  validation {
    condition     = length(distinct(var.network.zones)) == 3 && alltrue([for z in var.network.zones : startswith(z, var.region)])
    error_message = "network.zones must be three zones of the region: what loses one has two left."
  }

  validation {
    condition     = contains([2, 3], var.network.public_zones)
    error_message = "network.public_zones must be 2 or 3: a load balancer needs two zones."
  }

  validation {
    condition     = contains(["gateway", "instance"], var.network.nat.kind) && var.network.nat.zones >= 1 && var.network.nat.zones <= var.network.public_zones
    error_message = "network.nat.kind must be gateway or instance, in 1 to public_zones zones."
  }
}

variable "cluster" {
  description = <<-EOT
    The Kubernetes cluster. `api_cidrs`: who may reach its API from outside the VPC; none makes the
    API private. `admin_roles`: names (with path) of IAM roles that may do everything in it. `logs`:
    which control-plane logs are kept, `log_days` long. `deletion_protection`: AWS refuses to delete
    it while this is on.
  EOT
  type = object({
    version             = string
    admin_roles         = set(string)
    api_cidrs           = optional(set(string), [])
    logs                = optional(set(string), [])
    log_days            = optional(number, 30)
    deletion_protection = optional(bool, true)
  })

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.cluster.version))
    error_message = "cluster.version must be a Kubernetes minor version, such as 1.36."
  }

  validation {
    condition     = alltrue([for c in var.cluster.api_cidrs : can(cidrnetmask(c)) && tonumber(split("/", c)[1]) >= 16])
    error_message = "cluster.api_cidrs must be IPv4 networks of /16 or smaller: the API is not for the whole internet."
  }

  validation {
    condition     = length(setsubtract(var.cluster.logs, ["api", "audit", "authenticator", "controllerManager", "scheduler"])) == 0
    error_message = "cluster.logs may hold api, audit, authenticator, controllerManager and scheduler."
  }

  validation {
    condition     = length(var.cluster.admin_roles) > 0
    error_message = "cluster.admin_roles must name a role: nobody is an administrator by having made the cluster."
  }
}

variable "addons" {
  description = "EKS add-ons beside those that Auto Mode brings. `version`: null takes the cluster version's default when the add-on is made."
  type        = map(object({ version = optional(string) }))
  default     = { metrics-server = {}, external-dns = {} }
}

variable "domains" {
  description = "Host name of each environment on this platform; the zones are those of ../bootstrap."
  type        = map(string)

  validation {
    condition     = length(var.domains) > 0 && alltrue([for d in values(var.domains) : can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", d))])
    error_message = "domains must map each environment to a host name in lower case, without a dot at the end."
  }
}

variable "firewall" {
  description = "Web application firewall of the load balancer; null for none. `requests_per_5_minutes`: what one address may send. `log_days`: how long blocked requests are kept."
  type = object({
    requests_per_5_minutes = number
    log_days               = optional(number, 30)
  })
  default = null

  validation {
    condition     = var.firewall == null || try(var.firewall.requests_per_5_minutes >= 100, false)
    error_message = "firewall.requests_per_5_minutes must be at least 100, the least that a browser with a page of pictures needs."
  }
}
