# What differs from one account to the next; the values are in ../settings/bootstrap.tfvars.

variable "region" {
  description = "Region of the state, the registry and everything that the pipeline's roles may touch."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of an AWS region, such as us-east-1."
  }
}

variable "repository" {
  description = "GitHub repository whose workflows may take the pipeline's roles, as its tokens name it: owner@id/name@id. Names can be given to others, ids never are; repositories made before July 2026 have to ask for them (docs/infrastructure.md)."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9-]*@[0-9]+/[A-Za-z0-9._-]+@[0-9]+$", var.repository))
    error_message = "repository must be owner@id/name@id, without a wildcard: it decides who can change production."
  }
}

variable "state_bucket" {
  description = "Name of the bucket that holds the state of all roots; the same as in settings/state.tfbackend."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.state_bucket))
    error_message = "state_bucket must have 3 to 63 lower-case letters, digits and hyphens."
  }
}

variable "copy_region" {
  description = "Second region that keeps a copy of every image, and of the backups of platforms that ask for it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.copy_region)) && var.copy_region != var.region
    error_message = "copy_region must be another AWS region than region: a copy in the same one is lost with it."
  }
}

variable "platforms" {
  description = "The platforms, the environments on each with their host names, and what they may cost a month together; `backup_copies`: whether copy_region keeps copies of their backups. `make cost` fails above it; AWS warns at 80% and when the forecast passes it."
  type = map(object({
    hosts              = map(string)
    monthly_budget_usd = number
    backup_copies      = optional(bool, false)
  }))

  validation {
    condition     = alltrue([for p in values(var.platforms) : p.monthly_budget_usd > 0 && length(p.hosts) > 0])
    error_message = "Every platform needs an environment and a budget above 0."
  }

  validation {
    condition     = length(flatten([for p in values(var.platforms) : keys(p.hosts)])) == length(distinct(flatten([for p in values(var.platforms) : keys(p.hosts)])))
    error_message = "An environment belongs to one platform: its name stands in two."
  }
}

variable "subscribers" {
  description = "E-mail addresses that hear of a passed budget, and of attempts to take away what is to stay (trail.tf)."
  type        = set(string)

  validation {
    condition     = length(var.subscribers) > 0 && alltrue([for a in var.subscribers : can(regex("^[^@ ]+@[^@ ]+$", a))])
    error_message = "subscribers needs at least one e-mail address: an alarm needs a reader."
  }
}
