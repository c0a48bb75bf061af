# What ../../charts/payments is told of this environment, and a person who operates it. No secret.

output "namespace" {
  description = "Kubernetes namespace that the identities are bound to."
  value       = local.namespace
}

output "database_host" {
  description = "Host of the database, for PAYMENTS_DATABASE_URL."
  value       = aws_db_instance.this.address
}

output "master_secret_arn" {
  description = "Where RDS keeps the administrator's password; `payments roles` needs it once."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "role_arns" {
  description = "Roles of the pods, by identity."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
