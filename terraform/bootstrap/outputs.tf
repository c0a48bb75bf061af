# What the pipeline is told: role ARNs as variables of its GitHub environments, registry addresses.

output "ci_role_arns" {
  description = "Role to take, by the name that .github/workflows/ gives it."
  value       = { for name, role in aws_iam_role.ci : name => role.arn }
}

output "registries" {
  description = "Where images and charts are pushed."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "name_servers" {
  description = "Where the holder of the parent domain delegates each host name that lies under none of the others."
  value       = { for environment, zone in aws_route53_zone.this : zone.name => zone.name_servers if local.parents[environment] == null }
}
