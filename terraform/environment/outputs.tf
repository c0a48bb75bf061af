# What ../../charts/payments and a person who operates it are told of this environment. No secret.

output "helm_values" {
  description = "What only AWS knows, as values of ../../charts/payments; installed in the namespace payments-<name>."
  value = yamlencode({
    database = {
      host   = aws_db_instance.this.address
      region = var.region
      users  = { for name, identity in local.identities : name => identity.database_role }
    }
    ingress = {
      host      = var.host
      wafAclArn = join("", data.aws_wafv2_web_acl.this[*].arn)
    }
    networkPolicy = {
      clients  = [for id in data.aws_subnets.public.ids : { ipBlock = { cidr = data.aws_subnet.this[id].cidr_block } }]
      database = [for id in data.aws_subnets.database.ids : { ipBlock = { cidr = data.aws_subnet.this[id].cidr_block } }]
    }
  })
}

output "master_secret_arn" {
  description = "Where RDS keeps the administrator's password; `payments roles` needs it once."
  value       = one(aws_db_instance.this.master_user_secret[*].secret_arn)
}

output "role_arns" {
  description = "Roles of the pods, by identity."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
