# What ../../charts/cluster and the Ingress of ../../charts/payments are told. ../environment asks AWS
# instead, by name, so that it never reads this state.

output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "node_role_name" {
  description = "Role that a NodeClass names; EKS already lets it join."
  value       = aws_iam_role.node.name
}

output "certificate_arn" {
  description = "Certificate of the load balancer's HTTPS listener; known once it is valid."
  value       = aws_acm_certificate_validation.this.certificate_arn
}

output "web_acl_arn" {
  description = "Firewall for the annotation alb.ingress.kubernetes.io/wafv2-acl-arn; null where there is none."
  value       = one(aws_wafv2_web_acl.this[*].arn)
}

output "name_servers" {
  description = "Where the holder of the parent domain delegates each host name."
  value       = { for environment, zone in aws_route53_zone.this : zone.name => zone.name_servers }
}
